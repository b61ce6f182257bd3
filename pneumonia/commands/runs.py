"""`pneumonia runs`: one table of all runs."""
# ruff: noqa: PLC0415  see the package

import sys
from pathlib import Path
from typing import Annotated

import typer

from pneumonia.errors import DataError


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

    from pneumonia.training.sweep.leaderboard import (
        group_runs,
        leaderboard_tables,
        read_runs,
        write_table,
    )

    found = group_runs(read_runs(root))
    console = Console(width=None if sys.stdout.isatty() else 200)
    for section in found:
        for part in leaderboard_tables(section, root):
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
