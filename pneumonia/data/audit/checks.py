"""The rules of the audit: what is an error, what a warning, and the sentence that says so."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.data.audit.scan import SPLITS, Entry, Inventory, near_duplicates, scan_images
from pneumonia.data.patients import UNNUMBERED
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

PUBLISHED: dict[str, dict[str, int]] = {
    "train": {"normal": 1341, "bacterial": 2530, "viral": 1345},
    "val": {"normal": 8, "bacterial": 8},
    "test": {"normal": 234, "bacterial": 242, "viral": 148},
}
"""Images in Kaggle's `paultimothymooney/chest-xray-pneumonia`, 5,856 in all."""


@dataclass(frozen=True)
class Count:
    """How much there is of one subtype in one split.

    Attributes:
        split: `train`, `val` or `test`.
        label: NORMAL or PNEUMONIA, by folder.
        subtype: `normal`, `bacterial`, `viral` or `unknown`.
        images: Files, readable or not.
        patients: Patients, as far as names tell.
        most: Images of the patient who has most.
        published: Images that Kaggle's set has here; None where no name is Kaggle's.
    """

    split: str
    label: str
    subtype: str
    images: int
    patients: int
    most: int
    published: int | None


def tally(entries: Sequence[Entry]) -> list[Count]:
    """Count images and patients.

    Args:
        entries: All image files.

    Returns:
        By split, class and subtype, in that order; what was published and is missing counts 0.
    """
    kaggle = any(e.identity is not None and e.identity.number != UNNUMBERED for e in entries)
    images: defaultdict[tuple[str, int, str], list[str]] = defaultdict(list)
    for entry in entries:
        patient = entry.identity.patient if entry.identity is not None else ""
        images[entry.place.split, entry.place.label, entry.subtype].append(patient)
    if kaggle:
        for split, subtypes in PUBLISHED.items():
            for subtype in subtypes:
                images[split, NORMAL if subtype == "normal" else PNEUMONIA, subtype] += []
    counts = []
    for split, label, subtype in sorted(images, key=lambda key: (SPLITS.index(key[0]), *key[1:])):
        shown = images[split, label, subtype]
        patients = Counter(patient for patient in shown if patient)
        published = PUBLISHED[split].get(subtype, 0) if kaggle else None
        counts.append(
            Count(
                split,
                CLASSES[label],
                subtype,
                len(shown),
                len(patients),
                max(patients.values(), default=0),
                published,
            )
        )
    return counts


@dataclass(frozen=True)
class Overlap:
    """A set of images that belong together.

    Attributes:
        kind: The same `patient`, byte-`identical` files, or `near-identical` images: the same
            picture, saved anew.
        across_splits: Whether they lie in several splits.
        across_classes: Whether they lie in several classes.
        patients: The patients they are said to show.
        files: Their names.
    """

    kind: Literal["patient", "identical", "near-identical"]
    across_splits: bool
    across_classes: bool
    patients: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def forbidden(self) -> bool:
        """Whether it makes a split dishonest or a label wrong, rather than being a mere repeat."""
        return self.across_splits or self.across_classes

    @property
    def where(self) -> str:
        """The overlap's reach, in words."""
        if self.forbidden:
            reach = [
                name
                for name, crossed in (
                    ("splits", self.across_splits),
                    ("classes", self.across_classes),
                )
                if crossed
            ]
            return f"across {' and '.join(reach)}"
        return "in one split, of one patient" if len(self.patients) <= 1 else "in one split"


@dataclass(frozen=True)
class WrongKey:
    """What keying patients on their number alone, without the stream, would have claimed.

    Attributes:
        numbers: Patient numbers that occur in several splits.
        images: Images that carry one of them.
    """

    numbers: int
    images: int


