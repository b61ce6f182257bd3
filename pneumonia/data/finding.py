"""The rules of the audit: what is an error, what a warning, and the sentence that says so."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pneumonia.data.inventory import Inventory
from pneumonia.data.overlap import Overlap
from pneumonia.data.shortcuts import FLAGGED_FROM, Shortcut
from pneumonia.data.survey import Entry
from pneumonia.data.tally import Count
from pneumonia.labels import CLASSES

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be.

    Attributes:
        severity: `error` if training or testing on the set would fail or mislead.
        check: What was looked for, in a few words.
        message: What was found and what to do, in one sentence.
        files: All files or folders concerned, relative to the root.
    """

    severity: Severity
    check: str
    message: str
    files: tuple[str, ...] = ()


def in_folders(inventory: Inventory) -> Iterator[Finding]:
    """Judge what lies where.

    Args:
        inventory: The entries of the data set's folder.
    """
    rules: tuple[tuple[Severity, str, list[str], str], ...] = (
        ("error", "empty class", inventory.empty, "{} missing or without an image"),
        ("error", "misplaced", inventory.misplaced, "{} where training accepts none: move away"),
        ("error", "unreadable folder", inventory.unlisted, "{} cannot be listed"),
        ("warning", "no such split", inventory.absent, "{} without a folder"),
        ("warning", "ignored", inventory.ignored, "{} neither image nor split: not counted"),
    )
    for severity, check, names, words in rules:
        if names:
            yield Finding(severity, check, words.format(_listed(names)), tuple(names))


def in_files(entries: Sequence[Entry]) -> Iterator[Finding]:
    """Judge each file by itself: whether it decodes, and what its name says.

    Args:
        entries: All image files.
    """
    for fault in sorted({entry.seen.fault for entry in entries if entry.seen.fault}):
        names = [entry.place.name for entry in entries if entry.seen.fault == fault]
        words = f"{_listed(names)} cannot be used: replace or remove"
        yield Finding("error", f"{fault} file", words, tuple(names))
    misfiled = [entry.place.name for entry in entries if entry.misfiled]
    if misfiled:
        words = f"{_listed(misfiled)} named for the other class: move or remove"
        yield Finding("error", "wrong class", words, tuple(misfiled))
    unknown = [entry.place.name for entry in entries if entry.identity is None]
    if unknown:
        words = f"{_listed(unknown)} named by no known scheme: say what a patient is (patients=)"
        yield Finding("warning", "unknown name", words, tuple(unknown))


def in_overlaps(overlaps: Sequence[Overlap]) -> Iterator[Finding]:
    """Judge what splits and classes share; repeats within one are mere warnings.

    Args:
        overlaps: Patients and copies.
    """
    kinds = Counter((not overlap.forbidden, overlap.kind, overlap.where) for overlap in overlaps)
    for (harmless, kind, where), number in sorted(kinds.items()):
        files = tuple(
            file
            for overlap in overlaps
            if (overlap.kind, overlap.where) == (kind, where)
            for file in overlap.files
        )
        what = _plural(number, kind if kind == "patient" else f"set of {kind} images", kind)
        words = f"{what} {where} ({len(files)} images)"
        words += ": counted more than once" if harmless else ": keep on one side only"
        yield Finding("warning" if harmless else "error", f"{kind} {where}", words, files)


def in_counts(counts: Sequence[Count]) -> Iterator[Finding]:
    """Compare with the published counts, where the names are Kaggle's.

    Args:
        counts: By split, class and subtype.
    """
    off = [
        f"{count.split} {count.subtype} {count.images} for {count.published}"
        for count in counts
        if count.published not in {None, count.images}
    ]
    if off:
        words = f"names are Kaggle's but counts are not: {', '.join(off)}"
        yield Finding("warning", "counts off", words)


def in_shortcuts(shortcuts: Sequence[Shortcut]) -> Iterator[Finding]:
    """Flag what tells the classes apart without a look at the child.

    Args:
        shortcuts: All that were measured.
    """
    flagged = [f"{s.attribute} {s.auroc:.2f}" for s in shortcuts if s.flagged]
    if flagged:
        words = (
            f"{', '.join(flagged)}: AUROC of {CLASSES[1]} from the file alone, {FLAGGED_FROM:.2f}"
            " or more"
        )
        yield Finding("warning", "shortcut", words)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
    return f"{names[0]}{more}"


def _plural(number: int, one: str, kind: str) -> str:
    many = one.replace("set ", "sets ") if kind != "patient" else f"{one}s"
    return f"{number} {one if number == 1 else many}"
