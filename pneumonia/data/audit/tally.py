"""Images and patients by split, class and subtype, beside what was published."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pneumonia.data.audit.survey import Entry
from pneumonia.data.inventory import SPLITS
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
