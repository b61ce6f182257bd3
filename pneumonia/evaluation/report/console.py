"""A result for the terminal: figures with intervals, sensitivity beside specificity."""

import math
from collections.abc import Iterator

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pneumonia.evaluation.compare import NO_EVIDENCE, Comparison
from pneumonia.evaluation.evaluate import EvaluationResult
from pneumonia.evaluation.report import wording
from pneumonia.evaluation.report.wording import metrics_table

_COMPARED = (
    "recall",
    "specificity",
    "precision",
    "npv",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "mcc",
    "auroc",
    "average_precision",
    "brier",
    "log_loss",
    "ece",
    "auroc_obuchowski",
)


def console_summary(dossier: EvaluationResult) -> Group:
    """Lay a result out.

    Args:
        dossier: The result.

    Returns:
        The figures, the verdict in words, and what to doubt.
    """
    found = dossier
    parts = [metrics_table(found), *_probes(dossier)]
    parts.append(Text(" ".join(wording.verdict(found, dossier.model, dossier.threshold_origin))))
    if found.abstention is not None:
        parts.append(
            Text(
                f"{wording.abstention(found)}"
                f" {wording.guarantee(found.abstention, dossier.threshold_origin)}"
            )
        )
    parts += [Text(w, "yellow") for w in (*dossier.model.warnings, *found.notes)]
    return Group(*parts, Text(wording.NOT_A_DEVICE))


def console_comparison(result: Comparison, names: tuple[str, str]) -> Group:
    """Lay a comparison out.

    Args:
        result: The comparison.
        names: Of the two models.
    """
    grid = Table(title="B - A on the same images", title_justify="left", box=box.SIMPLE)
    for column in ("metric", "A", "B", "difference, 95% interval", "verdict"):
        words = column in {"metric", "verdict"}
        grid.add_column(column, justify="left" if words else "right", no_wrap=column != "verdict")
    for name in _COMPARED:
        row = result.differences[name]
        style = "dim" if row.verdict == NO_EVIDENCE else "bold"
        grid.add_row(
            name,
            f"{row.a:.3f}",
            f"{row.b:.3f}",
            wording.figure(row.difference),
            Text(row.verdict, style),
        )
    some = [d.verdict for d in result.differences.values() if "better" in d.verdict]
    test, area = result.mcnemar, result.differences["auroc_obuchowski"]
    p_value = (
        "no test: the difference has no variance"
        if math.isnan(result.auroc_p_value)
        else f"p = {result.auroc_p_value:.3g}, {area.difference.method}"
    )
    sentences = [
        f"A: {names[0]}, threshold {result.thresholds[0]}",
        f"B: {names[1]}, threshold {result.thresholds[1]}",
        (
            f"AUROC: {area.verdict} ({p_value})."
            f" Only A right on {test.only_a_right} images, only B on {test.only_b_right}"
            f" (p = {test.p_value:.3g}, {test.method})."
        ),
        "Intervals are not corrected for the number of metrics."
        if some
        else "In no metric is there evidence of a difference.",
    ]
    return Group(grid, *map(Text, sentences))


def _probes(dossier: EvaluationResult) -> Iterator[Table | Text]:
    if not dossier.probes:
        return
    grid = Table(title="Shortcut probe", title_justify="left")
    grid.add_column("shown to the model")
    grid.add_column("AUROC, 95% interval", justify="right")
    for probe in dossier.probes:
        grid.add_row(probe.name, wording.figure(probe.auroc))
    yield grid
    yield Text(wording.PROBE_MEANING)
