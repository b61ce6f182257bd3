"""The table of `pneumonia runs`, by validation score: nobody should choose a run by its test."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from pneumonia.errors import DataError, sentence
from pneumonia.training.run_record import CONFIG_FILE, SUMMARY_FILE, read_run_summary

STATUSES = ("finished", "unfinished", "failed", "damaged")
"""In the order of the table. An unfinished run was killed or still runs; a damaged one cannot be
read."""

_METRICS = ("score", "sensitivity", "specificity", "epochs", "seconds", "images_per_second")
_MAX_COLUMNS = 6
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if available


@dataclass(frozen=True)
class Run:
    """One run, as far as it got."""

    directory: Path
    status: str  # one of `STATUSES`
    note: str = ""  # what is wrong with it
    settings: Mapping[str, str] = field(default_factory=dict)  # typed on the command line, by key
    monitor: str = ""  # the metric that chose the checkpoint, and whether `min` or `max` is better
    mode: str = ""
    # Numbers of `summary.json`, None where unknown. `score` is the monitored metric of the best
    # checkpoint, or of the best epoch so far.
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    checkpoint: Path | None = None  # the best one, or the last one of an unfinished run


def read_runs(root: Path) -> list[Run]:
    """Read all runs in a directory and below; the directory may itself be a run.

    Raises:
        DataError: If it does not exist or holds no run.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a directory. Give one that holds runs, such as runs.")
    runs = [_read_run(directory) for directory in _run_directories(root)]
    if not runs:
        raise DataError(f"{root} holds no runs (folders with {SUMMARY_FILE} or .hydra).")
    return runs


def _run_directories(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        if SUMMARY_FILE in files or ".hydra" in folders:
            folders.clear()
            yield Path(folder)
        visible = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(visible, key=lambda name: (len(name), name))


def _read_run(directory: Path) -> Run:
    try:
        # Before a run has recorded its configuration there is the one that Hydra composed.
        config = _load_yaml(directory / CONFIG_FILE, {})
        config = config or _load_yaml(directory / ".hydra" / "config.yaml", {})
        words = _load_yaml(directory / ".hydra" / "overrides.yaml", [])
        summary = read_run_summary(directory)
        found: Mapping[str, Any] = summary or _read_progress(directory, config)
        metrics = {name: _number(found.get(name)) for name in _METRICS}
    except (OSError, ValueError, OverflowError, RecursionError, csv.Error) as error:
        return Run(directory, "damaged", sentence(error))
    status = summary["status"] if summary else "unfinished"
    name = "best.ckpt" if status == "finished" else "last.ckpt"
    checkpoint = directory / "checkpoints" / name
    note = str(found.get("error", "" if summary else "killed or still running"))
    if status == "finished" and not checkpoint.exists():
        note = f"{name} is missing"
    return Run(
        directory,
        status,
        note,
        settings=dict(str(word).lstrip("+~").partition("=")[::2] for word in words),
        monitor=str(found.get("monitor", config.get("monitor", ""))),
        mode=str(found.get("mode", config.get("mode", ""))),
        metrics=metrics,
        checkpoint=checkpoint if checkpoint.exists() else None,
    )


def _load_yaml(file: Path, default: Any) -> Any:
    try:
        found = yaml.load(file.read_bytes(), _YamlLoader)  # noqa: S506  a safe loader
    except FileNotFoundError:
        return default
    except yaml.YAMLError as error:
        raise ValueError(f"{file.name} is damaged: {sentence(error)}") from error
    if not isinstance(found, type(default)):
        raise ValueError(f"{file.name} is damaged: expected a {type(default).__name__}.")
    return found


def _read_progress(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Epochs and best score so far of a run without a summary, from the CSV log."""
    monitor, better = str(config.get("monitor")), min if config.get("mode") == "min" else max
    values: dict[str | None, str] = {}
    for file in directory.glob("csv/*/metrics.csv"):  # one for each time the run was resumed
        text = file.read_text(encoding="utf-8", errors="replace")
        rows = csv.DictReader(text.splitlines())
        values |= {row.get("epoch"): row[monitor] for row in rows if row.get(monitor)}
    scores = [score for value in values.values() if (score := _number(value)) is not None]
    return {"epochs": len(values), "score": better(scores, default=None)}


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None


def group_runs(runs: Iterable[Run]) -> list[list[Run]]:
    """Group runs by monitor and mode, because only the same metric can be ranked.

    Returns:
        The largest group first; in each the best run first, by status (`STATUSES`) and score.
    """

    def rank(run: Run) -> tuple[int, float, str]:
        score = run.metrics.get("score")
        cost = float("inf") if score is None else score if run.mode == "min" else -score
        return STATUSES.index(run.status), cost, str(run.directory)

    groups = defaultdict(list)
    for run in sorted(runs, key=rank):
        groups[run.monitor, run.mode].append(run)
    return sorted(groups.values(), key=len, reverse=True)


def differing_keys(runs: Iterable[Run]) -> list[str]:
    """Settings of the command line that are not the same in all runs."""
    all_settings = [run.settings for run in runs]
    keys = dict.fromkeys(key for settings in all_settings for key in settings)
    return [key for key in keys if len({settings.get(key) for settings in all_settings}) > 1]


def leaderboard_tables(runs: Sequence[Run], root: Path) -> Iterator[Table | Text]:
    """Show one group of `group_runs` below `root`: table, notes and the best checkpoint."""
    all_keys = differing_keys(runs)
    keys = all_keys[:_MAX_COLUMNS]
    last = [key.rpartition(".")[2] for key in keys]
    short = [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]
    best, monitor = runs[0], runs[0].monitor or "unknown metric"
    order = {"max": ", highest first", "min": ", lowest first"}.get(best.mode, "")
    table = Table(title=f"Validation set, by {monitor}{order}", title_justify="left")
    for column in ("run", "status"):
        table.add_column(column, overflow="fold")
    columns = (monitor, "recall", "specificity", *short, "epochs", "minutes", "images/s")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for run in runs:
        found = {name: run.metrics.get(name) for name in _METRICS}
        minutes = None if found["seconds"] is None else found["seconds"] / 60
        table.add_row(
            _name(run, root),
            run.status,
            _rounded(found["score"], 4),
            _rounded(found["sensitivity"], 3),
            _rounded(found["specificity"], 3),
            *(run.settings.get(key, "") for key in keys),
            _rounded(found["epochs"], 0),
            _rounded(minutes, 1),
            _rounded(found["images_per_second"], 0),
        )
    yield table
    if len(all_keys) > _MAX_COLUMNS:
        yield Text(f"Also differ: {', '.join(all_keys[_MAX_COLUMNS:])}")
    for run in runs:
        if run.note:
            yield Text(f"{_name(run, root)} {run.status}: {run.note}")
    if best.status == "finished" and best.checkpoint and best.metrics["score"] is not None:
        yield Text(f"Best on validation (optimistic, as the best of many): {best.checkpoint}")


def _name(run: Run, root: Path) -> str:
    name = str(run.directory.relative_to(root))
    return run.directory.name if name == "." else name


def _rounded(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
