"""How a run ended, in one small file: read without torch, by sweeps and by `pneumonia runs`."""

import json
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from pneumonia.files import whole_file

ENDING_FILE = "summary.json"


class Ending(TypedDict, total=False):
    """What `summary.json` holds; a failed run has only `status`, `error` and `traceback`."""

    status: Literal["finished", "failed"]
    monitor: str
    mode: Literal["min", "max"]
    score: float
    """The monitored metric of the best checkpoint, on the hold-out."""
    sensitivity: float
    specificity: float
    """Both promised by the hold-out at the threshold that it chose."""
    threshold: float
    started: str
    """ISO 8601, with a time zone."""
    seconds: float
    """Of the fit; calibration and test come after."""
    images_per_second: float | None
    """In training: the median over the epochs."""
    epochs: int
    steps: int
    checkpoint: str
    """Relative to the run directory."""
    error: str
    """One sentence."""
    traceback: str


def write_ending(directory: str | Path, ending: Ending) -> None:
    """Write `summary.json`, whole or not at all."""
    with whole_file(Path(directory) / ENDING_FILE) as file:
        json.dump(ending, file, indent=2)
        file.write("\n")


def read_ending(directory: str | Path) -> Ending | None:
    """Read what `write_ending` wrote.

    Args:
        directory: A run directory.

    Returns:
        None where a run has not ended, was killed, or never started.

    Raises:
        ValueError: If the file is damaged.
        OSError: If it cannot be read.
    """
    try:
        found = json.loads((Path(directory) / ENDING_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{ENDING_FILE} is damaged: {error}") from error
    if not isinstance(found, dict) or found.get("status") not in ("finished", "failed"):
        raise ValueError(f"{ENDING_FILE} is damaged: it does not say how the run ended.")
    return cast(Ending, cast(Any, found))