def find_copies(entries: Sequence[Entry]) -> list[Overlap]:
    """Find identical and near-identical images.

    Args:
        entries: All image files; those that cannot be decoded are left out.

    Returns:
        Those across splits and classes first.
    """
    readable = [entry for entry in entries if entry.seen.fault is None]
    copies = [
        _overlap("identical", alike)
        for alike in _grouped(readable, lambda entry: entry.seen.digest)
        if len(alike) > 1
    ]
    for positions in near_duplicates([entry.seen.fingerprint for entry in readable]):
        alike = [readable[position] for position in positions]
        if len({entry.seen.digest for entry in alike}) > 1:
            copies.append(_overlap("near-identical", alike))
    return sorted(copies, key=lambda copy: (not copy.across_splits, not copy.across_classes))


def find_crossings(entries: Sequence[Entry]) -> list[Overlap]:
    """Find the patients that occur in several splits or classes.

    Args:
        entries: All image files; those whose name tells no patient are left out.
    """
    known = [entry for entry in entries if entry.identity is not None]
    overlaps = (_overlap("patient", shown) for shown in _grouped(known, _patient))
    return [overlap for overlap in overlaps if overlap.forbidden]


def accused_by_number(entries: Sequence[Entry]) -> WrongKey:
    """Count what the number alone would take for patients in several splits.

    Args:
        entries: All image files; those without a patient number are left out.
    """
    numbered = [
        entry
        for entry in entries
        if entry.identity is not None and entry.identity.number != UNNUMBERED
    ]
    accused = [
        shown
        for shown in _grouped(numbered, lambda entry: entry.identity and entry.identity.number)
        if len({entry.place.split for entry in shown}) > 1
    ]
    return WrongKey(len(accused), sum(map(len, accused)))


