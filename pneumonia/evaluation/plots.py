"""Figures of a result, sized for TensorBoard's image panel and drawn without pyplot.

pyplot keeps every figure of a process alive and picks a backend that may need a screen; these
are plain `Figure` objects that belong to their caller.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import metrics
from pneumonia.evaluation.abstention import Abstention
from pneumonia.evaluation.calibration import reliability
from pneumonia.evaluation.evaluate import DecisionCurve, EvaluationResult
from pneumonia.evaluation.metrics import Confusion
from pneumonia.evaluation.predictions import (
    PredictionTable,
    check_labels,
    check_threshold,
    sigmoid,
)
from pneumonia.evaluation.report.wording import counts
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

COLOURS = ("#0072B2", "#D55E00")
"""Colour by label: blue and vermilion of Okabe and Ito, told apart by colour-blind readers."""

SIZE = (5.0, 4.0)
"""Inches; 500 x 400 pixels at `DPI`."""

DPI = 100
BINS = 40

_REFERENCE: dict[str, Any] = {"color": "0.45", "linestyle": "--", "linewidth": 1}
_CURVE: dict[str, Any] = {"color": "black", "linewidth": 1.8}


def new_figure(size: tuple[float, float] = SIZE) -> Figure:
    """Make an empty figure that can be rendered without a screen.

    Args:
        size: Width and height in inches, at `DPI` dots per inch.

    Returns:
        A figure with an Agg canvas, known to nobody but the caller.
    """
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_roc(labels: ArrayLike, scores: ArrayLike) -> Figure:
    """Draw the receiver operating characteristic.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        scores: Shape (n,), finite; raw logits rank best.

    Returns:
        The figure; its title gives the AUROC.

    Raises:
        EvaluationError: If the labels are not of both classes or a score is not finite.
    """
    truth = check_labels(labels)
    fpr, tpr, _ = roc_curve(truth, scores)
    figure, axes = _unit_square(f"ROC: AUROC {roc_auc_score(truth, scores):.3f}")
    axes.plot(fpr, tpr, label=_sizes(labels), **_CURVE)
    axes.plot([0, 1], [0, 1], label="chance", **_REFERENCE)
    axes.set_xlabel("1 - specificity (false alarms)")
    axes.set_ylabel("recall (sensitivity)")
    axes.legend(loc="lower right")
    return figure


def plot_precision_recall(labels: ArrayLike, scores: ArrayLike) -> Figure:
    """Draw precision over recall, beside the prevalence that a random ranking would give.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        scores: Shape (n,), finite; raw logits rank best.

    Returns:
        The figure; its title gives the average precision.

    Raises:
        EvaluationError: If the labels are not of both classes or a score is not finite.
    """
    truth = check_labels(labels)
    precision, recall, _ = precision_recall_curve(truth, scores)
    average = average_precision_score(truth, scores)
    prevalence = float(np.mean(truth))
    figure, axes = _unit_square(f"Precision-recall: average precision {average:.3f}")
    axes.plot(recall, precision, drawstyle="steps-post", label=_sizes(labels), **_CURVE)
    axes.axhline(prevalence, label=f"prevalence {prevalence:.3f}", **_REFERENCE)
    axes.set_xlabel("recall (sensitivity)")
    axes.set_ylabel("precision")
    axes.legend(loc="lower left")
    return figure


def plot_confusion_matrix(confusion: Confusion) -> Figure:
    """Draw the four counts with their share of the row, that is of the images of one class.

    Args:
        confusion: The four counts.

    Returns:
        The figure; its title gives recall and specificity.
    """
    c = confusion
    cells = np.array([[c.tn, c.fp], [c.fn, c.tp]])
    shares = cells / cells.sum(axis=1, keepdims=True)
    figure = new_figure()
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


def plot_histogram(
    labels: ArrayLike,
    probabilities: ArrayLike,
    threshold: float = 0.5,
    band: Abstention | None = None,
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
    truth, values = check_labels(labels), np.asarray(probabilities)
    errors = metrics.confusion(truth, values >= check_threshold(threshold))
    figure = new_figure()
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
    figure = new_figure()
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


_MARK = "#D55E00"
_BEFORE, _AFTER = "#0072B2", "black"


def svg(figure: Figure) -> str:
    """Render a figure for the inside of an HTML page, alike on every run.

    Letters are drawn as outlines, so that no font is needed.

    Args:
        figure: What to draw.

    Returns:
        One `<svg>` element.
    """
    text = io.StringIO()
    salt = {"svg.hashsalt": figure.axes[0].get_title(), "svg.fonttype": "path"}
    with mpl.rc_context(salt):  # type: ignore[arg-type]  # the stubs list every key
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]


def roc_svg(cases: PredictionTable, assessment: EvaluationResult) -> Figure:
    """Draw the ROC curve with the operating point on it.

    Args:
        cases: The images.
        assessment: Their result.
    """
    figure = plot_roc(cases.label, cases.scores)
    c = assessment.confusion
    _mark(figure, 1 - c.specificity, c.sensitivity, assessment.threshold)
    figure.axes[0].legend(loc="lower right")
    return figure


def precision_recall_svg(cases: PredictionTable, assessment: EvaluationResult) -> Figure:
    """Draw precision over recall with the operating point on it.

    Args:
        cases: The images.
        assessment: Their result.
    """
    figure = plot_precision_recall(cases.label, cases.scores)
    precision = assessment.metrics["precision"].value
    if assessment.confusion.tp + assessment.confusion.fp and math.isfinite(precision):
        _mark(figure, assessment.confusion.sensitivity, precision, assessment.threshold)
    figure.axes[0].legend(loc="lower left")
    return figure


def reliability_diagram(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    logits: NDArray[np.float64] | None = None,
) -> Figure:
    """Draw how often PNEUMONIA came true at each probability, before and after calibration.

    Args:
        labels: Shape (n,), 0 or 1.
        probabilities: Shape (n,), as used.
        logits: Shape (n,), raw: their sigmoid is drawn as the state before calibration. None to
            draw one line.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.45", linestyle="--", linewidth=1, label="calibrated")
    series = [("as used", probabilities, _AFTER, "o")]
    if logits is not None:
        series = [
            ("before calibration", sigmoid(logits), _BEFORE, "s"),
            ("after calibration", probabilities, _AFTER, "o"),
        ]
    for name, values, colour, marker in series:
        found = reliability(labels, values)
        axes.scatter(
            found.probability,
            found.frequency,
            s=16 + 220 * found.images / found.images.sum(),
            color=colour,
            marker=marker,
            alpha=0.7,
            linewidths=0,
            label=name,
            clip_on=False,
            zorder=3,
        )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.25)
    axes.set_title("Reliability, 15 bins, area by images")
    axes.set_xlabel("probability of PNEUMONIA")
    axes.set_ylabel("share that is PNEUMONIA")
    legend = axes.legend(loc="lower right", fontsize=8)
    for handle in legend.legend_handles[1:]:
        handle.set_sizes([40.0])  # type: ignore[union-attr]  # those of scatter have sizes
    return figure


