"""What lies where in a data set's folder, whether or not it should."""

import hashlib
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pneumonia.data.image_io import FORMATS, read_grey
from pneumonia.data.parallel import parallel_map
from pneumonia.data.patients import Identity, identify_patients
from pneumonia.data.safe_open import AFTER_PREAMBLE, is_dicom
from pneumonia.errors import DataError
from pneumonia.labels import CLASSES, NORMAL, UNKNOWN_SUBTYPE

SPLITS = ("train", "val", "test")

EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
    *(".dcm", ".dicom"),
)
"""What training takes for an image: by its name, what torchvision's `ImageFolder` does, and
DICOM; what it holds is only looked at when it is read."""

_ARCHIVE_DEBRIS = "__MACOSX"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image file lies.

    Attributes:
        name: Its path relative to the data set's folder, with `/` on every system.
        split: `train`, `val` or `test`.
        label: 0 (NORMAL) or 1 (PNEUMONIA), by its folder.
    """

    name: str
    split: str
    label: int


@dataclass
class Inventory:
    """The entries of a data set's folder, by paths relative to it, in name order.

    Links are followed, but no folder below a class is entered, so a link that loops ends.

    Attributes:
        root: Folder with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.
        images: Files of classes whose names are those of images.
        misplaced: Folders and images where training accepts none.
        empty: Class folders that are missing or hold no image.
        absent: Splits that have no folder.
        ignored: What training passes over in silence: files of other kinds, and folders that
            are no split.
        unlisted: Folders that cannot be listed.

    Raises:
        DataError: If the root is no folder, or no split in it has a class folder.
    """

    root: Path
    images: list[Place] = field(default_factory=list, init=False)
    misplaced: list[str] = field(default_factory=list, init=False)
    empty: list[str] = field(default_factory=list, init=False)
    absent: list[str] = field(default_factory=list, init=False)
    ignored: list[str] = field(default_factory=list, init=False)
    unlisted: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        _check_data_set(self.root)
        self.ignored += [
            self._name(entry)
            for entry in self._entries(self.root)
            if entry.name not in SPLITS and (entry.is_dir() or _is_image(entry))
        ]
        for split in SPLITS:
            if (self.root / split).is_dir():
                self._walk_split(split)
            else:
                self.absent.append(split)

    def path(self, name: str) -> str:
        """The path to open for a name relative to the root."""
        return str(self.root / name)

    def _entries(self, folder: Path) -> list[Path]:
        try:
            return sorted(
                entry
                for entry in folder.iterdir()
                if not entry.name.startswith(".") and entry.name != _ARCHIVE_DEBRIS
            )
        except OSError:
            self.unlisted.append(self._name(folder))
            return []

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _walk_split(self, split: str) -> None:
        for entry in self._entries(self.root / split):
            if entry.is_dir() and entry.name in CLASSES:
                continue
            stray = self.misplaced if entry.is_dir() or _is_image(entry) else self.ignored
            stray.append(self._name(entry))
        for label, name in enumerate(CLASSES):
            folder = self.root / split / name
            before = len(self.images)
            if folder.is_dir():
                self._walk_class(folder, split, label)
            if len(self.images) == before:
                self.empty.append(self._name(folder))

    def _walk_class(self, folder: Path, split: str, label: int) -> None:
        for entry in self._entries(folder):
            name = self._name(entry)
            if entry.is_dir():
                self.misplaced.append(name)
            elif _is_image(entry):
                self.images.append(Place(name, split, label))
            else:
                self.ignored.append(name)


def _check_data_set(root: Path) -> None:
    wanted = f"expected {', '.join(SPLITS)} in it, each with {' and '.join(CLASSES)}"
    if not root.is_dir():
        found = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {found}; {wanted}.")
    if _is_data_set(root):
        return
    if any((root / name).is_dir() for name in CLASSES):
        raise DataError(
            f"{root} is a single split, not a data set; {wanted}: make it the folder train of a"
            " data set, and give that."
        )
    nested = next((child for child in sorted(root.glob("*")) if _is_data_set(child)), None)
    hint = f"; did you mean {nested}?" if nested else "."
    raise DataError(f"{root} is not a data set: {wanted}{hint}")


def _is_data_set(folder: Path) -> bool:
    return any((folder / split / name).is_dir() for split in SPLITS for name in CLASSES)


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(EXTENSIONS)


NEAR = 64
"""Fingerprints that differ in at most this many of their 576 bits show the same picture."""

_SIDE = 128
_KEPT = 24
_COSINES = np.cos(
    np.pi * np.outer(np.arange(_KEPT), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE), dtype=np.float32
)
_BLOCK = 1 << 20  # pairs compared at once: 8 MB


def fingerprint(image: Image.Image) -> bytes:
    """Hash what an image shows, not how it was saved.

    Args:
        image: Mode `L`, any size.

    Returns:
        72 bytes.
    """
    small = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32)
    waves = (_COSINES @ small @ _COSINES.T).ravel()
    return np.packbits(waves > np.median(waves[1:])).tobytes()  # the first is the mean grey


def near_duplicates(fingerprints: Sequence[bytes], within: int = NEAR) -> list[list[int]]:
    """Find the sets of images that show the same picture.

    All pairs are compared, block by block, so memory does not grow with their number.

    Args:
        fingerprints: What `fingerprint` returned for each image.
        within: Most bits that may differ, directly or through other images of the set.

    Returns:
        For each set of two or more, the positions of its images, in order.
    """
    if not fingerprints:
        return []
    rows = np.frombuffer(b"".join(fingerprints), dtype=np.uint64).reshape(len(fingerprints), -1)
    distinct, place = np.unique(rows, axis=0, return_inverse=True)
    leader = list(range(len(distinct)))

    def find(node: int) -> int:
        while leader[node] != node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    step = max(1, _BLOCK // len(distinct))
    for start in range(0, len(distinct), step):
        near = _distances(distinct[start : start + step], distinct[start:]) <= within
        for one, other in zip(*np.nonzero(np.triu(near, 1)), strict=True):
            leader[find(start + int(other))] = find(start + int(one))
    sets: dict[int, list[int]] = {}
    for position, row in enumerate(place.ravel()):
        sets.setdefault(find(int(row)), []).append(position)
    return [positions for positions in sets.values() if len(positions) > 1]


def _distances(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint16]:
    total = np.zeros((len(one), len(other)), dtype=np.uint16)
    for word in range(one.shape[1]):
        total += np.bitwise_count(one[:, word, None] ^ other[None, :, word])
    return total


Fault = Literal["empty", "not an image", "truncated", "oversized", "unreadable"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that is kept of a file: some 300 bytes, however large it is.

    Attributes:
        fault: What keeps the file from being read as an image; None if it decodes.
        detail: The fault in the words of whoever met it.
        size: Bytes.
        mode: Pillow's colour mode, such as `L` or `RGB`; `L` for DICOM, which is only read grey.
        width: Pixels.
        height: Pixels.
        digest: SHA-256 of the bytes; equal for identical files.
        fingerprint: Of what the image shows; see `pneumonia.data.audit.scan`.
    """

    fault: Fault | None = None
    detail: str = ""
    size: int = 0
    mode: str = ""
    width: int = 0
    height: int = 0
    digest: bytes = b""
    fingerprint: bytes = b""


