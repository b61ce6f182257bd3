"""`pneumonia evaluate`: a checkpoint or a table of predictions -> metrics and a report."""
# ruff: noqa: PLC0415  see the package

from pathlib import Path
from typing import Annotated

import typer

from pneumonia.commands import Patients
from pneumonia.errors import ConfigError


def evaluate_command(
    out: Annotated[Path, typer.Option(help="Folder for metrics, predictions, report and card.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Model to evaluate (.ckpt); needs --data.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--data", help="Labelled data set to evaluate it on.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate: train, val or test.")] = "test",
    predictions: Annotated[
        Path | None,
        typer.Option(help="Table to evaluate instead (.csv): label, and probability or logit."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Threshold on the probability, instead of the model's."),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also run the shortcut probe (lungs masked).")
    ] = False,
    patients: Patients = None,
) -> None:
    """Evaluate a model or a table of predictions: metrics with 95% CI, and a report."""
    if (checkpoint is None) == (predictions is None):
        raise ConfigError(
            "Give either --checkpoint CKPT with --data ROOT, or --predictions FILE.csv."
        )
    if predictions is not None:
        if root is not None or probe or patients is not None or split != "test":
            raise ConfigError(
                "--data, --split, --patients and --probe need --checkpoint; remove them to"
                " evaluate a table of predictions."
            )
        from pneumonia.evaluation.evaluate import EvaluatedModel, evaluate_predictions
        from pneumonia.evaluation.predictions import PredictionTable
        from pneumonia.evaluation.report.write import write_report

        model = EvaluatedModel(str(predictions), "the images of that table")
        table = PredictionTable.read(predictions)
        result = evaluate_predictions(table, model, threshold)
        files = write_report(result, out)
    else:
        if root is None:
            raise ConfigError("--checkpoint needs --data ROOT, the labelled images to evaluate on.")
        from pneumonia.inference.evaluate import evaluate_checkpoint

        result, files = evaluate_checkpoint(
            str(checkpoint),
            root,
            out,
            split,
            patients=patients,
            threshold=threshold,
            probe=probe,
        )
    from pneumonia.evaluation.report.console import print_summary

    print_summary(result, {"Written": ", ".join(map(str, files))})
