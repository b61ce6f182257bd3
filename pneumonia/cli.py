"""The command line: `pneumonia data ...`, and what else comes after training.

Each command imports what it needs when it runs, so that `--help` answers at once. A user's
mistake ends in one sentence on standard error and exit code 2.
"""
# ruff: noqa: PLC0415  see above

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from pneumonia.commands.app import app_command
from pneumonia.commands.export import export_command
from pneumonia.commands.predict import predict_command
from pneumonia.errors import ConfigError, DataError, PneumoniaError, sentence

REFUSED = 2
"""Exit code when a command could not do its work; 1 is left to commands whose answer is no."""

app = typer.Typer(
    help="Pneumonia on pediatric chest X-rays. Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # with rich, --help takes twice as long
)
data = typer.Typer(help="Look at a data set.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name="data")
app.command("predict")(predict_command)
app.command("export")(export_command)
app.command("app")(app_command)

Root = Annotated[
    Path,
    typer.Argument(
        help="Data set: train, val, test, each with NORMAL and PNEUMONIA.", metavar="ROOT"
    ),
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; `main` acts on them."""


@data.command("audit")
def audit_command(
    root: Root,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all that is found to this file.")
    ] = None,
    montage: Annotated[
        Path | None, typer.Option(help="Draw some images of every split and class here (.png).")
    ] = None,
    patients: Annotated[
        str | None,
        typer.Option(
            help="What a patient is, where names are not Kaggle's: a regular expression with one"
            " group, or 'file' (each file its own patient)."
        ),
    ] = None,
) -> None:
    """Check a data set: files, copies, patients, shortcuts.

    Exit code 0: no errors (warnings at most); 1: errors; 2: not a data set.
    """
    from rich.console import Console
    from rich.text import Text

    from pneumonia.data.audit.audit import audit
    from pneumonia.data.audit.tables import tables
    from pneumonia.data.sheet import check_picture_name, save_picture

    if montage is not None:
        check_picture_name(montage)
    found = audit(root, patients)
    # In a pipe there is no width to keep to, and a file name cut in two cannot be searched for.
    console = Console(width=None if sys.stdout.isatty() else 200)
    for part in tables(found):
        console.print(part, soft_wrap=isinstance(part, Text))
    if json_file is not None:
        _write_json(json_file, found.as_json())
    if montage is not None:
        from pneumonia.data.montage import montage as draw

        save_picture(draw(found), montage)
    if found.errors:
        raise typer.Exit(1)


@data.command("show")
def show_command(
    root: Root,
    out: Annotated[Path, typer.Option(help="Picture to write (.png).")],
    fit: Annotated[
        str, typer.Option(help="How an image becomes a square: squash, pad or crop.")
    ] = "squash",
    image_size: Annotated[int, typer.Option(help="Side of the square, pixels.")] = 224,
    images: Annotated[int, typer.Option(min=1, max=50, help="Images of each class.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice and of the changes.")] = 0,
) -> None:
    """Draw originals beside what validation and training see of them."""
    from pneumonia.data.sheet import check_picture_name, save_picture

    check_picture_name(out)
    from pneumonia.data.augment import Augmentation
    from pneumonia.data.image import Preprocessing
    from pneumonia.data.views import views

    preprocessing = Preprocessing(image_size, fit)  # type: ignore[arg-type]  # it checks
    save_picture(views(root, preprocessing, Augmentation(), images, seed), out)
    typer.echo(f"Drew {out}")


Rule = Annotated[
    str | None,
    typer.Option(
        help="What a patient is, where names are not Kaggle's: a regular expression with one"
        " group, or 'file' (each file its own patient)."
    ),
]


@data.command("download")
def download_command(
    root: Annotated[Path, typer.Argument(help="Folder to make.", metavar="[ROOT]")] = Path(
        "data/chest_xray"
    ),
) -> None:
    """Fetch Kaggle's data set (CC BY 4.0; about 5 GB while it is unpacked, 1.2 GB to keep)."""
    from pneumonia.data.download import download

    download(root)
    typer.echo(f"{root} holds Kaggle's data set")


@data.command("cache")
def cache_command(
    clear: Annotated[bool, typer.Option("--clear", help="Remove the decoded images.")] = False,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="As data.cache_dir; by default the user's cache.")
    ] = None,
) -> None:
    """List the decoded images that training keeps on disk, or clear them."""
    from pneumonia.data.cache import clear_caches, list_caches

    found = clear_caches(directory) if clear else list_caches(directory)
    for entry in found:
        pictures = f"{entry.images:6d} images of {entry.side} px" if entry.images else "not whole"
        typer.echo(f"{entry.size / 1e6:10.1f} MB  {pictures}  {entry.file}")
    total = sum(entry.size for entry in found) / 1e6
    typer.echo(f"{total:10.1f} MB in {len(found)} caches{' cleared' if clear else ''}")