def _patient(entry: Entry) -> str:
    return entry.identity.patient if entry.identity is not None else ""


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], Hashable]) -> Iterable[list[Entry]]:
    groups: defaultdict[Hashable, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return groups.values()


def _overlap(
    kind: Literal["patient", "identical", "near-identical"], shown: list[Entry]
) -> Overlap:
    return Overlap(
        kind,
        len({entry.place.split for entry in shown}) > 1,
        len({entry.place.label for entry in shown}) > 1,
        tuple(sorted({_patient(entry) for entry in shown} - {""})),
        tuple(entry.place.name for entry in shown),
    )


FLAGGED_FROM = 0.70


@dataclass(frozen=True)
class Shortcut:
    """One property of the files, and how well it tells the classes apart on its own.

    Attributes:
        attribute: `colour mode`, `width`, `height`, `aspect ratio` or `bytes`.
        auroc: Of that property alone, whichever way round: 0.5 says nothing, 1 all.
        normal: What is typical of NORMAL images: the median, or the share of each mode.
        pneumonia: The same of PNEUMONIA.
    """

    attribute: str
    auroc: float
    normal: str
    pneumonia: str

    @property
    def flagged(self) -> bool:
        """Whether a classifier could lean on it."""
        return self.auroc >= FLAGGED_FROM


def shortcuts(
    labels: ArrayLike, modes: Sequence[str], numbers: Mapping[str, ArrayLike]
) -> list[Shortcut]:
    """Measure every property.

    Args:
        labels: 0 (NORMAL) or 1 (PNEUMONIA) for each image.
        modes: Their colour modes.
        numbers: Name and values of each numeric property.

    Returns:
        Strongest first; none if the images are not of both classes.
    """
    positive = np.asarray(labels) == PNEUMONIA
    if positive.all() or not positive.any():
        return []
    # A mode has no order of its own: the best score it can give is the class share it has.
    share = {mode: positive[np.array(modes) == mode].mean() for mode in set(modes)}
    found = [
        Shortcut(
            "colour mode",
            separation(positive, [share[mode] for mode in modes]),
            *(_mode_shares(modes, positive == bool(label)) for label in (NORMAL, PNEUMONIA)),
        )
    ]
    for name, values in numbers.items():
        column = np.asarray(values, dtype=np.float64)
        medians = (
            _rounded(float(np.median(column[positive == bool(c)]))) for c in (NORMAL, PNEUMONIA)
        )
        found.append(Shortcut(name, separation(positive, column), *medians))
    return sorted(found, key=lambda shortcut: -shortcut.auroc)


def separation(positive: NDArray[np.bool_], scores: ArrayLike) -> float:
    """The AUROC of a score, whichever way round, from ranks with ties counted half.

    Args:
        positive: Shape (n,), of both classes.
        scores: Shape (n,).

    Returns:
        In [0.5, 1].
    """
    _, place, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    n = int(positive.sum())
    area = (float(ranks[positive].sum()) - n * (n + 1) / 2) / (n * (positive.size - n))
    return max(area, 1 - area)


def _mode_shares(modes: Sequence[str], of_class: NDArray[np.bool_]) -> str:
    counts = Counter(mode for mode, counted in zip(modes, of_class, strict=True) if counted)
    return ", ".join(f"{mode} {n / counts.total():.1%}" for mode, n in counts.most_common())


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004  sizes, and ratios


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


@dataclass(frozen=True)
class Audit:
    """All that was found.

    Attributes:
        root: The data set's folder.
        entries: Every image file.
        counts: Images and patients by split, class and subtype.
        copies: Identical and near-identical images, across splits and classes first.
        crossings: Patients in several splits or classes.
        wrong_key: What keying patients on N alone would have accused.
        shortcuts: Properties of the files that tell the classes apart, strongest first.
        findings: What is wrong or may be; errors first.
    """

    root: Path
    entries: list[Entry]
    counts: list[Count]
    copies: list[Overlap]
    crossings: list[Overlap]
    wrong_key: WrongKey
    shortcuts: list[Shortcut]
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        """The findings that are errors."""
        return [found for found in self.findings if found.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that are warnings."""
        return [found for found in self.findings if found.severity == "warning"]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values; it names every file, whatever the tables leave out."""
        patients = {entry.identity.patient for entry in self.entries if entry.identity}
        return {
            "root": str(self.root),
            "images": len(self.entries),
            "patients": len(patients),
            "errors": [asdict(found) for found in self.errors],
            "warnings": [asdict(found) for found in self.warnings],
            "counts": [asdict(count) for count in self.counts],
            "faults": [
                {
                    "file": entry.place.name,
                    "fault": entry.seen.fault,
                    "detail": entry.seen.detail,
                }
                for entry in self.entries
                if entry.seen.fault
            ],
            "copies": [asdict(copy) | {"where": copy.where} for copy in self.copies],
            "patients_across": [asdict(found) for found in self.crossings],
            "wrong_key": asdict(self.wrong_key),
            "shortcuts": [asdict(found) | {"flagged": found.flagged} for found in self.shortcuts],
        }


def audit(root: str | Path, patients: str | None = None, workers: int | None = None) -> Audit:
    """Look into every image of a data set, and at what its splits share.

    Args:
        root: Folder with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.
        patients: What a patient is; see `pneumonia.data.patients.identify`.
        workers: Number of processes; None: as many as help.

    Raises:
        DataError: If the folder is not a data set.
        ConfigError: If `patients` is no usable expression.
    """
    inventory = Inventory(Path(root).expanduser())
    entries = scan_images(inventory, patients, workers)
    counts = tally(entries)
    copies, crossings = find_copies(entries), find_crossings(entries)
    telling = _shortcuts([entry for entry in entries if entry.seen.fault is None])
    findings = [
        *in_folders(inventory),
        *in_files(entries),
        *in_overlaps([*crossings, *copies]),
        *in_counts(counts),
        *in_shortcuts(telling),
    ]
    findings.sort(key=lambda found: found.severity)  # "error" sorts before "warning"
    wrong_key = accused_by_number(entries)
    return Audit(inventory.root, entries, counts, copies, crossings, wrong_key, telling, findings)


def _shortcuts(readable: list[Entry]) -> list[Shortcut]:
    looks = [entry.seen for entry in readable]
    return shortcuts(
        [entry.place.label for entry in readable],
        [look.mode for look in looks],
        {
            "width": [look.width for look in looks],
            "height": [look.height for look in looks],
            "aspect ratio": [look.width / look.height for look in looks],
            "bytes": [look.size for look in looks],
        },
    )
