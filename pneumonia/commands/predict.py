"""`pneumonia predict`: predict files, as text on a terminal, CSV in a pipe or a CSV file."""
# ruff: noqa: PLC0415  see the package

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import compress, islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from pneumonia.commands import Backend

if TYPE_CHECKING:
    from pneumonia.inference.batch_predict import Result
    from pneumonia.inference.predictor import Predictor

Write = Callable[[list["Result"]], None]
_NOTES = ("uncertain", "out-of-distribution", "with a warning", "unreadable")


def predict_command(
    checkpoint: Annotated[
        Path, typer.Option(help="Model: best.ckpt of a run, or an exported .onnx.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Files and folders: JPEG, PNG, TIFF, BMP, WebP, GIF, PGM, DICOM.",
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
    backend: Backend = "auto",
) -> None:
    """Predict images.

    Exit code 0: all were predicted; 1: some could not be read, the others were predicted; 2: none
    was predicted.
    """
    from pneumonia.data.image_io import skipped_line
    from pneumonia.errors import ConfigError
    from pneumonia.inference.batch_predict import PredictionWriter, model_digest
    from pneumonia.inference.image_loading import list_images, take_shard
    from pneumonia.inference.predictor import EXPORTED, choose_file

    if resume and out is None:
        raise ConfigError("--resume needs --out FILE, the CSV file to continue.")
    paths, skipped = list_images(images)
    if skipped:
        typer.echo(skipped_line(skipped), err=True)
    if shard is not None:
        paths = take_shard(paths, shard)
    if explain is not None and backend == "auto" and checkpoint.suffix.lower() != EXPORTED:
        backend = "torch"  # heat maps need gradients
    chosen, line = choose_file(checkpoint, device, backend)
    predictor = _load(chosen, device)
    model, failed = model_digest(checkpoint), False
    writers: list[Write] = []
    if explain is not None:
        # First of all, so that every row of a resumed table has its picture.
        writers.append(_picture_writer(predictor, explain))
    if out is None:
        on_terminal = sys.stdout.isatty()
        typer.echo(line, err=True)
        writers.append(_write_text if on_terminal else _csv_writer(model))
        counts = _predict(predictor, paths, writers, batch_size, bar=not on_terminal)
    else:
        with closing(PredictionWriter(out, model, resume)) as file:
            remaining = [path for path in paths if path not in file.done]
            typer.echo(line, err=True)
            counts = _predict(predictor, remaining, [*writers, file.write], batch_size)
        failed = bool(file.failed)
        typer.echo(f"Wrote {out}", err=True)
    if failed or counts["unreadable"]:
        raise typer.Exit(1)


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
) -> Counter[str]:
    """Predict files, pass every batch of results on, and print and return their counts."""
    from pneumonia.data.parallel import with_progress

    counts: Counter[str] = Counter()
    start = perf_counter()
    results = predictor.stream(paths, batch_size)
    if bar:
        results = with_progress(results, len(paths), "Predicting")
    while batch := list(islice(results, batch_size)):
        for writer in writers:
            writer(batch)
        for result in batch:
            counts.update(_groups(result))
    rate = f", {len(paths) / (perf_counter() - start):.1f} images/s" if paths else ""
    parts = [f"{counts['PNEUMONIA']} PNEUMONIA, {counts['NORMAL']} NORMAL"]
    parts += [f"{counts[name]} {name}" for name in _NOTES if counts[name]]
    plural = "s" * (len(paths) != 1)
    typer.echo(f"{len(paths)} image{plural}{rate}: {'; '.join(parts)}", err=True)
    return counts


def _groups(result: "Result") -> list[str]:
    """The counts that a result belongs to."""
    from pneumonia.inference.types import FailedPrediction

    if isinstance(result, FailedPrediction):
        return ["unreadable"]
    applies = (result.uncertain, result.is_ood, result.warnings)
    return [result.predicted_class, *compress(_NOTES, applies)]


def _picture_writer(predictor: "Predictor", folder: Path) -> Write:
    from pneumonia.inference.saliency import load_saliency, picture_name
    from pneumonia.inference.types import Prediction

    load_saliency(predictor.backend, predictor.preprocessing.image_size)  # refuse before any work
    folder.mkdir(parents=True, exist_ok=True)

    def write(results: list["Result"]) -> None:
        for result in results:
            if isinstance(result, Prediction):
                predictor.explain(result.path).save(folder / picture_name(result.path))

    return write


def _write_text(results: list["Result"]) -> None:
    from pneumonia.errors import printable

    for result in results:
        typer.echo(printable(_as_text(result)))


def _as_text(result: "Result") -> str:
    from pneumonia.inference.types import FailedPrediction

    if isinstance(result, FailedPrediction):
        return f"     -  unreadable  {result.error}"
    notes = [*compress(_NOTES, (result.uncertain, result.is_ood)), *result.warnings]
    note = f"  [{'; '.join(notes)}]" if notes else ""
    return f"{result.probability:6.3f}  {result.predicted_class:10}  {result.path}{note}"


def _csv_writer(model: str) -> Write:
    from pneumonia.inference.batch_predict import HEADER, as_csv

    typer.echo(HEADER, nl=False)
    return lambda results: typer.echo(as_csv(results, model), nl=False)