@app.command("evaluate")
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
    patients: Rule = None,
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
        from pneumonia.evaluation.cases import read_cases
        from pneumonia.evaluation.dossier import compile_dossier, write_dossier
        from pneumonia.evaluation.subject import Subject

        subject = Subject(str(predictions), "the images of that table")
        found = compile_dossier(read_cases(predictions), subject, threshold, seed=seed)
        files = write_dossier(found, out)
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

    from pneumonia.evaluation.summary import summary

    Console(width=None if sys.stdout.isatty() else 100).print(summary(found))
    typer.echo(f"Wrote {', '.join(map(str, files))}")


@app.command("compare")
def compare_command(
    a: Annotated[Path, typer.Argument(help="Predictions of one model (.csv).", metavar="A.csv")],
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

    from pneumonia.evaluation.pair import compare_files
    from pneumonia.evaluation.summary import compared

    found = compare_files(a, b, (threshold_a, threshold_b), seed=seed)
    Console(width=None if sys.stdout.isatty() else 100).print(
        compared(found.comparison, (str(a), str(b)), found.thresholds)
    )


@app.command("runs")
def runs_command(
    root: Annotated[
        Path, typer.Argument(help="Folder that holds runs and sweeps.", metavar="DIR")
    ] = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="Write all runs and differing settings here (.csv).")
    ] = None,
) -> None:
    """Compare runs: settings that differ, hold-out figures, best first, spread over seeds."""
    from rich.console import Console
    from rich.text import Text

    from pneumonia.training.runs import read_runs
    from pneumonia.training.standings import sections, tables, write_table

    found = sections(read_runs(root))
    console = Console(width=None if sys.stdout.isatty() else 200)
    for section in found:
        for part in tables(section, root):
            if isinstance(part, str):
                console.print(Text(part), soft_wrap=True)
            else:
                console.print(part)
    if len(found) > 1:
        typer.echo("Runs with different monitors stand in tables of their own.")
    if out is not None:
        try:
            write_table(found, out)
        except OSError as error:
            raise DataError(f"{out} cannot be written ({error.strerror}).") from error
        typer.echo(f"Wrote {out}")


@app.command("calibrate")
def calibrate_command(
    checkpoint: Annotated[Path, typer.Option(help="Model to start from (.ckpt); is not changed.")],
    root: Annotated[Path, typer.Option("--data", help="The site's own images, labelled.")],
    out: Annotated[Path, typer.Option(help="Model to write (.ckpt).")],
    split: Annotated[
        str | None, typer.Option(help="Use only this split: train, val or test.")
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(
            help="Share of pneumonia among those the site X-rays, if its labelled images have"
            " another."
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="sensitivity, specificity, youden, cost or fixed; by default the model's."
        ),
    ] = None,
    target: Annotated[float | None, typer.Option(help="Of the policy, such as 0.95.")] = None,
    abstention_error: Annotated[
        float | None,
        typer.Option(
            help="Share of a class's patients that may be called confidently wrong; by default the"
            " model's."
        ),
    ] = None,
    patients: Rule = None,
) -> None:
    """Refit temperature, threshold and band on a site's own labelled images."""
    from pneumonia.evaluation.prose import guarantee, promise, undecided
    from pneumonia.inference.calibrate import calibrate

    calibration, point, band = calibrate(
        checkpoint,
        root,
        out,
        split,
        patients=patients,
        policy=policy,
        target=target,
        prevalence=prevalence,
        abstention_error=abstention_error,
    )
    moved = f", offset {calibration.offset:+.3f}" if calibration.offset else ""
    typer.echo(
        f"Temperature {calibration.temperature:.3f}{moved}; PNEUMONIA from probability"
        f" {point.threshold:.4g} up ({point.policy}"
        + (f" {point.target:g}" if point.target is not None else "")
        + f").\nThere {promise(point)} give sensitivity {point.sensitivity:.3f} and specificity"
        f" {point.specificity:.3f}: seen on the images that chose it, so new ones give less.\n"
        f"{undecided(band)} {guarantee(band, 'site')}\n"
        f"Wrote {out}; what it replaced is kept in it."
    )


def main() -> None:
    """Run the command line; the entry point of `pneumonia`."""
    for stream in (sys.stdout, sys.stderr):  # a file name need not be text, nor a terminal UTF-8
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)  # of options
    debug = "--debug" in arguments[:end]  # wherever it stands
    given = [word for word in arguments[:end] if word != "--debug"] + arguments[end:]
    try:
        app(given)
    except (PneumoniaError, OSError) as error:
        if debug:
            traceback.print_exc()
        else:
            typer.echo(f"Error: {_told(error)}\n(--debug shows the traceback.)", err=True)
        sys.exit(REFUSED)
    except KeyboardInterrupt:  # typer has its own eye on it, but only while a command runs
        sys.exit(130)


def _told(error: PneumoniaError | OSError) -> str:
    """What the system refused, such as a name that is too long, is no bug either."""
    if isinstance(error, OSError) and error.strerror:
        what = "the command cannot go on" if error.filename is None else f"{error.filename}"
        return f"{what}: {error.strerror}."
    return sentence(error)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    from pneumonia.files import whole_file

    try:
        with whole_file(path) as file:
            json.dump(content, file, indent=2)
            file.write("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}).") from error


if __name__ == "__main__":
    main()
