"""What the runs below a directory left behind; read from their small files, without torch."""

import csv
import os
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from pneumonia.errors import DataError, sentence
from pneumonia.training.ending import ENDING_FILE, Ending, read_ending

CONFIG_FILE = "config.yaml"
_HYDRA_CONFIG = Path(".hydra") / "config.yaml"
_HYDRA_OVERRIDES = Path(".hydra") / "overrides.yaml"
_METRICS_FILE = Path("csv") / "metrics.csv"

_PLACES = {"ckpt_path", "data.cache_dir"}
"""Settings that say where things lie, not what the run is."""

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: ten times as fast

Status = Literal["finished", "unfinished", "failed", "damaged"]


@dataclass(frozen=True)
class Run:
    """One run, as far as it got.

    Attributes:
        directory: The run directory.
        status: `unfinished` runs were killed or go on still; `damaged` ones cannot be read.
        note: What is wrong with it, or nothing.
        settings: The configuration by dotted key, without places; fewer where the run never began.
        typed: Keys that were given on the command line.
        monitor: The metric that chose the checkpoint.
        mode: Whether `min` or `max` of it is better.
        score: Its value on the hold-out: of the best checkpoint, or of the best epoch so far.
        sensitivity: Promised by the hold-out at the threshold chosen on it.
        specificity: Likewise.
        seconds: Of the fit.
        images_per_second: In training, the median over the epochs.
        epochs: That ended.
        started: ISO 8601.
        checkpoint: The one to deploy, or for an unfinished run the one to resume from.
    """

    directory: Path
    status: Status
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    typed: frozenset[str] = frozenset()
    monitor: str | None = None
    mode: str | None = None
    score: float | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    epochs: int | None = None
    started: str | None = None
    checkpoint: Path | None = None


def read_runs(root: str | Path) -> list[Run]:
    """All runs below a directory, or the one that it is.

    Args:
        root: Searched through, hidden folders aside.

    Returns:
        In the order of their names; damaged ones among them.

    Raises:
        DataError: If there is no such directory, or no run in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is no directory; name one that holds runs, such as runs.")
    found = [_read_run(directory) for directory in _directories(root)]
    if not found:
        raise DataError(f"{root} holds no runs: no folder in it has a {CONFIG_FILE}.")
    return found


def _directories(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        directory = Path(folder)
        ours = ENDING_FILE in files or (directory / _HYDRA_CONFIG).exists()
        if ours or (CONFIG_FILE in files and _may_be_ours(directory / CONFIG_FILE)):
            folders.clear()
            yield directory
        folders[:] = sorted(
            (f for f in folders if not f.startswith(".")), key=lambda f: (len(f), f)
        )


def _may_be_ours(file: Path) -> bool:
    """Whether a lone config.yaml is of a run; a damaged one may be."""
    try:
        return "monitor" in _load(file)
    except (OSError, ValueError):
        return True


def _read_run(directory: Path) -> Run:
    try:
        return _read_sound(directory)
    except (OSError, ValueError, OverflowError, RecursionError, csv.Error) as error:
        return Run(directory, "damaged", sentence(error))


def _read_sound(directory: Path) -> Run:
    config, ending = _config(directory), read_ending(directory)
    metrics = _metrics(directory, config) if ending is None else Ending()
    if ending is None:
        done = (directory / "metrics.json").exists()  # a run from before there were endings
        status: Status = "finished" if done else "unfinished"
    else:
        status = ending["status"]
    found = metrics | (ending or {})
    checkpoint = directory / "checkpoints" / ("best" if status == "finished" else "last")
    checkpoint = checkpoint.with_suffix(".ckpt")
    note = str(found.get("error", ""))
    if status == "finished" and not checkpoint.exists():
        note = f"{checkpoint.name} is missing"
    epochs, started = found.get("epochs"), found.get("started")
    return Run(
        directory,
        status,
        note,
        _settings(config),
        _typed(directory),
        monitor=_text(found.get("monitor") or config.get("monitor")),
        mode=_text(found.get("mode") or config.get("mode")),
        score=_number(found.get("score")),
        sensitivity=_number(found.get("sensitivity")),
        specificity=_number(found.get("specificity")),
        seconds=_number(found.get("seconds")),
        images_per_second=_number(found.get("images_per_second")),
        epochs=epochs if isinstance(epochs, int) else None,
        started=_text(started),
        checkpoint=checkpoint if checkpoint.exists() else None,
    )


def _config(directory: Path) -> dict[str, Any]:
    """The run's own record; of a run that failed before it wrote one, what Hydra composed."""
    for name in (CONFIG_FILE, _HYDRA_CONFIG):
        if (directory / name).exists():
            return _load(directory / name)
    return {}


def _typed(directory: Path) -> frozenset[str]:
    try:
        text = (directory / _HYDRA_OVERRIDES).read_text(encoding="utf-8")
    except FileNotFoundError:
        return frozenset()
    return frozenset(re.findall(r"^- '?\+*([\w.]+)=", text, re.MULTILINE))


def _load(file: Path) -> dict[str, Any]:
    try:
        found = yaml.load(file.read_bytes(), _Loader)  # noqa: S506  a safe one
    except yaml.YAMLError as error:
        raise ValueError(f"{file.name} is damaged: {sentence(error)}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} is damaged: it holds no settings.")
    return found


def _metrics(directory: Path, config: Mapping[str, Any]) -> Ending:
    """What the epochs so far say, from the CSV logger's file."""
    monitor, best = str(config.get("monitor")), min if config.get("mode") == "min" else max
    try:
        text = (directory / _METRICS_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return Ending()
    rows = [row for row in csv.DictReader(text.splitlines()) if row.get(monitor)]
    scores = [score for row in rows if (score := _parsed(row[monitor])) is not None]
    speeds = csv.DictReader(text.splitlines())
    rates = [r for row in speeds if (r := _parsed(row.get("train/images_per_second"))) is not None]
    found = Ending(epochs=len(rows))
    if scores:
        found["score"] = best(scores)
    if rates:
        found["images_per_second"] = round(statistics.median(rates), 1)
    return found


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flat, without places: neither the run's own folder nor the run that it goes on from."""
    flat = dict(_flat(config, ""))
    home, resumed = flat.get("trainer.default_root_dir"), flat.get("ckpt_path")

    def is_place(key: str, value: Any) -> bool:
        return key in _PLACES or (
            isinstance(value, str)
            and ("${" in value or value == resumed or bool(home and value.startswith(home)))
        )

    for key, value in flat.items():  # what Hydra composed still has references
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        flat[key] = flat.get(reference[1], value) if reference else value
    return {key: value for key, value in flat.items() if not is_place(key, value)}


def _flat(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value) if isinstance(value, list) else value


def _parsed(text: str | None) -> float | None:
    try:
        return _number(float(text or ""))
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if numeric and abs(value) < float("inf") else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
