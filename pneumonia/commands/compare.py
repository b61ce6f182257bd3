"""`pneumonia compare`: two tables of predictions -> which differences are more than chance."""
# ruff: noqa: PLC0415  see the package

import sys
from pathlib import Path
from typing import Annotated

import typer


def compare_command(
    a: Annotated[
        Path, typer.Argument(help="PredictionTable of one model (.csv).", metavar="A.csv")
    ],
    b: Annotated[Path, typer.Argument(help="Of the other, on the same images.", metavar="B.csv")],
    threshold_a: Annotated[
        float | None,
        typer.Option(help="By default that of the metrics.json beside the file, or else 0.5."),
    ] = None,
    threshold_b: Annotated[float | None, typer.Option(help="Likewise, of B.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Compare two models on the same images: which differences are more than chance."""
    from rich.console import Console

    from pneumonia.evaluation.compare import compare_files
    from pneumonia.evaluation.report.console import console_comparison

    found = compare_files(a, b, (threshold_a, threshold_b), seed=seed)
    Console(width=None if sys.stdout.isatty() else 100).print(
        console_comparison(found, (str(a), str(b)))
    )
