"""The files that a run directory holds for later readers.

`run.json` says what the run was started with, `summary.json` how it ended. Nothing here imports
torch, so that `pneumonia runs` starts at once.
"""

import json
import platform
import subprocess
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from pneumonia.errors import TrainingError, sentence
from pneumonia.files import atomic_write

CONFIG_FILE = "config.yaml"
RECORD_FILE = "run.json"
SUMMARY_FILE = "summary.json"

_CHECKOUT = Path(__file__).parents[2]


class RunSummary(TypedDict, total=False):
    """Content of `summary.json`; a failed run has only `status`, `error` and `traceback`.

    `score` is the monitored metric of the best checkpoint, `sensitivity` and `specificity` are
    validation estimates at the chosen threshold, `seconds` and `images_per_second` (median over
    the epochs) are of the fit, and `checkpoint` is relative to the run directory.
    """

    status: Literal["finished", "failed"]
    monitor: str
    mode: Literal["min", "max"]
    score: float
    sensitivity: float
    specificity: float
    threshold: float
    started: str  # ISO 8601, with a time zone
    seconds: float
    images_per_second: float | None
    epochs: int
    steps: int
    checkpoint: str
    error: str  # one sentence
    traceback: str


def write_run_summary(directory: str | Path, summary: RunSummary) -> None:
    """Write `summary.json` atomically.

    Args:
        directory: The run directory.
        summary: How the run ended.
    """
    _write_json(Path(directory) / SUMMARY_FILE, summary)


def read_run_summary(directory: str | Path) -> RunSummary | None:
    """Read what `write_run_summary` wrote.

    Args:
        directory: A run directory.

    Returns:
        None for a run that is still running, was killed, or never started.

    Raises:
        ValueError: If the file is damaged.
        OSError: If it cannot be read.
    """
    try:
        found = json.loads((Path(directory) / SUMMARY_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{SUMMARY_FILE} is damaged: {error}") from error
    if not isinstance(found, dict) or found.get("status") not in ("finished", "failed"):
        raise ValueError(f"{SUMMARY_FILE} is damaged: expected the status finished or failed.")
    return cast(RunSummary, cast(Any, found))


def record_failure(directory: str | Path, error: BaseException) -> None:
    """Write the `summary.json` of a failed run.

    Args:
        directory: The run directory.
        error: What ended the run.
    """
    text = "".join(traceback.format_exception(error))
    write_run_summary(directory, RunSummary(status="failed", error=sentence(error), traceback=text))


def write_record(directory: str | Path, overrides: list[str], fingerprint: str) -> None:
    """Write `run.json` of a run that starts, with the time, commit and package versions.

    Args:
        directory: The run directory.
        overrides: Those of the command line.
        fingerprint: Of the images for training and validation.
    """
    record = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "overrides": overrides,
        "fingerprint": fingerprint,
        "provenance": {
            "commit": commit(),
            "python": platform.python_version(),
            "packages": dict(sorted({d.name: d.version for d in distributions()}.items())),
        },
    }
    _write_json(Path(directory) / RECORD_FILE, record)


def read_record(directory: str | Path) -> dict[str, Any]:
    """Read the `run.json` of a run.

    Args:
        directory: The run directory.

    Raises:
        TrainingError: If the directory holds no run, or the file is damaged.
    """
    file = Path(directory) / RECORD_FILE
    if not (Path(directory) / CONFIG_FILE).is_file() or not file.is_file():
        raise TrainingError(
            f"{directory} holds no run ({CONFIG_FILE} and {RECORD_FILE}). Give the directory of a"
            " run: hydra.run.dir=DIR to resume it, repeat=DIR to repeat it."
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(record["overrides"], list) or not isinstance(record["fingerprint"], str):
            raise TypeError
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise damaged_record_error(file) from error
    return cast(dict[str, Any], record)


def damaged_record_error(file: Path) -> TrainingError:
    """The error for a run whose record cannot be read.

    Args:
        file: The damaged file.
    """
    return TrainingError(
        f"{file} is damaged, so the run cannot be resumed or repeated. Restore the file, or start"
        f" a new run from its weights: ckpt_path={file.parent}/checkpoints/last.ckpt"
    )


def commit() -> str:
    """Commit of the checkout, with `-dirty` appended if files differ; `unknown` without git."""
    return git("describe", "--always", "--dirty", "--abbrev=40").strip() or "unknown"


def git(*words: str) -> str:
    """Output of a git command in the checkout; empty without git.

    Args:
        words: The command.
    """
    try:
        done = subprocess.run(  # noqa: S603  fixed commands
            ["git", *words],  # noqa: S607
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=True,
            cwd=_CHECKOUT,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(file) as opened:
        json.dump(content, opened, indent=2)
        opened.write("\n")
