"""The command line, `pneumonia`: its commands are in `pneumonia.commands`, one file each.

Each command imports what it needs when it runs, so that `--help` answers at once. A user's
mistake ends in one sentence on standard error and exit code 2.
"""

import sys
import traceback
from typing import Annotated

import typer

from pneumonia.commands.calibrate import calibrate_command
from pneumonia.commands.compare import compare_command
from pneumonia.commands.data import data
from pneumonia.commands.evaluate import evaluate_command
from pneumonia.commands.export import export_command
from pneumonia.commands.predict import predict_command
from pneumonia.commands.runs import runs_command
from pneumonia.commands.serve import serve_command
from pneumonia.errors import PneumoniaError, sentence

REFUSED = 2
"""Exit code when a command could not do its work; 1 is left to commands whose answer is no."""

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
app.command("runs")(runs_command)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; `main` acts on them."""


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


if __name__ == "__main__":
    main()