def inspect(path: str) -> Inspection:
    """Read a file once from end to end, as training would, and decode all of it.

    Args:
        path: Any file.

    Returns:
        What was found; no exception, whatever the file holds.
    """
    try:
        return _look(path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = f"{Image.MAX_IMAGE_PIXELS:,}" if Image.MAX_IMAGE_PIXELS else "the limit of"
        return Inspection("oversized", f"its header promises more than {limit} pixels")
    except UnidentifiedImageError:
        return Inspection("not an image", "its content is of no known image format")
    except OSError as error:
        detail = error.strerror or str(error)
        return Inspection("truncated" if "truncated" in detail.lower() else "unreadable", detail)
    except Exception as error:  # noqa: BLE001  a damaged file raises anything; the next one follows
        return Inspection("unreadable", f"{type(error).__name__}: {error}")


def _look(path: str) -> Inspection:
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited on for ever
        return Inspection("unreadable", "it is not a regular file")
    if not status.st_size:
        return Inspection("empty", "it has 0 bytes")
    with Path(path).open("rb") as file:
        dicom = is_dicom(file.read(AFTER_PREAMBLE))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
    mode, size = "L", (0, 0)
    if not dicom:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:  # the header alone
                mode, size = image.mode, image.size
    try:
        grey = read_grey(path)
    except DataError as error:
        raise error.__cause__ or error from None
    width, height = grey.size if dicom else size
    return Inspection(None, "", status.st_size, mode, width, height, digest, fingerprint(grey))


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


def scan_images(
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
    seen = parallel_map(inspect, paths, "reading images", workers)
    return [
        Entry(place, *name, look)
        for place, name, look in zip(inventory.images, named, seen, strict=True)
    ]


def _read_name(place: Place, patients: str | None) -> tuple[Identity | None, bool]:
    for label, misfiled in ((place.label, False), (1 - place.label, True)):
        try:
            return identify_patients([place.name], [label], patients)[0], misfiled
        except DataError:  # the name tells no patient, or contradicts the class
            continue
    return None, False
