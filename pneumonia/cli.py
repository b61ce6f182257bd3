"""The command line, `pneumonia`: its commands are in `pneumonia.commands`, one file each.

Commands import what they need when they run, so that `--help` is fast. An error of the user is one
sentence on standard error and exit code 2.
"""

import sys
import traceback
from typing import Annotated

import typer

from pneumonia.commands.calibrate import calibrate_command
from pneumonia.commands.compare import compare_command
from pneumonia.commands.data import data
from pneumonia.commands.ensemble import ensemble_command
from pneumonia.commands.evaluate import evaluate_command
from pneumonia.commands.export import export_command
from pneumonia.commands.predict import predict_command
from pneumonia.commands.runs import runs_command
from pneumonia.commands.serve import serve_command
from pneumonia.errors import PneumoniaError, sentence

USER_ERROR = 2
"""Exit code of errors; 1 means that a command worked and its result is negative."""

app = typer.Typer(
    help="Pneumonia on pediatric chest X-rays. Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # with rich, --help takes twice as long
)
app.add_typer(data, name="data")
app.command("predict")(predict_command)
app.command("export")(export_command)
app.command("serve")(serve_command)
app.command("evaluate")(evaluate_command)
app.command("compare")(compare_command)
app.command("calibrate")(calibrate_command)
app.command("ensemble")(ensemble_command)
app.command("runs")(runs_command)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; `main` handles them."""


def main() -> None:
    """Run the command line; the entry point of `pneumonia`."""
    for stream in (sys.stdout, sys.stderr):  # file names may be undecodable, terminals not UTF-8
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:end]  # accepted before and after the command's name
    given = [word for word in arguments[:end] if word != "--debug"] + arguments[end:]
    try:
        app(given)
    except (PneumoniaError, OSError) as error:
        if debug:
            traceback.print_exc()
        else:
            typer.echo(f"Error: {_message(error)}\n(--debug shows the traceback.)", err=True)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:  # typer handles it only while a command runs
        sys.exit(130)


def _message(error: PneumoniaError | OSError) -> str:
    """One sentence; of an OSError, the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'operating system'}: {error.strerror}."
    return sentence(error)


if __name__ == "__main__":
    main()
