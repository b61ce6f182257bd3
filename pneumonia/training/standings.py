"""Runs beside one another: what differs between them, which is best, and how far seeds scatter.

Ranked by the hold-out alone. Test figures stay in each run's report: a table of them would be an
invitation to choose by the test split.
"""

import csv
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from pneumonia.files import whole_file
from pneumonia.training.runs import Run

_SEEDS = ("seed", "data.seed")
"""The second follows the first."""

_HOLDOUT = ("data._target_", "data.root", "data.table", "data.patients", "data.holdout.")
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


def sections(runs: Sequence[Run]) -> list[Section]:
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


def spreads(section: Section) -> list[Spread]:
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


def tables(section: Section, root: Path) -> Iterator[Table | str]:
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
    groups = spreads(section)
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
    with whole_file(path) as file:
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
