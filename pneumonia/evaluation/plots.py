"""Plots of a result: PNG in TensorBoard and SVG in the report come from the same functions.

`labels` has shape (n,), 0 (NORMAL) or 1 (PNEUMONIA); scores, logits and probabilities likewise.
Drawn without pyplot, which keeps every figure of a process alive.
"""

import io
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

from pneumonia.evaluation.abstention import Abstention
from pneumonia.evaluation.metrics import BINS, Confusion, bin_numbers, confusion
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.report.wording import error_counts
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

COLOURS = ("#0072B2", "#D55E00")
"""Colour by label: blue and vermilion of Okabe and Ito's colour-blind safe palette."""

SIZE = (5.0, 4.0)
DPI = 100
LIMIT = 8
"""Images in a grid."""

_COLUMNS = 4
_CAPTION_WIDTH = 30
_MARGIN = (-0.02, 1.02)
_REFERENCE: dict[str, Any] = {"color": "0.45", "linestyle": "--", "linewidth": 1}
_CURVE: dict[str, Any] = {"color": "black", "linewidth": 1.8}


def plot_roc(labels: ArrayLike, scores: ArrayLike, counts: Confusion | None = None) -> Figure:
    """Draw the receiver operating characteristic, with the operating point of the counts."""
    false_positive_rate, recall, _ = roc_curve(labels, scores)
    figure, axes = _new_figure(f"ROC: AUROC {roc_auc_score(labels, scores):.3f}")
    axes.plot(false_positive_rate, recall, **_CURVE)
    axes.plot([0, 1], [0, 1], label="chance", **_REFERENCE)
    if counts is not None:
        _mark(axes, 1 - counts.specificity, counts.sensitivity)
    axes.set(xlabel="1 - specificity", ylabel="recall (sensitivity)", xlim=_MARGIN, ylim=_MARGIN)
    axes.legend(loc="lower right")
    return figure


