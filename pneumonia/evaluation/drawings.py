"""The report's figures, as SVG that stands inside a page."""

import io
import math

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pneumonia.evaluation import figures
from pneumonia.evaluation.assess import Assessment
from pneumonia.evaluation.calibration import reliability
from pneumonia.evaluation.cases import Cases
from pneumonia.evaluation.decision import DecisionCurve
from pneumonia.evaluation.metrics import sigmoid

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


def roc(cases: Cases, assessment: Assessment) -> Figure:
    """Draw the ROC curve with the operating point on it.

    Args:
        cases: The images.
        assessment: Their result.
    """
    figure = figures.roc(cases.labels, cases.scores)
    c = assessment.confusion
    _mark(figure, 1 - c.specificity, c.sensitivity, assessment.threshold)
    figure.axes[0].legend(loc="lower right")
    return figure


def precision_recall(cases: Cases, assessment: Assessment) -> Figure:
    """Draw precision over recall with the operating point on it.

    Args:
        cases: The images.
        assessment: Their result.
    """
    figure = figures.precision_recall(cases.labels, cases.scores)
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
    figure = figures.canvas()
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


def undecided(cases: Cases, assessment: Assessment) -> Figure:
    """Draw how probabilities spread, with the band in which images are left undecided.

    Args:
        cases: The images.
        assessment: Their result, with a band.
    """
    return figures.histogram(
        cases.labels, cases.probabilities, assessment.threshold, assessment.band
    )


def decision_curve(curve: DecisionCurve, threshold: float) -> Figure:
    """Draw net benefit beside treating everyone and treating no one.

    Args:
        curve: The curve.
        threshold: The operating point's, marked.
    """
    figure = figures.canvas()
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