def undecided(cases: PredictionTable, assessment: EvaluationResult) -> Figure:
    """Draw how probabilities spread, with the band in which images are left undecided.

    Args:
        cases: The images.
        assessment: Their result, with a band.
    """
    return plot_histogram(
        cases.label, cases.probability, assessment.threshold, assessment.abstention
    )


def decision_curve(curve: DecisionCurve, threshold: float) -> Figure:
    """Draw net benefit beside treating everyone and treating no one.

    Args:
        curve: The curve.
        threshold: The operating point's, marked.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    axes.fill_between(curve.threshold, curve.low, curve.high, color="black", alpha=0.12, lw=0)
    axes.plot(curve.threshold, curve.net_benefit, color="black", lw=1.8, label="the model")
    axes.plot(curve.threshold, curve.treat_all, color=_BEFORE, ls="-.", label="treat everyone")
    axes.axhline(0, color="0.45", ls="--", lw=1, label="treat no one")
    axes.axvline(threshold, color=_MARK, lw=1, label=f"threshold {threshold:.3g}")
    top = max(float(curve.treat_all[0]), float(curve.high.max()), 0.01)
    axes.set_ylim(-0.15 * top, 1.08 * top)
    axes.set_xlim(0, 1)
    axes.grid(alpha=0.25)
    axes.set_title("Decision curve, with 95% band")
    axes.set_xlabel("probability from which one would treat")
    axes.set_ylabel("net benefit per image")
    axes.legend(loc="lower left", fontsize=8)
    return figure


def _mark(figure: Figure, x: float, y: float, threshold: float) -> None:
    figure.axes[0].plot(
        x, y, "o", color=_MARK, markersize=8, zorder=3, label=f"threshold {threshold:.3g}"
    )


LIMIT = 8
_COLUMNS = 4
_LINE = 30
"""Characters that fit beneath one image."""


def worst_errors(labels: ArrayLike, logits: ArrayLike, threshold: float = 0.5) -> NDArray[np.intp]:
    """Find the images called the wrong class, the surest errors first, then the closest calls.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        logits: Shape (n,), finite.
        threshold: In [0, 1]; PNEUMONIA means sigmoid(logit) >= threshold.

    Returns:
        Shape (min(n, `LIMIT`),): indices; errors come first, each part by falling log loss.

    Raises:
        EvaluationError: If the labels are not of both classes, a logit is not finite or the
            threshold lies outside [0, 1].
    """
    truth, ranked = check_labels(labels), np.asarray(logits)
    wrong = (sigmoid(ranked) >= check_threshold(threshold)) != truth
    support = np.where(truth, ranked, -ranked)  # log loss falls with it, and never saturates
    surest_first: NDArray[np.intp] = np.lexsort((support, ~wrong))
    return surest_first[:LIMIT]


def plot_grid(images: Sequence[NDArray[np.uint8]], captions: Sequence[str], title: str) -> Figure:
    """Draw images in a grid, each above its caption.

    Args:
        images: 1 to `LIMIT` images, each grey of shape (height, width) or coloured of shape
            (height, width, 3), uint8, 0..255.
        captions: One for each, lines separated by newlines: file name, label, probability. Lines
            too long for the grid are shortened in the middle.
        title: What the images are.

    Returns:
        The figure.

    Raises:
        EvaluationError: If there are too many images, not one caption for each, or an image is
            not uint8.
    """
    if len(images) != len(captions) or not 0 < len(images) <= LIMIT:
        raise EvaluationError(
            f"Found {len(images)} images and {len(captions)} captions; give 1 to {LIMIT} images, "
            "and one caption for each."
        )
    for number, image in enumerate(images):
        known = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)  # noqa: PLR2004 - colours
        if not known or image.dtype != np.uint8 or image.size == 0:
            raise EvaluationError(
                f"Image {number} has shape {image.shape} and type {image.dtype}; give images "
                "of shape (height, width) or (height, width, 3) and type uint8."
            )
    rows = -(-len(images) // _COLUMNS)
    figure = new_figure((10.0, 0.5 + 0.25 * title.count("\n") + 3.2 * rows))
    figure.suptitle(title)
    panels = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, image, caption in zip(panels.flat, images, captions, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        lines = [_shorten(line) for line in caption.splitlines()]
        axes.text(
            0.5,
            -0.03,
            "\n".join(lines),
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=8,
            parse_math=False,
        )
    return figure


def _shorten(line: str) -> str:
    """Cut the middle out of a long line: both ends of a file name tell images apart."""
    line = line.encode(errors="replace").decode()  # matplotlib dies of undecodable file names
    if len(line) <= _LINE:
        return line
    half = (_LINE - 1) // 2
    return f"{line[:half]}…{line[-half:]}"
