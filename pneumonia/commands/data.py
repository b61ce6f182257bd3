"""`pneumonia data ...`: look at a data set."""
# ruff: noqa: PLC0415  see the package

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pneumonia.commands import Patients
from pneumonia.errors import printable

data = typer.Typer(help="Look at a data set.", no_args_is_help=True, rich_markup_mode=None)

Root = Annotated[
    Path,
    typer.Argument(
        help="Data set: train, val, test, each with NORMAL and PNEUMONIA.", metavar="ROOT"
    ),
]


@data.command("audit")
def audit_command(
    root: Root,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the whole audit to this file.")
    ] = None,
    patients: Patients = None,
) -> None:
    """Check a data set: files, copies, patients, shortcuts.

    Exit code 0: no errors (warnings at most); 1: errors; 2: not a data set.
    """
    from rich.console import Console
    from rich.text import Text

    from pneumonia.data.audit.checks import audit
    from pneumonia.data.audit.report import audit_tables
    from pneumonia.files import atomic_write

    found = audit(root, patients)
    # Wide in a pipe: a file name that is broken in two cannot be searched for.
    console = Console(width=None if sys.stdout.isatty() else 200)
    for part in audit_tables(found):
        console.print(part, soft_wrap=isinstance(part, Text))
    if json_file is not None:
        with atomic_write(json_file) as file:
            json.dump(found.to_dict(), file, indent=2)
    if found.errors:
        raise typer.Exit(1)


@data.command("show")
def show_command(
    root: Root,
    out: Annotated[Path, typer.Option(help="Picture to write (.png).")],
    resize_mode: Annotated[
        str, typer.Option(help="How an image becomes a square: squash, pad or crop.")
    ] = "squash",
    image_size: Annotated[int, typer.Option(help="Side of the square, pixels.")] = 224,
    images: Annotated[int, typer.Option(min=1, max=50, help="Images of each class.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice and augmentation.")] = 0,
) -> None:
    """Draw images in rows: the original, as validated, and four times as augmented."""
    from pneumonia.data.audit.contact_sheet import draw_views
    from pneumonia.data.image_io import Preprocessing
    from pneumonia.data.transforms import STRONG

    preprocessing = Preprocessing(image_size, resize_mode)  # type: ignore[arg-type]  # it checks
    rows = draw_views(root, preprocessing, STRONG, images, seed, out)
    typer.echo("\n".join([f"Wrote {out}, from top to bottom:", *map(printable, rows)]))


@data.command("download")
def download_command(
    root: Annotated[Path, typer.Argument(help="Folder to make.", metavar="[ROOT]")] = Path(
        "data/chest_xray"
    ),
) -> None:
    """Download Kaggle's data set (CC BY 4.0; 5 GB while unpacking, 1.2 GB to keep)."""
    from pneumonia.data.kaggle import download

    download(root)
    typer.echo(f"{root} contains Kaggle's data set")
