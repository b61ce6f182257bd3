"""Checks of a data set: errors that make a result wrong, and warnings."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import roc_auc_score

from pneumonia.data.audit.scan import PUBLISHED, Entry, Inventory, scan_images
from pneumonia.data.patients import UNNUMBERED
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA, SPLITS

MAX_DISTANCE = 64
"""Images whose fingerprints differ in at most this many of 576 bits are near-identical."""

SHORTCUT_AUROC = 0.70

Severity = Literal["error", "warning"]
Kind = Literal["patient", "identical", "near-identical"]

_PAIRS = 1 << 20  # compared at once: 8 MB
_NAMED = 3


@dataclass(frozen=True)
class Count:
    """Images of one subtype in one split.

    Attributes:
        split: `train`, `val` or `test`.
        label: NORMAL or PNEUMONIA, by folder.
        subtype: `normal`, `bacterial`, `viral` or `unknown`.
        images: Files, readable or not.
        patients: Patients, as far as names tell.
        largest: Images of the patient with the most images.
        published: Images in Kaggle's data set; None if no name is one of Kaggle's.
    """

    split: str
    label: str
    subtype: str
    images: int
    patients: int
    largest: int
    published: int | None


@dataclass(frozen=True)
class Overlap:
    """Images that belong on one side of every split.

    Attributes:
        kind: The same `patient`, byte-`identical` files, or `near-identical` images.
        where: `across splits`, `across classes`, `across splits and classes`; or `in one split`.
        patients: Their patients.
        files: Their names.
    """

    kind: Kind
    where: str
    patients: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def is_error(self) -> bool:
        """Whether it leaks between splits or makes a label wrong."""
        return self.where.startswith("across")


@dataclass(frozen=True)
class Shortcut:
    """How well one property of the files separates the classes.

    Attributes:
        attribute: `colour mode`, `width`, `height`, `aspect ratio` or `bytes`.
        auroc: AUROC of that property alone in the better direction, 0.5 to 1.
        normal: Median of NORMAL images, or the fraction of each mode.
        pneumonia: The same for PNEUMONIA.
    """

    attribute: str
    auroc: float
    normal: str
    pneumonia: str

    @property
    def flagged(self) -> bool:
        """Whether a classifier could rely on it."""
        return self.auroc >= SHORTCUT_AUROC


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        severity: `error` if training or testing on the data set would fail or mislead.
        check: The name of the check.
        message: What was found and what to do.
        files: All files or folders concerned, relative to the root.
    """

    severity: Severity
    check: str
    message: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        root: The data set's folder.
        entries: Every image file.
        counts: Images and patients by split, class and subtype.
        overlaps: Patients across splits or classes, and copies; errors first.
        shortcuts: Properties of the files that separate the classes, strongest first.
        findings: Problems; errors first.
    """

    root: Path
    entries: list[Entry]
    counts: list[Count]
    overlaps: list[Overlap]
    shortcuts: list[Shortcut]
    findings: list[Finding]

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


def audit(root: str | Path, patients: str | None = None, workers: int | None = None) -> Audit:
    """Read every image of a data set, and compare its splits and classes.

    Args:
        root: Folder with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.
        patients: What a patient is; see `pneumonia.data.patients.identify_patients`.
        workers: Number of processes; None: one for each core.

    Raises:
        DataError: If the folder is not a data set.
        ConfigError: If `patients` is not a valid expression.
    """
    inventory = Inventory(Path(root).expanduser())
    entries = scan_images(inventory, patients, workers)
    readable = [entry for entry in entries if entry.content.problem is None]
    counts = count_images(entries)
    overlaps = [*patient_overlaps(entries), *find_copies(readable)]
    overlaps.sort(key=lambda overlap: not overlap.is_error)
    contents = [entry.content for entry in readable]
    shortcuts = find_shortcuts(
        [entry.label for entry in readable],
        [content.mode for content in contents],
        {
            "width": [content.width for content in contents],
            "height": [content.height for content in contents],
            "aspect ratio": [content.width / content.height for content in contents],
            "bytes": [content.size for content in contents],
        },
    )
    findings = [
        *_check_folders(inventory),
        *_check_files(entries),
        *_check_overlaps(overlaps),
        *_check_counts(counts),
        *_check_shortcuts(shortcuts),
    ]
    findings.sort(key=lambda finding: finding.severity)  # "error" sorts before "warning"
    return Audit(inventory.root, entries, counts, overlaps, shortcuts, findings)


def count_images(entries: Sequence[Entry]) -> list[Count]:
    """Count images and patients by split, class and subtype.

    Args:
        entries: All image files.

    Returns:
        In that order; published subtypes that are missing count 0.
    """
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


def patient_overlaps(entries: Iterable[Entry]) -> list[Overlap]:
    """Find patients in several splits or classes.

    Args:
        entries: All image files; those whose name tells no patient are left out.
    """
    known = [entry for entry in entries if entry.patient is not None]
    overlaps = [_overlap("patient", group) for group in _group(known, lambda e: e.patient)]
    return [overlap for overlap in overlaps if overlap.is_error]


def find_copies(readable: Sequence[Entry]) -> list[Overlap]:
    """Find identical and near-identical images.

    Args:
        readable: Image files that can be decoded.
    """
    copies = [
        _overlap("identical", group)
        for group in _group(readable, lambda entry: entry.content.digest)
        if len(group) > 1
    ]
    for positions in near_duplicates([entry.content.fingerprint for entry in readable]):
        group = [readable[position] for position in positions]
        if len({entry.content.digest for entry in group}) > 1:
            copies.append(_overlap("near-identical", group))
    return copies


def near_duplicates(fingerprints: Sequence[bytes]) -> list[list[int]]:
    """Find groups of images that show the same picture.

    Args:
        fingerprints: From `pneumonia.data.audit.scan.fingerprint`.

    Returns:
        For each group of two or more, the positions of its images. Each is near another one of
        its group, not necessarily all.
    """
    n = len(fingerprints)
    if not n:
        return []
    words = np.frombuffer(b"".join(fingerprints), dtype=np.uint64).reshape(n, -1)
    pairs: list[NDArray[np.intp]] = []
    step = max(1, _PAIRS // n)
    for start in range(0, n, step):  # block by block, to bound memory
        block = words[start : start + step]
        distances = np.zeros((len(block), n), dtype=np.uint16)
        for word in range(words.shape[1]):
            distances += np.bitwise_count(block[:, word, None] ^ words[None, :, word])
        one, other = np.nonzero(distances <= MAX_DISTANCE)
        pairs.append(np.stack([one + start, other]))
    one, other = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(n, n))
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for position, group in enumerate(connected_components(graph, directed=False)[1]):
        groups[int(group)].append(position)
    return [positions for positions in groups.values() if len(positions) > 1]


def find_shortcuts(
    labels: ArrayLike, modes: Sequence[str], numbers: Mapping[str, ArrayLike]
) -> list[Shortcut]:
    """Measure how well properties of the files separate the classes.

    Args:
        labels: 0 (NORMAL) or 1 (PNEUMONIA) of each image.
        modes: Their colour modes.
        numbers: Name and values of each numeric property.

    Returns:
        Strongest first; none if the images are all of one class.
    """
    positive = np.asarray(labels) == PNEUMONIA
    if positive.all() or not positive.any():
        return []
    names = np.array(modes)
    # A mode has no order: its best score is the fraction of PNEUMONIA among its images.
    by_mode = {mode: positive[names == mode].mean() for mode in set(modes)}
    scores: dict[str, ArrayLike] = {"colour mode": [by_mode[mode] for mode in modes], **numbers}
    found = []
    for name, values in scores.items():
        column = np.asarray(values, dtype=np.float64)
        auroc = float(roc_auc_score(positive, column))
        typical = [
            _fractions(names[rows]) if name == "colour mode" else _median(column[rows])
            for rows in (~positive, positive)
        ]
        found.append(Shortcut(name, max(auroc, 1 - auroc), *typical))
    return sorted(found, key=lambda shortcut: -shortcut.auroc)


def _fractions(modes: NDArray[np.str_]) -> str:
    counts = Counter(modes.tolist())
    return ", ".join(f"{mode} {n / counts.total():.1%}" for mode, n in counts.most_common())


def _median(values: NDArray[np.float64]) -> str:
    value = float(np.median(values))
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004  sizes, and ratios


def _group(entries: Iterable[Entry], key: Callable[[Entry], Hashable]) -> Iterable[list[Entry]]:
    groups: defaultdict[Hashable, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return groups.values()


def _overlap(kind: Kind, group: list[Entry]) -> Overlap:
    crossed = [
        name
        for name, values in (
            ("splits", {entry.split for entry in group}),
            ("classes", {entry.label for entry in group}),
        )
        if len(values) > 1
    ]
    where = f"across {' and '.join(crossed)}" if crossed else "in one split"
    patients = sorted({entry.patient for entry in group if entry.patient is not None})
    return Overlap(kind, where, tuple(patients), tuple(entry.name for entry in group))


def _check_folders(inventory: Inventory) -> Iterator[Finding]:
    rules: tuple[tuple[Severity, str, list[str], str], ...] = (
        ("error", "empty class", inventory.empty, "missing or without images"),
        ("error", "misplaced", inventory.misplaced, "where training refuses them: move elsewhere"),
        ("warning", "no split", inventory.absent, "without a folder"),
        ("warning", "ignored", inventory.ignored, "neither image nor split: not counted"),
    )
    for severity, check, names, text in rules:
        if names:
            yield Finding(severity, check, f"{_abridge(names)}: {text}", tuple(names))


def _check_files(entries: Sequence[Entry]) -> Iterator[Finding]:
    rules: tuple[tuple[Severity, str, Callable[[Entry], bool], str], ...] = (
        ("error", "unreadable", lambda e: e.content.problem is not None, "replace or remove"),
        ("error", "wrong class", lambda e: e.misfiled, "named for the other class: move or remove"),
        ("warning", "unknown name", lambda e: e.identity is None, "set --patients, data.patients"),
    )
    for severity, check, concerns, text in rules:
        names = [entry.name for entry in entries if concerns(entry)]
        if names:
            yield Finding(severity, check, f"{_abridge(names)}: {text}", tuple(names))


def _check_overlaps(overlaps: Sequence[Overlap]) -> Iterator[Finding]:
    kinds: defaultdict[tuple[str, str, bool], list[Overlap]] = defaultdict(list)
    for overlap in overlaps:
        kinds[overlap.kind, overlap.where, overlap.is_error].append(overlap)
    for (kind, where, is_error), found in kinds.items():
        files = [file for overlap in found for file in overlap.files]
        advice = "keep on one side only" if is_error else "counted more than once"
        message = f"{len(found)} x {kind} {where}: {_abridge(files)}: {advice}"
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
    flagged = [f"{s.attribute} {s.auroc:.2f}" for s in shortcuts if s.flagged]
    if flagged:
        message = f"properties of the file predict the class, AUROC: {', '.join(flagged)}"
        yield Finding("warning", "shortcut", message)


def _abridge(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
