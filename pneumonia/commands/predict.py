"""`pneumonia predict`: predict files, as text on a terminal, CSV in a pipe or a CSV file."""
# ruff: noqa: PLC0415  see the package

import io
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pneumonia.inference.batch_predict import PredictCounts, Result
    from pneumonia.inference.predictor import Predictor

Write = Callable[[list["Result"]], None]


def predict_command(
    checkpoint: Annotated[
        Path, typer.Option(help="Model: best.ckpt of a run, or an exported .onnx.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, patterns, or - for a list of files on standard input: JPEG, PNG,"
            " TIFF, BMP, WebP, DICOM.",
            metavar="PATH...",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="CSV file to write; complete after every batch.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a CSV file that was interrupted.")
    ] = False,
    explain: Annotated[
        Path | None, typer.Option(help="Folder for a picture of each image with its heat map.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Part of the files, as in 3/16, for array jobs.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Predict images.

    Exit code 0: all were predicted; 1: some could not be read, the others were predicted; 2: none
    was predicted.
    """
    from pneumonia.errors import ConfigError
    from pneumonia.inference.batch_predict import PredictionWriter, check_table_name, model_digest
    from pneumonia.inference.image_loading import list_images, take_shard

    if resume and out is None:
        raise ConfigError("--resume needs --out FILE, the CSV file to continue.")
    if out is not None:
        check_table_name(out)
    all_paths = list_images(images, _standard_input())
    paths = all_paths if shard is None else take_shard(all_paths, shard)
    predictor = _load(checkpoint, device)
    heat_maps = None
    if explain is not None:
        from pneumonia.inference.saliency import HeatMaps

        # All paths, so that the pictures of different shards have different names.
        heat_maps = HeatMaps(predictor.backend, predictor.preprocessing, explain, all_paths)
    writers: list[Write] = [] if heat_maps is None else [heat_maps.write]
    failed = 0
    if out is None:
        on_terminal = sys.stdout.isatty()
        writers.insert(0, _write_text if on_terminal else _csv_writer(model_digest(checkpoint)))
        counts = _predict(predictor, paths, writers, batch_size, bar=not on_terminal)
    else:
        file = PredictionWriter(out, model_digest(checkpoint), resume)
        remaining = [path for path in paths if path not in file.done]
        failed = len(file.failed)
        try:
            counts = _predict(predictor, remaining, [file.write, *writers], batch_size)
        finally:
            file.close()
        typer.echo(f"Wrote {out}", err=True)
        if heat_maps is not None:  # rows of an earlier call may lack their picture
            done = file.done - file.failed
            missing = heat_maps.missing(path for path in paths if path in done)
            failed += _predict(predictor, missing, [_report_failures, *writers], batch_size).failed
    typer.echo(str(counts), err=True)
    if counts.failed or failed:
        raise typer.Exit(1)


def _standard_input() -> Iterable[str]:
    """Standard input with one file name per line, of any bytes but a line end."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape", newline="\n")
    return sys.stdin


def _load(checkpoint: Path, device: str) -> "Predictor":
    from pneumonia.inference.predictor import Predictor

    predictor = Predictor.load(checkpoint, device)
    values = {"uncertain": predictor.abstention, "is_ood": predictor.ood_threshold}
    if missing := [name for name, value in values.items() if value is None]:
        typer.echo(
            f"Note: {' and '.join(missing)} will be empty; {checkpoint} was finalized without them,"
            " usually because its validation set was too small.",
            err=True,
        )
    return predictor


def _predict(
    predictor: "Predictor",
    paths: list[str],
    writers: list[Write],
    batch_size: int,
    bar: bool = True,
) -> "PredictCounts":
    from rich.console import Console
    from rich.progress import Progress

    from pneumonia.inference.batch_predict import predict_files

    console = Console(stderr=True)
    bar = bar and console.is_terminal
    with Progress(console=console, transient=True, disable=not bar) as progress:
        task = progress.add_task("Predicting", total=len(paths))

        def write(results: list["Result"]) -> None:
            for writer in writers:
                writer(results)
            progress.advance(task, len(results))

        return predict_files(predictor, paths, write, batch_size)


def _write_text(results: list["Result"]) -> None:
    from pneumonia.inference.batch_predict import as_text

    for result in results:
        typer.echo(as_text(result))


def _csv_writer(model: str) -> Write:
    from pneumonia.inference.batch_predict import as_csv

    typer.echo(as_csv(None, model), nl=False)
    return lambda results: typer.echo("".join(as_csv(r, model) for r in results), nl=False)


def _report_failures(results: list["Result"]) -> None:
    from pneumonia.inference.types import FailedPrediction

    for result in results:
        if isinstance(result, FailedPrediction):
            typer.echo(f"No heat map: {result.error}", err=True)
