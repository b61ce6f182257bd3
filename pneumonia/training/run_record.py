"""The files that a run directory holds for later readers.

`run.json` says what the run was started with, `summary.json` how it ended. Nothing here imports
torch, so that `pneumonia runs` starts at once.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from pneumonia.files import atomic_write

CONFIG_FILE = "config.yaml"
RECORD_FILE = "run.json"
SUMMARY_FILE = "summary.json"

_CHECKOUT = Path(__file__).parents[2]


class RunSummary(TypedDict, total=False):
    """Content of `summary.json`; a failed run has only `status`, `error` and `traceback`.

    `score` is the monitored metric of the best checkpoint, `sensitivity` and `specificity` are
    estimated on the validation set, `images_per_second` is the median over the epochs, and
    `checkpoint` is relative to the run directory.
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
    """Write `summary.json` into the directory of a run, atomically."""
    with atomic_write(Path(directory) / SUMMARY_FILE) as file:
        json.dump(summary, file, indent=2)


def read_run_summary(directory: str | Path) -> RunSummary | None:
    """Read `summary.json`; None for a run that is still running, was killed, or never started.

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


def commit() -> str:
    """Commit of the checkout, with `-dirty` appended if files differ; `unknown` without git."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(  # noqa: S603  a fixed command
            words, capture_output=True, text=True, timeout=30, check=True, cwd=_CHECKOUT
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
