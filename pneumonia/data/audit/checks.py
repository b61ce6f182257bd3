"""Checks of a data set: errors that make a result wrong, and warnings."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import radius_neighbors_graph

from pneumonia.data.audit.scan import PUBLISHED, Entry, Inventory, scan_images
from pneumonia.data.patients import UNNUMBERED
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA, SPLITS

MAX_DISTANCE = 64
"""Images whose fingerprints differ in at most this many of 576 bits are near-identical."""

SHORTCUT_AUROC = 0.70

AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "colour mode": (),  # never seen: images are read as grey
    "width": ("resolution",),
    "height": ("resolution",),
    "aspect ratio": ("stretch", "ratio"),
    "bytes": ("resolution", "jpeg"),
    "sharpness": ("resolution", "noise", "jpeg"),
    "brightness": ("brightness", "gamma"),
    "contrast": ("contrast", "gamma"),
    "saturated pixels": ("brightness", "contrast"),
    "black border": ("area", "scale", "translate"),
}
"""Properties of an image, and the settings of `data.augmentation` that vary each."""

Severity = Literal["error", "warning"]
Kind = Literal["patient", "identical", "near-identical"]

_NAMED = 3


@dataclass(frozen=True)
class Count:
    """Images of one subtype in one split."""

    split: str
    label: str  # NORMAL or PNEUMONIA, by folder
    subtype: str  # `normal`, `bacterial`, `viral` or `unknown`
    images: int  # readable or not
    patients: int  # as far as names tell
    largest: int  # images of the patient with the most images
    published: int | None  # images in Kaggle's data set; None if no name is one of Kaggle's


@dataclass(frozen=True)
class Overlap:
    """Images that belong on one side of every split."""

    kind: Kind
    where: str  # `across splits`, `across classes`, `across splits and classes`, `in one split`
    patients: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def is_error(self) -> bool:
        """Whether it leaks between splits or makes a label wrong."""
        return self.where.startswith("across")


@dataclass(frozen=True)
class Shortcut:
    """How well one property of the training images separates the classes."""

    attribute: str  # a key of `AUGMENTATIONS`
    auroc: float  # of that property alone in the better direction, 0.5 to 1
    augmentation: tuple[str, ...]  # the settings of `data.augmentation` that vary it

    @property
    def flagged(self) -> bool:
        """Whether a classifier could rely on it."""
        return self.auroc >= SHORTCUT_AUROC


@dataclass(frozen=True)
class Finding:
    """One problem; an `error` makes training or testing on the data set fail or mislead."""

    severity: Severity
    check: str  # its name
    message: str  # what was found and what to do
    files: tuple[str, ...] = ()  # all files or folders concerned, relative to the root


@dataclass(frozen=True)
class Audit:
    """The result of an audit."""

    root: Path
    entries: list[Entry]  # every image file
    counts: list[Count]
    overlaps: list[Overlap]  # errors first
    shortcuts: list[Shortcut]  # strongest first
    findings: list[Finding]  # errors first

    @property
    def errors(self) -> list[Finding]:
        """The findings that are errors."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with every file named."""
        return {
            "root": str(self.root),
            "images": len(self.entries),
            "patients": len({entry.patient for entry in self.entries} - {None}),
            "errors": [asdict(finding) for finding in self.errors],
            "warnings": [asdict(f) for f in self.findings if f.severity == "warning"],
            "counts": [asdict(count) for count in self.counts],
            "unreadable": {e.name: e.content.problem for e in self.entries if e.content.problem},
            "overlaps": [asdict(overlap) for overlap in self.overlaps],
            "shortcuts": [asdict(s) | {"flagged": s.flagged} for s in self.shortcuts],
        }


