"""`pneumonia compare`: two tables of predictions of the same images."""
# ruff: noqa: PLC0415  see the package

from pathlib import Path
from typing import Annotated

import typer


def compare_command(
    a: Annotated[Path, typer.Argument(help="Predictions of model A (.csv).", metavar="A.csv")],
    b: Annotated[Path, typer.Argument(help="Predictions of model B.", metavar="B.csv")],
    threshold_a: Annotated[
        float | None,
        typer.Option(help="Threshold of A; default: from metrics.json beside A.csv, else 0.5."),
    ] = None,
    threshold_b: Annotated[
        float | None,
        typer.Option(help="Threshold of B; default: from metrics.json beside B.csv, else 0.5."),
    ] = None,
) -> None:
    """Compare two models on the same images: differences of all metrics with 95% CI."""
    from pneumonia.evaluation.compare import compare_files
    from pneumonia.evaluation.report.console import print_comparison

    result = compare_files(a, b, (threshold_a, threshold_b))
    print_comparison(result, (str(a), str(b)))
