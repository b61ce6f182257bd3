"""`pneumonia runs`: one table of all runs."""
# ruff: noqa: PLC0415  see the package

import sys
from pathlib import Path
from typing import Annotated

import typer


def runs_command(
    root: Annotated[
        Path, typer.Argument(help="Folder that holds runs and sweeps.", metavar="DIR")
    ] = Path("runs"),
) -> None:
    """Compare runs: settings that differ, validation metrics, best first."""
    from rich.console import Console
    from rich.text import Text

    from pneumonia.training.sweep import leaderboard

    groups = leaderboard.group_runs(leaderboard.read_runs(root))
    console = Console(width=None if sys.stdout.isatty() else 200)
    for runs in groups:
        for part in leaderboard.leaderboard_tables(runs, root):
            console.print(part, soft_wrap=isinstance(part, Text))
    if len(groups) > 1:
        typer.echo("Runs with different monitors are in separate tables.")