def audit(root: str | Path, patients: str | None = None) -> Audit:
    """Read every image of a data set, and compare its splits and classes.

    Args:
        root: Folder with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.
        patients: What a patient is; see `pneumonia.data.patients.identify_patients`.

    Raises:
        DataError: If the folder is not a data set.
        ConfigError: If `patients` is not a valid expression.
    """
    inventory = Inventory(Path(root).expanduser())
    entries = scan_images(inventory, patients)
    readable = [entry for entry in entries if entry.content.problem is None]
    counts, shortcuts = _count(entries), _find_shortcuts(readable)
    overlaps = sorted(_find_overlaps(entries, readable), key=lambda overlap: not overlap.is_error)
    findings = [
        *_check_files(inventory, entries),
        *_check_overlaps(overlaps),
        *_check_counts(counts),
        *_check_shortcuts(shortcuts),
    ]
    findings.sort(key=lambda finding: finding.severity)  # "error" sorts before "warning"
    return Audit(inventory.root, entries, counts, overlaps, shortcuts, findings)


def _count(entries: Sequence[Entry]) -> list[Count]:
    """Count by split, class and subtype; published subtypes that are missing count 0."""
    from_kaggle = any(e.identity is not None and e.identity.number != UNNUMBERED for e in entries)
    groups: defaultdict[tuple[str, int, str], list[str | None]] = defaultdict(list)
    for entry in entries:
        groups[entry.split, entry.label, entry.subtype].append(entry.patient)
    if from_kaggle:
        for split, subtypes in PUBLISHED.items():
            for subtype in subtypes:
                groups[split, NORMAL if subtype == "normal" else PNEUMONIA, subtype] += []
    counts = []
    for split, label, subtype in sorted(groups, key=lambda key: (SPLITS.index(key[0]), *key[1:])):
        names = groups[split, label, subtype]
        patients = Counter(patient for patient in names if patient is not None)
        largest = max(patients.values(), default=0)
        published = PUBLISHED[split].get(subtype, 0) if from_kaggle else None
        counts.append(
            Count(split, CLASSES[label], subtype, len(names), len(patients), largest, published)
        )
    return counts


def _find_overlaps(entries: Sequence[Entry], readable: Sequence[Entry]) -> Iterator[Overlap]:
    known = [entry for entry in entries if entry.patient is not None]
    for group in _group(known, lambda entry: entry.patient):
        overlap = _overlap("patient", group)
        if overlap.is_error:
            yield overlap
    for group in _group(readable, lambda entry: entry.content.digest):
        if len(group) > 1:
            yield _overlap("identical", group)
    for positions in near_duplicates([entry.content.fingerprint for entry in readable]):
        group = [readable[position] for position in positions]
        if len({entry.content.digest for entry in group}) > 1:
            yield _overlap("near-identical", group)


def near_duplicates(fingerprints: Sequence[bytes]) -> list[list[int]]:
    """Find groups of images that show the same picture, given their fingerprints.

    Returns:
        For each group of two or more, the positions of its images. Each is near another one of
        its group, not necessarily all.
    """
    if not fingerprints:
        return []
    packed = np.frombuffer(b"".join(fingerprints), np.uint8).reshape(len(fingerprints), -1)
    bits = np.unpackbits(packed, axis=1).astype(np.float32)
    # The squared distance of two rows is the number of bits that differ.
    graph = radius_neighbors_graph(bits, (MAX_DISTANCE + 0.5) ** 0.5)
    groups = connected_components(graph, directed=False)[1]
    repeated = np.flatnonzero(np.bincount(groups) > 1)
    return [np.flatnonzero(groups == group).tolist() for group in repeated]


def _find_shortcuts(readable: Sequence[Entry]) -> list[Shortcut]:
    training = [entry for entry in readable if entry.split == "train"]
    positive = np.array([entry.label == PNEUMONIA for entry in training], dtype=bool)
    if positive.all() or not positive.any():
        return []
    contents = [entry.content for entry in training]
    modes = np.array([content.mode for content in contents])
    # A mode has no order: its best score is the fraction of PNEUMONIA among its images.
    by_mode = {mode: positive[modes == mode].mean() for mode in set(modes.tolist())}
    scores = {
        "colour mode": [by_mode[content.mode] for content in contents],
        "width": [content.width for content in contents],
        "height": [content.height for content in contents],
        "aspect ratio": [content.width / content.height for content in contents],
        "bytes": [content.size for content in contents],
    }
    for name in contents[0].statistics:
        scores[name] = [content.statistics[name] for content in contents]
    aurocs = {name: float(roc_auc_score(positive, values)) for name, values in scores.items()}
    found = [
        Shortcut(name, max(auroc, 1 - auroc), AUGMENTATIONS[name]) for name, auroc in aurocs.items()
    ]
    return sorted(found, key=lambda shortcut: -shortcut.auroc)


