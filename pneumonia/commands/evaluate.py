"""`pneumonia evaluate`: a model or a table of predictions -> figures and a report."""
# ruff: noqa: PLC0415  see the package

import sys
from pathlib import Path
from typing import Annotated

import typer

from pneumonia.commands.options import Patients
from pneumonia.errors import ConfigError


def evaluate_command(
    out: Annotated[Path, typer.Option(help="Folder for metrics, predictions, report and card.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Model to test (.ckpt); needs --data.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--data", help="Data set to test it on, labelled.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to test: train, val or test.")] = "test",
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a model, anyone's predictions (.csv): label, probability or logit,"
            " and if known path, patient, subtype."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="PNEUMONIA from this probability up, instead of the model's threshold."),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Test also without the lungs, and from files alone.")
    ] = False,
    patients: Patients = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Test a model, or predictions: figures with intervals, and a report."""
    if (checkpoint is None) == (predictions is None):
        raise ConfigError(
            "Give either --checkpoint CKPT with --data ROOT, or --predictions FILE.csv."
        )
    if predictions is not None:
        if root is not None or probe or patients is not None or split != "test":
            raise ConfigError(
                "--data, --split, --patients and --probe go with --checkpoint: a table of"
                " predictions has no images to open."
            )
        from pneumonia.evaluation.evaluate import EvaluatedModel, evaluate_predictions
        from pneumonia.evaluation.predictions import PredictionTable
        from pneumonia.evaluation.report.write import write_report

        subject = EvaluatedModel(str(predictions), "the images of that table")
        found = evaluate_predictions(
            PredictionTable.read(predictions), subject, threshold, seed=seed
        )
        files = write_report(found, out)
    else:
        if root is None:
            raise ConfigError("--checkpoint needs --data ROOT, the labelled images to test it on.")
        from pneumonia.inference.evaluate import evaluate_checkpoint

        found, files = evaluate_checkpoint(
            str(checkpoint),
            root,
            out,
            split,
            patients=patients,
            threshold=threshold,
            probe=probe,
            seed=seed,
        )
    from rich.console import Console

    from pneumonia.evaluation.report.console import console_summary

    Console(width=None if sys.stdout.isatty() else 100).print(console_summary(found))
    typer.echo(f"Wrote {', '.join(map(str, files))}")
