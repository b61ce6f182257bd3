"""Figures of a result, sized for TensorBoard's image panel and drawn without pyplot.

pyplot keeps every figure of a process alive and picks a backend that may need a screen; these
are plain `Figure` objects that belong to their caller.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pneumonia.evaluation import curves, metrics
from pneumonia.evaluation.abstention import Band
from pneumonia.evaluation.inputs import check_labels, check_probabilities
from pneumonia.evaluation.metrics import Confusion
from pneumonia.evaluation.verdict import counts
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

COLOURS = ("#0072B2", "#D55E00")
"""Colour by label: blue and vermilion of Okabe and Ito, told apart by colour-blind readers."""

SIZE = (5.0, 4.0)
"""Inches; 500 x 400 pixels at `DPI`."""

DPI = 100
BINS = 40

_REFERENCE: dict[str, Any] = {"color": "0.45", "linestyle": "--", "linewidth": 1}
_CURVE: dict[str, Any] = {"color": "black", "linewidth": 1.8}


def canvas(size: tuple[float, float] = SIZE) -> Figure:
    """Make an empty figure that can be rendered without a screen.

    Args:
        size: Width and height in inches, at `DPI` dots per inch.

    Returns:
        A figure with an Agg canvas, known to nobody but the caller.
    """
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def roc(labels: ArrayLike, scores: ArrayLike) -> Figure:
    """Draw the receiver operating characteristic.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        scores: Shape (n,), finite; raw logits rank best.

    Returns:
        The figure; its title gives the AUROC.

    Raises:
        EvaluationError: If the labels are not of both classes or a score is not finite.
    """
    curve = curves.roc(labels, scores)
    figure, axes = _unit_square(f"ROC: AUROC {metrics.auroc(labels, scores):.3f}")
    axes.plot(curve.false_positive_rate, curve.true_positive_rate, label=_sizes(labels), **_CURVE)
    axes.plot([0, 1], [0, 1], label="chance", **_REFERENCE)
    axes.set_xlabel("1 - specificity (false alarms)")
    axes.set_ylabel("recall (sensitivity)")
    axes.legend(loc="lower right")
    return figure


def precision_recall(labels: ArrayLike, scores: ArrayLike) -> Figure:
    """Draw precision over recall, beside the prevalence that a random ranking would give.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        scores: Shape (n,), finite; raw logits rank best.

    Returns:
        The figure; its title gives the average precision.

    Raises:
        EvaluationError: If the labels are not of both classes or a score is not finite.
    """
    curve = curves.precision_recall(labels, scores)
    average = metrics.average_precision(labels, scores)
    prevalence = float(np.mean(check_labels(labels)))
    figure, axes = _unit_square(f"Precision-recall: average precision {average:.3f}")
    axes.plot(curve.recall, curve.precision, drawstyle="steps-post", label=_sizes(labels), **_CURVE)
    axes.axhline(prevalence, label=f"prevalence {prevalence:.3f}", **_REFERENCE)
    axes.set_xlabel("recall (sensitivity)")
    axes.set_ylabel("precision")
    axes.legend(loc="lower left")
    return figure


def confusion_matrix(confusion: Confusion) -> Figure:
    """Draw the four counts with their share of the row, that is of the images of one class.

    Args:
        confusion: The four counts.

    Returns:
        The figure; its title gives recall and specificity.
    """
    c = confusion
    cells = np.array([[c.tn, c.fp], [c.fn, c.tp]])
    shares = cells / cells.sum(axis=1, keepdims=True)
    figure = canvas()
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(cells):
        share = shares[row, column]
        axes.text(
            column,
            row,
            f"{count}\n{share:.1%}",
            ha="center",
            va="center",
            fontsize=15,
            color="white" if share > 0.5 else "black",  # noqa: PLR2004 - half of the colour map
        )
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set_yticks(range(len(CLASSES)), CLASSES, rotation=90, va="center")
    axes.set_xlabel("called")
    axes.set_ylabel("labelled")
    axes.set_title(f"Recall {c.sensitivity:.3f}, specificity {c.specificity:.3f}")
    return figure


def histogram(
    labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5, band: Band | None = None
) -> Figure:
    """Draw how many images of each class got which probability, on a logarithmic scale.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        probabilities: Shape (n,), in [0, 1].
        threshold: In [0, 1]; PNEUMONIA means probability >= threshold.
        band: In which images are left undecided, shaded; None for none.

    Returns:
        The figure; its title gives the errors of both kinds at the threshold.

    Raises:
        EvaluationError: If the labels are not of both classes, or a probability or the threshold
            lies outside [0, 1].
    """
    truth = check_labels(labels)
    values = check_probabilities(probabilities, truth.size)
    errors = metrics.confusion(truth, metrics.called_pneumonia(values, threshold))
    figure = canvas()
    axes = figure.add_subplot()
    tallest = 0.0
    for label in (NORMAL, PNEUMONIA):
        of_class = values[truth == label]
        heights, _, _ = axes.hist(
            of_class,
            bins=BINS,
            range=(0, 1),
            histtype="stepfilled",
            facecolor=(COLOURS[label], 0.35),
            edgecolor=COLOURS[label],
            linewidth=1.5,
            label=f"{CLASSES[label]} (n = {of_class.size})",
        )
        tallest = max(tallest, float(np.max(heights)))
    axes.axvline(threshold, label=f"threshold {threshold:.3g}", **_REFERENCE)
    if band is not None:
        axes.axvspan(
            band.lower, min(band.upper, 1), color="0.87", lw=0, zorder=0, label="uncertain"
        )
    axes.set_yscale("log")
    axes.set_ylim(0.7, max(10.0, 1.3 * tallest))  # below 1, so that a bin of one image is seen
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"probability of {CLASSES[PNEUMONIA]}")
    axes.set_ylabel("images (log scale)")
    figure.suptitle(f"At {threshold:.3g} it {counts(errors)}", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3 if band is None else 2, fontsize=8)
    return figure


def _unit_square(title: str) -> tuple[Figure, Axes]:
    """Make a figure for a curve of rates, with room around 0 and 1 so that its ends are seen."""
    figure = canvas()
    axes = figure.add_subplot()
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.25)
    axes.set_title(title)
    return figure, axes


def _sizes(labels: ArrayLike) -> str:
    truth = check_labels(labels)
    return (
        f"{np.count_nonzero(truth)} {CLASSES[PNEUMONIA]}, "
        f"{np.count_nonzero(~truth)} {CLASSES[NORMAL]}"
    )
