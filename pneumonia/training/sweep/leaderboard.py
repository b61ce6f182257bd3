"""Runs beside one another: what differs between them, which is best, and how far seeds scatter.

Ranked by the hold-out alone. Test figures stay in each run's report: a table of them would be an
invitation to choose by the test split.
"""

import csv
import os
import re
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.table import Table

from pneumonia.errors import DataError, sentence
from pneumonia.files import atomic_write
from pneumonia.training.run_record import SUMMARY_FILE, RunSummary, read_run_summary

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
        ours = SUMMARY_FILE in files or (directory / _HYDRA_CONFIG).exists()
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
    config, ending = _config(directory), read_run_summary(directory)
    metrics = _metrics(directory, config) if ending is None else RunSummary()
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


def _metrics(directory: Path, config: Mapping[str, Any]) -> RunSummary:
    """What the epochs so far say, from the CSV logger's file."""
    monitor, best = str(config.get("monitor")), min if config.get("mode") == "min" else max
    try:
        text = (directory / _METRICS_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return RunSummary()
    rows = [row for row in csv.DictReader(text.splitlines()) if row.get(monitor)]
    scores = [score for row in rows if (score := _parsed(row[monitor])) is not None]
    speeds = csv.DictReader(text.splitlines())
    rates = [r for row in speeds if (r := _parsed(row.get("train/images_per_second"))) is not None]
    found = RunSummary(epochs=len(rows))
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


_SEEDS = ("seed", "data.seed")
"""The second follows the first."""

_HOLDOUT = ("data._target_", "data.root", "data.table", "data.patients", "data.split.")
_MOST_COLUMNS = 6
_ORDER = ("finished", "unfinished", "failed", "damaged")


@dataclass(frozen=True)
class Section:
    """Runs that can be ranked together: those with the same monitor and mode.

    Attributes:
        monitor: Metric on the hold-out, or None where it is unknown.
        mode: Whether `min` or `max` of it is better.
        runs: Best first; then unfinished ones, failed and damaged.
    """

    monitor: str | None
    mode: str | None
    runs: list[Run]

    def differing(self) -> list[str]:
        """Keys that are not the same in all runs, those typed on a command line first.

        Of keys that always hold the same values, as those do that refer to one another, one
        stands for all. What a failed run did not record is not a difference.
        """
        known = [run for run in self.runs if run.settings]
        typed = {key for run in known for key in run.typed}
        keys = {key for run in known for key in run.settings}
        seen: dict[Hashable, str] = {}
        for key in sorted(keys, key=lambda key: (key not in typed, *_depth(key))):
            values = [
                repr(run.settings.get(key))
                for run in known
                if key in run.settings or run.status != "failed"
            ]
            if len(set(values)) > 1:
                seen.setdefault(tuple(values), key)
        return list(seen.values())

    def holdouts_differ(self) -> bool:
        """Whether the figures are of different hold-outs, as far as the settings say."""
        return any(key.startswith(_HOLDOUT) for key in self.differing())


@dataclass(frozen=True)
class Spread:
    """Finished runs that differ in their seed alone.

    Attributes:
        settings: What they share.
        seeds: In order; of two runs with one seed the later counts.
        mean: Of the monitored metric.
        deviation: Sample standard deviation; None for one run.
    """

    settings: Mapping[str, object]
    seeds: tuple[object, ...]
    mean: float
    deviation: float | None


def group_runs(runs: Sequence[Run]) -> list[Section]:
    """Divide runs by monitor, and put the best first.

    Args:
        runs: In any order.

    Returns:
        The section with the most runs first.
    """
    divided = defaultdict(list)
    for run in runs:
        divided[run.monitor, run.mode].append(run)
    return [
        Section(monitor, mode, sorted(members, key=_rank))
        for (monitor, mode), members in sorted(divided.items(), key=lambda item: -len(item[1]))
    ]


def seed_spread(section: Section) -> list[Spread]:
    """Mean and spread over seeds, best mean first.

    Args:
        section: Of runs with one monitor.
    """
    groups: dict[Hashable, dict[object, Run]] = defaultdict(dict)
    for run in sorted(section.runs, key=lambda run: run.started or ""):
        if run.status == "finished" and run.score is not None:
            shared = {k: v for k, v in run.settings.items() if k not in _SEEDS}
            groups[tuple(sorted((k, repr(v)) for k, v in shared.items()))][
                run.settings.get("seed")
            ] = run
    found = []
    for members in groups.values():
        scores = [run.score for run in members.values() if run.score is not None]
        settings = next(iter(members.values())).settings
        deviation = statistics.stdev(scores) if len(scores) > 1 else None
        seeds = tuple(sorted(members, key=lambda seed: (len(str(seed)), str(seed))))
        found.append(Spread(settings, seeds, statistics.mean(scores), deviation))
    return sorted(found, key=lambda s: s.mean if section.mode == "min" else -s.mean)


def leaderboard_tables(section: Section, root: Path) -> Iterator[Table | str]:
    """A section for the terminal: runs, what is wrong with some, and the spread over seeds.

    Args:
        section: Runs with one monitor.
        root: The directory searched, which names are shown from.
    """
    keys = section.differing()
    names = _short(keys[:_MOST_COLUMNS])
    better = {"max": "highest first", "min": "lowest first"}.get(section.mode or "", "unknown")
    columns = (
        "run",
        "status",
        "hold-out",
        "sens.",
        "spec.",
        *names,
        "epochs",
        "minutes",
        "images/s",
    )
    table = _table(f"{section.monitor or 'Monitor not known'}, {better}", columns)
    for run in section.runs:
        table.add_row(
            _name(run, root),
            run.status,
            _figure(run.score, 4),
            _figure(run.sensitivity, 3),
            _figure(run.specificity, 3),
            *(_value(run, key) for key in keys[:_MOST_COLUMNS]),
            "" if run.epochs is None else str(run.epochs),
            _figure(None if run.seconds is None else run.seconds / 60, 1),
            _figure(run.images_per_second, 0),
        )
    yield table
    if len(keys) > _MOST_COLUMNS:
        yield f"Differ too (--out writes them): {', '.join(keys[_MOST_COLUMNS:])}"
    if section.holdouts_differ():
        yield "Caution: not all of these figures are of the same hold-out; do not rank across."
    for run in section.runs:
        if run.note:
            yield f"{_name(run, root)} {run.status}: {run.note}"
    best = section.runs[0]
    if best.status == "finished" and best.score is not None and best.checkpoint:
        yield f"Best on the hold-out, which flatters the best of many: {best.checkpoint}"
    groups = seed_spread(section)
    if any(len(group.seeds) > 1 for group in groups):
        shown = [key for key in keys if key not in _SEEDS][:_MOST_COLUMNS]
        table = _table("Over seeds", ("mean", "sd", "n", "seeds", *_short(shown)))
        for group in groups:
            table.add_row(
                _figure(group.mean, 4),
                _figure(group.deviation, 4),
                str(len(group.seeds)),
                " ".join(map(str, group.seeds)),
                *(_value(group, key) for key in shown),
            )
        yield table


def write_table(found: Sequence[Section], path: str | Path) -> None:
    """Write all runs with all settings that differ into one CSV file.

    Args:
        found: Sections, whose order and ranks the rows keep.
        path: The file to write.
    """
    keys = sorted({key for section in found for key in section.differing()}, key=_depth)
    fields = (
        "status", "monitor", "mode", "score", "sensitivity", "specificity",
        "seconds", "images_per_second", "epochs", "started", "checkpoint", "note",
    )  # fmt: skip
    with atomic_write(path) as file:
        writer = csv.writer(file)
        writer.writerow(["run", *fields, *keys])
        for section in found:
            writer.writerows(
                [
                    run.directory,
                    *(getattr(run, name) for name in fields),
                    *(run.settings.get(key) for key in keys),
                ]
                for run in section.runs
            )


def _rank(run: Run) -> tuple[int, float, str]:
    worst = float("inf")
    sign = 1 if run.mode == "min" else -1
    score = worst if run.score is None else sign * run.score
    return _ORDER.index(run.status), score, str(run.directory)


def _depth(key: str) -> tuple[int, str]:
    return key.count("."), key


def _short(keys: Sequence[str]) -> list[str]:
    """The last part of each key, or more where that is another's too."""
    last = [key.rpartition(".")[2] for key in keys]
    pairs = zip(keys, last, strict=True)
    return [name if last.count(name) == 1 else key for key, name in pairs]


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        words = column in ("run", "status", "seeds")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    return table


def _name(run: Run, root: Path) -> str:
    name = str(run.directory.relative_to(root))
    return run.directory.name if name == "." else name


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _value(holder: Run | Spread, key: str) -> str:
    value = holder.settings.get(key, "")
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else str(value)
