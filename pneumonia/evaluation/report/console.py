"""What the console shows of a result: one screen, recall always with specificity."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pneumonia.evaluation.compare import NO_EVIDENCE, Comparison
from pneumonia.evaluation.evaluate import EvaluationResult
from pneumonia.evaluation.metrics import METRICS
from pneumonia.evaluation.report import wording
from pneumonia.evaluation.report.wording import format_estimate

MAX_WARNINGS = 3


def print_summary(result: EvaluationResult, outputs: Mapping[str, str | Path]) -> None:
    """Print a result on one screen of 80 columns; the report explains it.

    Args:
        result: The result.
        outputs: Where things are, by name, such as `{"Report": "run/report.html"}`.
    """
    c = result.confusion
    estimates = wording.validation_estimates(result)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("metric")
    table.add_column("test (95% CI)", justify="right")
    for name in estimates:
        table.add_column(wording.ESTIMATES[name], justify="right", style="dim")
    for metric in METRICS:
        row = [metric.label, format_estimate(result.metrics[metric.name], digits=2)]
        row += [
            f"{values[metric.name]:.3f}" if metric.name in values else ""
            for values in estimates.values()
        ]
        table.add_row(*row)
    console = _console()
    size = wording.dataset_size(result)
    console.print(f"{size}, threshold {result.threshold:.3g}", style="bold")
    console.print(table)
    console.print(f"Confusion counts: TP {c.tp}, FN {c.fn} (missed), TN {c.tn}, FP {c.fp}")
    if result.probes:
        aurocs = ", ".join(f"{probe.name} {probe.auroc.value:.3f}" for probe in result.probes)
        console.print(f"Shortcut probe AUROC: {aurocs}", markup=False)
    for warning in _warnings(result):
        console.print(warning, overflow="ellipsis", no_wrap=True)
    for name, place in outputs.items():
        console.print(f"{name}: {place}", soft_wrap=True, markup=False)


def print_comparison(result: Comparison, names: tuple[str, str]) -> None:
    """Print a comparison of two models of these names: all differences with 95% CI."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("metric", "A", "B", "B - A (95% CI)", "result"):
        table.add_column(column, justify="left" if column in {"metric", "result"} else "right")
    for metric in METRICS:
        row = result.differences[metric.name]
        table.add_row(
            metric.label,
            f"{row.a:.3f}",
            f"{row.b:.3f}",
            format_estimate(row.difference),
            Text(row.verdict, "dim" if row.verdict == NO_EVIDENCE else "bold"),
        )
    p_value = result.auroc_p_value
    equal_auroc = "no p-value (no variance)" if math.isnan(p_value) else f"p = {p_value:.3g}"
    console = _console()
    console.print(table)
    for line in (
        f"A: {names[0]} (threshold {result.thresholds[0]})",
        f"B: {names[1]} (threshold {result.thresholds[1]})",
        f"Equal AUROC: {equal_auroc} (Obuchowski 1997)",
        f"Equal accuracy: p = {result.accuracy_p_value:.3g} (McNemar, assumes independent images)",
        f"Correct only in A: {result.only_a_correct} images; only in B: {result.only_b_correct}",
        "Intervals and p-values are not corrected for multiple comparisons.",
    ):
        console.print(line, soft_wrap=True, markup=False)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 100, highlight=False)


def _warnings(result: EvaluationResult) -> list[Text]:
    degenerate = wording.degenerate(result.confusion)
    found = [degenerate] if degenerate else []
    found += [*result.model.warnings, *result.notes]
    shown = found[:MAX_WARNINGS]
    if len(found) > MAX_WARNINGS:
        shown[-1] = f"{len(found) - MAX_WARNINGS + 1} more warnings: see the report."
    return [
        Text(f"Warning: {text}", "bold red" if text == degenerate else "yellow") for text in shown
    ]
