"""A result in words and as a table, in which recall never stands without specificity."""

import math

from rich.table import Table
from rich.text import Text

from pneumonia.evaluation.assess import AT_HALF, Assessment
from pneumonia.evaluation.intervals import Estimate
from pneumonia.evaluation.metrics import Confusion
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

_ROWS = (
    (("recall (sensitivity)", "recall"), ("specificity", "specificity")),
    (("precision (PPV)", "precision"), ("NPV", "npv")),
    (("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy")),
    (("F1", "f1"), ("MCC", "mcc")),
    (("AUROC", "auroc"), ("average precision", "average_precision")),
)


def degenerate(confusion: Confusion) -> str | None:
    """Say so if a classifier gives nearly all images one class, whatever they show.

    That is: at least 90% of NORMAL and at least 90% of PNEUMONIA images are called the same.
    Judged within each class, so that a good classifier on a set of nearly one class is not
    blamed, and a poor one that leans to neither class is left to its numbers.

    Args:
        confusion: The four counts.

    Returns:
        One sentence with the counts, or None for a classifier that tells images apart.
    """
    c = confusion
    if 10 * c.fp >= 9 * c.n_negative and 10 * c.tp >= 9 * c.n_positive:
        return (
            f"Degenerate classifier: calls {c.fp} of {c.n_negative} {CLASSES[NORMAL]} images "
            f"{CLASSES[PNEUMONIA]} (recall {c.sensitivity:.3f} stands beside specificity "
            f"{c.specificity:.3f})."
        )
    if 10 * c.fn >= 9 * c.n_positive and 10 * c.tn >= 9 * c.n_negative:
        return (
            f"Degenerate classifier: calls {c.fn} of {c.n_positive} {CLASSES[PNEUMONIA]} images "
            f"{CLASSES[NORMAL]} (specificity {c.specificity:.3f} stands beside recall "
            f"{c.sensitivity:.3f})."
        )
    return None


def counts(confusion: Confusion) -> str:
    """Put the errors of both kinds in words.

    Args:
        confusion: The four counts.

    Returns:
        Such as "misses 12 of 390 PNEUMONIA, alarms on 30 of 234 NORMAL".
    """
    c = confusion
    return (
        f"misses {c.fn} of {c.n_positive} {CLASSES[PNEUMONIA]}, "
        f"alarms on {c.fp} of {c.n_negative} {CLASSES[NORMAL]}"
    )


def table(assessment: Assessment, title: str = "Test") -> Table:
    """Lay a result out for the terminal, 80 columns or fewer.

    Args:
        assessment: What `pneumonia.evaluation.assess.assess` returns.
        title: What was evaluated.

    Returns:
        Metrics in pairs with their 95% intervals, recall and specificity in one row; below them
        the counts in words, and the verdict where the classifier is degenerate.
    """
    metrics, c = assessment.metrics, assessment.confusion
    sentences = Text(
        f"At this threshold the model {counts(c)}. At 0.5: recall"
        f" {metrics[AT_HALF + 'recall'].value:.3f}, specificity"
        f" {metrics[AT_HALF + 'specificity'].value:.3f}."
    )
    verdict = degenerate(c)
    if verdict:
        sentences.append(f"\n{verdict}", style="bold red")
    grid = Table(
        title=f"{title}, {c.n_positive + c.n_negative} images: PNEUMONIA from probability"
        f" {assessment.threshold:.3f}\n(95% intervals that respect patients)",
        caption=sentences,
        caption_style="default",
        caption_justify="left",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
    )
    for side in ("left", "right"):
        grid.add_column(f"{side} metric")
        grid.add_column(f"{side} value", justify="right", style="bold")
    for row in _ROWS:
        grid.add_row(*(cell for name, key in row for cell in (name, _written(metrics[key]))))
    return grid


def _written(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "undefined"
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.2f}-{estimate.high:.2f})"