def plot_precision_recall(
    labels: ArrayLike, scores: ArrayLike, counts: Confusion | None = None
) -> Figure:
    """Draw precision over recall, beside the prevalence that a random ranking would give."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    average = average_precision_score(labels, scores)
    prevalence = float((np.asarray(labels) == PNEUMONIA).mean())
    figure, axes = _new_figure(f"Precision-recall: average precision {average:.3f}")
    axes.plot(recall, precision, drawstyle="steps-post", **_CURVE)
    axes.axhline(prevalence, label=f"prevalence {prevalence:.3f}", **_REFERENCE)
    if counts is not None and counts.tp + counts.fp:
        _mark(axes, counts.sensitivity, counts.tp / (counts.tp + counts.fp))
    axes.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)", xlim=_MARGIN, ylim=_MARGIN)
    axes.legend(loc="lower left")
    return figure


def plot_confusion_matrix(counts: Confusion) -> Figure:
    """Draw the four counts, each with its percentage of the images of that class."""
    c = counts
    cells = np.array([[c.tn, c.fp], [c.fn, c.tp]])
    fractions = cells / cells.sum(axis=1, keepdims=True)
    figure, axes = _new_figure(f"Recall {c.sensitivity:.3f}, specificity {c.specificity:.3f}")
    axes.grid(visible=False)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(cells):
        fraction = fractions[row, column]
        colour = "white" if fraction > 0.5 else "black"  # noqa: PLR2004 - half of the colour map
        words = f"{count}\n{fraction:.1%}"
        axes.text(column, row, words, ha="center", va="center", fontsize=15, color=colour)
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set_yticks(range(len(CLASSES)), CLASSES, rotation=90, va="center")
    axes.set(xlabel="predicted class", ylabel="label")
    return figure


def plot_histogram(
    labels: ArrayLike,
    probabilities: ArrayLike,
    threshold: float = 0.5,
    abstention: Abstention | None = None,
) -> Figure:
    """Draw the distribution of probabilities by class (log scale), and the uncertain range."""
    truth, values = np.asarray(labels) == PNEUMONIA, np.asarray(probabilities, np.float64)
    errors = confusion(truth, values >= threshold)
    figure, axes = _new_figure("")
    axes.grid(visible=False)
    tallest = 0.0
    for label in (NORMAL, PNEUMONIA):
        of_class = values[truth == label]
        heights, _, _ = axes.hist(
            of_class,
            bins=40,
            range=(0, 1),
            histtype="stepfilled",
            facecolor=(COLOURS[label], 0.35),
            edgecolor=COLOURS[label],
            linewidth=1.5,
            label=f"{CLASSES[label]} (n = {of_class.size})",
        )
        tallest = max(tallest, float(np.max(heights)))
    axes.axvline(threshold, label=f"threshold {threshold:.3g}", **_REFERENCE)
    if abstention is not None:
        low, high = abstention.lower, min(abstention.upper, 1)
        axes.axvspan(low, high, color="0.87", lw=0, zorder=0, label="uncertain")
    axes.set_yscale("log")
    axes.set_ylim(0.7, max(10.0, 1.3 * tallest))  # below 1, so that a bin of one image is seen
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter("")
    axes.set(xlabel="probability of PNEUMONIA", ylabel="images (log scale)", xlim=_MARGIN)
    figure.suptitle(error_counts(errors), fontsize=9)
    figure.legend(loc="outside lower center", ncols=3 if abstention is None else 2, fontsize=8)
    return figure


def plot_reliability(
    labels: ArrayLike, probabilities: ArrayLike, logits: ArrayLike | None = None
) -> Figure:
    """Draw the frequency of PNEUMONIA over the probability; with logits also before calibration."""
    figure, axes = _new_figure("Reliability (area proportional to images)")
    axes.plot([0, 1], [0, 1], label="perfect calibration", **_REFERENCE)
    series = [("predicted", np.asarray(probabilities), "black", "o")]
    if logits is not None:
        series = [
            ("before calibration", sigmoid(logits), COLOURS[NORMAL], "s"),
            ("after calibration", *series[0][1:]),
        ]
    for name, values, colour, marker in series:
        bins = bin_numbers(values)
        images = np.bincount(bins, minlength=BINS)
        filled = images > 0
        axes.scatter(
            (np.bincount(bins, values, BINS) / np.maximum(images, 1))[filled],
            (np.bincount(bins, labels, BINS) / np.maximum(images, 1))[filled],
            s=16 + 220 * images[filled] / images.sum(),
            color=colour,
            marker=marker,
            alpha=0.7,
            linewidths=0,
            label=name,
            clip_on=False,
            zorder=3,
        )
    axes.set(xlabel="predicted probability", ylabel="observed frequency of PNEUMONIA")
    axes.set(xlim=_MARGIN, ylim=_MARGIN)
    legend = axes.legend(loc="lower right", fontsize=8)
    for handle in legend.legend_handles[1:]:
        handle.set_sizes([40.0])  # type: ignore[union-attr]  # those of scatter have sizes
    return figure


def worst_errors(labels: ArrayLike, logits: ArrayLike, threshold: float = 0.5) -> NDArray[np.intp]:
    """Find at most `LIMIT` indices: errors, then correct images, each by falling log loss.

    PNEUMONIA is predicted where sigmoid(logit) >= threshold.
    """
    truth, ranked = np.asarray(labels) == PNEUMONIA, np.asarray(logits, np.float64)
    wrong = (sigmoid(ranked) >= threshold) != truth
    support = np.where(truth, ranked, -ranked)  # log loss falls with it, and never saturates
    order: NDArray[np.intp] = np.lexsort((support, ~wrong))
    return order[:LIMIT]


def plot_grid(images: Sequence[NDArray[np.uint8]], captions: Sequence[str], title: str) -> Figure:
    """Draw images in a grid, each above its caption.

    Args:
        images: 1 to `LIMIT` images, uint8 [H, W] or [H, W, 3].
        captions: One for each; long lines are shortened.
        title: What the images are.
    """
    rows = -(-len(images) // _COLUMNS)
    figure = Figure((10.0, 0.5 + 0.25 * title.count("\n") + 3.2 * rows), DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, image, caption in zip(panels.flat, images, captions, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        text = "\n".join(map(_shorten, caption.splitlines()))
        place = {"transform": axes.transAxes, "ha": "center", "va": "top"}
        axes.text(0.5, -0.03, text, fontsize=8, parse_math=False, **place)
    return figure


def to_svg(figure: Figure) -> str:
    """Render a figure as one `<svg>` element, the same on every run, with text drawn as paths."""
    text = io.StringIO()
    settings = {"svg.hashsalt": figure.axes[0].get_title(), "svg.fonttype": "path"}
    with mpl.rc_context(settings):  # type: ignore[arg-type]  # the stubs list every key
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]


def _new_figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(SIZE, DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title)
    axes.grid(alpha=0.25)
    return figure, axes


def _mark(axes: Axes, x: float, y: float) -> None:
    colour = COLOURS[PNEUMONIA]
    axes.plot(x, y, "o", color=colour, markersize=8, zorder=3, label="operating point")


def _shorten(line: str) -> str:
    """Cut the middle out of a long line: both ends of a file name tell images apart."""
    line = line.encode(errors="replace").decode()  # matplotlib fails on undecodable file names
    if len(line) <= _CAPTION_WIDTH:
        return line
    half = (_CAPTION_WIDTH - 1) // 2
    return f"{line[:half]}…{line[-half:]}"
