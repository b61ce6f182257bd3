"""`pneumonia predict`: files -> rows on the screen, in a pipe or in a file."""
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
        Path | None, typer.Option(help="Table to write: .csv or .jsonl, complete as it grows.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a table that was interrupted.")
    ] = False,
    explain: Annotated[
        Path | None, typer.Option(help="Folder for a picture of each image with its heat map.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Take part 3 of 16: 3/16, for array jobs.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Ask a model about images.

    Exit code 0: all answered; 1: some could not be read, the others were answered; 2: nothing
    done.
    """
    from pneumonia.errors import ConfigError
    from pneumonia.inference.batch_predict import PredictionWriter, check_format, model_digest
    from pneumonia.inference.image_loading import list_images, take_shard

    if resume and out is None:
        raise ConfigError("--resume goes with --out FILE, the table to go on with.")
    if out is not None:
        check_format(out)
    everything = list_images(images, _listed())
    paths = everything if shard is None else take_shard(everything, shard)
    predictor = _load(checkpoint, device)
    heat = None
    if explain is not None:
        from pneumonia.inference.saliency import HeatMaps

        # All files, so that no shard's picture replaces another's.
        heat = HeatMaps(predictor.backend, predictor.preprocessing, explain, everything)
    drawn = [] if heat is None else [heat.write]
    failed = 0
    if out is not None:
        file = PredictionWriter(out, model_digest(checkpoint), resume)
        left = [path for path in paths if path not in file.done]
        failed = len(file.failed)
        try:
            tally = _predict(predictor, left, [file.write, *drawn], batch_size, bar=True)
        finally:
            file.close()
        typer.echo(f"Wrote {out}", err=True)
        if heat is not None:  # a kill, or no --explain before, leaves rows without a picture
            answered = file.done - file.failed
            missing = heat.missing(path for path in paths if path in answered)
            failed += _predict(predictor, missing, [_complain, *drawn], batch_size, bar=True).failed
    else:
        shown = _screen if sys.stdout.isatty() else _pipe(model_digest(checkpoint))
        bar = not sys.stdout.isatty()
        tally = _predict(predictor, paths, [shown, *drawn], batch_size, bar=bar)
    typer.echo(str(tally), err=True)
    if tally.failed or failed:
        raise typer.Exit(1)


def _listed() -> Iterable[str]:
    """Standard input, where a line is a file's name: any bytes but a line end."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape", newline="\n")
    return sys.stdin


def _load(checkpoint: Path, device: str) -> "Predictor":
    from pneumonia.inference.predictor import Predictor

    predictor = Predictor.load(checkpoint, device)
    answers = {
        "when it is uncertain": predictor.abstention,
        "when an image is unlike those of its training": predictor.ood_threshold,
    }
    if missing := [name for name, value in answers.items() if value is None]:
        typer.echo(
            f"Note: {checkpoint} cannot tell {' or '.join(missing)}: it comes from an older version"
            " or from too small a hold-out.",
            err=True,
        )
    return predictor


def _predict(
    predictor: "Predictor", paths: list[str], writers: list[Write], batch_size: int, *, bar: bool
) -> "PredictCounts":
    from rich.console import Console
    from rich.progress import Progress

    from pneumonia.inference.batch_predict import predict_files

    def write(results: list["Result"]) -> None:
        for one in writers:
            one(results)

    console = Console(stderr=True)
    if not bar or not console.is_terminal:
        return predict_files(predictor, paths, write, batch_size)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Predicting", total=len(paths))

        def write_and_advance(results: list["Result"]) -> None:
            write(results)
            progress.advance(task, len(results))

        return predict_files(predictor, paths, write_and_advance, batch_size)


def _screen(results: list["Result"]) -> None:
    from pneumonia.inference.batch_predict import as_text

    for result in results:
        typer.echo(as_text(result))


def _complain(results: list["Result"]) -> None:
    from pneumonia.inference.types import FailedPrediction

    for result in results:
        if isinstance(result, FailedPrediction):
            typer.echo(f"No heat map: {result.error}", err=True)


def _pipe(model: str) -> Write:
    from pneumonia.inference.batch_predict import as_csv, as_row

    typer.echo(as_csv(), nl=False)

    def write(results: list["Result"]) -> None:
        typer.echo("".join(as_csv(as_row(result, model)) for result in results), nl=False)

    return write
