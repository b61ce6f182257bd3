"""Every image file of a data set, with what its name, its place and its content say."""

from dataclasses import dataclass

from pneumonia.data.audit.inspection import Inspection, inspect
from pneumonia.data.inventory import Inventory, Place
from pneumonia.data.patients import Identity, identify
from pneumonia.data.pool import spread
from pneumonia.errors import DataError
from pneumonia.labels import NORMAL, UNKNOWN_SUBTYPE


@dataclass(frozen=True, slots=True)
class Entry:
    """One image file.

    Attributes:
        place: Where it lies.
        identity: Who it shows; None where the name tells no patient.
        misfiled: Whether the name says another class than the folder.
        seen: What a look into the file found.
    """

    place: Place
    identity: Identity | None
    misfiled: bool
    seen: Inspection

    @property
    def subtype(self) -> str:
        """`normal`, `bacterial`, `viral` or `unknown`, by name and, failing that, by folder."""
        if self.identity is not None:
            return self.identity.subtype
        return "normal" if self.place.label == NORMAL else UNKNOWN_SUBTYPE


def survey(
    inventory: Inventory, patients: str | None = None, workers: int | None = None
) -> list[Entry]:
    """Look into every image file.

    Args:
        inventory: The files.
        patients: What a patient is; see `pneumonia.data.patients.identify`.
        workers: Number of processes; None: as many as help.

    Returns:
        In the order of the inventory.

    Raises:
        ConfigError: If `patients` is no usable expression.
    """
    named = [_read_name(place, patients) for place in inventory.images]
    paths = [inventory.path(place.name) for place in inventory.images]
    seen = spread(inspect, paths, "reading images", workers)
    return [
        Entry(place, *name, look)
        for place, name, look in zip(inventory.images, named, seen, strict=True)
    ]


def _read_name(place: Place, patients: str | None) -> tuple[Identity | None, bool]:
    for label, misfiled in ((place.label, False), (1 - place.label, True)):
        try:
            return identify([place.name], [label], patients)[0], misfiled
        except DataError:  # the name tells no patient, or contradicts the class
            continue
    return None, False
