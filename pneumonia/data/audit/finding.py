"""The rules of the audit: what is an error, what a warning, and the sentence that says so."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pneumonia.data.audit.overlap import Overlap
from pneumonia.data.audit.shortcuts import FLAGGED_FROM, Shortcut
from pneumonia.data.audit.survey import Entry
from pneumonia.data.audit.tally import Count
from pneumonia.data.inventory import Inventory
from pneumonia.labels import CLASSES

Severity = Literal["error", "warning"]

_NAMED = 3


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
        (
            "error",
            "misplaced",
            inventory.misplaced,
            "{} where training accepts only image files of the two classes: move elsewhere",
        ),
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
        words = f"{_listed(names)} {fault}: replace or remove"
        yield Finding("error", f"{fault} file", words, tuple(names))
    misfiled = [entry.place.name for entry in entries if entry.misfiled]
    if misfiled:
        words = f"{_listed(misfiled)} named for the other class: move or remove"
        yield Finding("error", "wrong class", words, tuple(misfiled))
    unknown = [entry.place.name for entry in entries if entry.identity is None]
    if unknown:
        words = (
            f"{_listed(unknown)} named by no known scheme: say what a patient is (--patients here,"
            " data.patients in training)"
        )
        yield Finding("warning", "unknown name", words, tuple(unknown))


def in_overlaps(overlaps: Sequence[Overlap]) -> Iterator[Finding]:
    """Judge what splits and classes share; repeats within one are mere warnings.

    Args:
        overlaps: Patients and copies.
    """
    kinds: defaultdict[tuple[str, str], list[Overlap]] = defaultdict(list)
    for overlap in overlaps:
        kinds[overlap.kind, overlap.where].append(overlap)
    for (kind, where), found in kinds.items():
        files = tuple(file for overlap in found for file in overlap.files)
        plural = "" if len(found) == 1 else "s"
        what = f"patient{plural}" if kind == "patient" else f"set{plural} of {kind} images"
        severity: Severity = "error" if found[0].forbidden else "warning"
        advice = "keep on one side only" if found[0].forbidden else "counted more than once"
        first = ", ".join(found[0].files[:_NAMED])
        words = f"{len(found)} {what} {where}, {len(files)} images (first: {first}): {advice}"
        yield Finding(severity, f"{kind} {where}", words, files)


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
    shown, more = ", ".join(names[:_NAMED]), len(names) - _NAMED
    return f"{shown} and {more} more are" if more > 0 else f"{shown} {_be(len(names))}"


def _be(number: int) -> str:
    return "is" if number == 1 else "are"
