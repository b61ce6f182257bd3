"""What splits and classes share that they must not: patients, and copies of one image."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pneumonia.data.audit.fingerprint import lookalikes
from pneumonia.data.audit.survey import Entry
from pneumonia.data.patients import UNNUMBERED


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
    for positions in lookalikes([entry.seen.fingerprint for entry in readable]):
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
