"""The files that a run directory holds for later readers: `run.json` and `summary.json`.

`run.json` says what the run was started with, `summary.json` how it ended. Nothing here imports
torch, so that `pneumonia runs` starts at once.
"""

import json
import os
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
CHANGES_FILE = "changes.diff"
VALIDATION_FILE = "validation.csv"

_CHECKOUT = Path(__file__).parents[2]
_MAX_DIFF = 1_000_000
_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "SLURM_JOB_ID",
    "SLURM_NTASKS",
    "WORLD_SIZE",
)
"""The only environment variables that are recorded: others may hold a secret."""


class RunSummary(TypedDict, total=False):
    """Content of `summary.json`; a failed run has only `status`, `error` and `traceback`."""

    status: Literal["finished", "failed"]
    monitor: str
    mode: Literal["min", "max"]
    score: float
    """The monitored metric of the best checkpoint, on the validation set."""
    sensitivity: float
    specificity: float
    """Both are validation estimates at the chosen threshold."""
    threshold: float
    started: str
    """ISO 8601, with a time zone."""
    seconds: float
    """Duration of the fit, without calibration and test."""
    images_per_second: float | None
    """Training throughput, the median over the epochs."""
    epochs: int
    steps: int
    checkpoint: str
    """Relative to the run directory."""
    error: str
    """One sentence."""
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


def write_record(directory: str | Path, record: Mapping[str, Any]) -> None:
    """Write `run.json` of a run that starts.

    Args:
        directory: The run directory.
        record: `overrides`, `choices`, `fingerprint` and `provenance`, all plain values.
    """
    times = {"started": _now(), "finished": None}
    _write_json(Path(directory) / RECORD_FILE, times | dict(record))


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
    kinds = {"overrides": list, "choices": dict, "fingerprint": str, "provenance": dict}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if not all(isinstance(record[key], kind) for key, kind in kinds.items()):
            raise TypeError
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise damaged_record_error(file) from error
    return cast(dict[str, Any], record)


def mark_finished(directory: str | Path) -> None:
    """Note in `run.json` that the run is complete.

    Args:
        directory: The run directory.
    """
    _write_json(Path(directory) / RECORD_FILE, read_record(directory) | {"finished": _now()})


def damaged_record_error(file: Path) -> TrainingError:
    """The error for a run whose record cannot be read.

    Args:
        file: The damaged file.
    """
    return TrainingError(
        f"{file} is damaged, so the run cannot be resumed or repeated. Restore the file, or start"
        f" a new run from its weights: ckpt_path={file.parent}/checkpoints/last.ckpt"
    )


def provenance() -> dict[str, Any]:
    """Code, packages and machine, which the result depends on beside the configuration."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": dict(sorted({d.name: d.version for d in distributions()}.items())),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
    }


def differences(recorded: Mapping[str, Any]) -> list[str]:
    """Compare this process with the recorded one.

    Args:
        recorded: As `provenance` gave it.

    Returns:
        A phrase for each difference of commit, Python or package versions.
    """
    before, present = (
        {key: found.get(key) for key in ("commit", "python")} | found.get("packages", {})
        for found in (recorded, provenance())
    )
    return [
        f"{name} was {before.get(name, 'missing')} and is {present.get(name, 'missing')}"
        for name in sorted(before.keys() | present.keys())
        if before.get(name) != present.get(name)
    ]


def commit() -> str:
    """Commit of the checkout, with `-dirty` appended if files differ; `unknown` without git."""
    return _git("describe", "--always", "--dirty", "--abbrev=40").strip() or "unknown"


def uncommitted_changes() -> str:
    """`git diff` of the checkout, at most 1 MB."""
    diff = _git("diff", "HEAD", "--", ".")
    if len(diff) <= _MAX_DIFF:
        return diff
    return f"{diff[:_MAX_DIFF]}\n[cut: the whole diff has {len(diff)} characters]\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*words: str) -> str:
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