def _group(entries: Iterable[Entry], key: Callable[[Entry], Hashable]) -> Iterable[list[Entry]]:
    groups: defaultdict[Hashable, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return groups.values()


def _overlap(kind: Kind, group: list[Entry]) -> Overlap:
    crossed = ["splits"] if len({entry.split for entry in group}) > 1 else []
    crossed += ["classes"] if len({entry.label for entry in group}) > 1 else []
    where = f"across {' and '.join(crossed)}" if crossed else "in one split"
    patients = sorted({entry.patient for entry in group if entry.patient is not None})
    return Overlap(kind, where, tuple(patients), tuple(entry.name for entry in group))


def _check_files(inventory: Inventory, entries: Sequence[Entry]) -> Iterator[Finding]:
    unreadable = [entry.name for entry in entries if entry.content.problem is not None]
    misfiled = [entry.name for entry in entries if entry.misfiled]
    unknown = [entry.name for entry in entries if entry.identity is None]
    warned = [entry for entry in entries if entry.content.warnings]
    rules: tuple[tuple[Severity, str, list[str], str], ...] = (
        ("error", "empty class", inventory.empty, "missing or without images"),
        ("error", "misplaced", inventory.misplaced, "not in SPLIT/CLASS: move or remove"),
        ("warning", "no split", inventory.absent, "without a folder"),
        ("warning", "ignored", inventory.ignored, "neither image nor split: not counted"),
        ("error", "unreadable", unreadable, "replace or remove"),
        ("error", "wrong class", misfiled, "file name states the other class: move or remove"),
        ("warning", "unknown name", unknown, "set --patients, data.patients"),
    )
    for severity, check, names, text in rules:
        if names:
            yield Finding(severity, check, f"{abridge(names)}: {text}", tuple(names))
    if warned:
        names = [entry.name for entry in warned]
        first = warned[0].content.warnings[0]
        yield Finding("warning", "content", f"{abridge(names)}: first: {first}", tuple(names))


def _check_overlaps(overlaps: Sequence[Overlap]) -> Iterator[Finding]:
    kinds: defaultdict[tuple[str, str, bool], list[Overlap]] = defaultdict(list)
    for overlap in overlaps:
        kinds[overlap.kind, overlap.where, overlap.is_error].append(overlap)
    for (kind, where, is_error), found in kinds.items():
        files = [file for overlap in found for file in overlap.files]
        advice = "keep in one split" if is_error else "counted more than once"
        message = f"{len(found)} x {kind} {where}: {abridge(files)}: {advice}"
        yield Finding("error" if is_error else "warning", f"{kind} {where}", message, tuple(files))


def _check_counts(counts: Sequence[Count]) -> Iterator[Finding]:
    different = [
        f"{count.split} {count.subtype} {count.images} instead of {count.published}"
        for count in counts
        if count.published not in {None, count.images}
    ]
    if different:
        message = f"not the published counts of Kaggle's data set: {', '.join(different)}"
        yield Finding("warning", "counts", message)


def _check_shortcuts(shortcuts: Sequence[Shortcut]) -> Iterator[Finding]:
    flagged = [s for s in shortcuts if s.flagged]
    if flagged:
        names = ", ".join(f"{s.attribute} {s.auroc:.2f}" for s in flagged)
        varied = any(s.augmentation for s in flagged)
        message = (
            f"properties of the training images predict the class, AUROC: {names}:"
            f" {'set data.augmentation' if varied else 'images are read as grey'}"
        )
        yield Finding("warning", "shortcut", message)


def abridge(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
