"""Lists a data set's folder and reads every image file in it once."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, UnidentifiedImageError

from pneumonia.data.image_io import FORMATS, read_grey
from pneumonia.data.parallel import parallel_map
from pneumonia.data.patients import Identity, identify_patients
from pneumonia.data.safe_open import quiet
from pneumonia.errors import DataError
from pneumonia.labels import CLASSES, NORMAL, SPLITS, UNKNOWN_SUBTYPE, is_image_name

PUBLISHED: dict[str, dict[str, int]] = {
    "train": {"normal": 1341, "bacterial": 2530, "viral": 1345},
    "val": {"normal": 8, "bacterial": 8},
    "test": {"normal": 234, "bacterial": 242, "viral": 148},
}
"""Images in Kaggle's `paultimothymooney/chest-xray-pneumonia`, 5,856 in all."""


@dataclass(frozen=True)
class ImageFile:
    """An image file of a data set.

    Attributes:
        name: Path relative to the data set's folder, with `/` on every system.
        split: `train`, `val` or `test`.
        label: 0 (NORMAL) or 1 (PNEUMONIA), by its folder.
    """

    name: str
    split: str
    label: int


@dataclass
class Inventory:
    """The entries of a data set's folder, by paths relative to it, in name order.

    Links are followed, but no folder below a class is entered, so link loops are harmless.

    Attributes:
        root: Folder with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.
        images: Image files in class folders.
        misplaced: Folders and images where training accepts none.
        empty: Class folders that are missing or contain no image.
        absent: Splits without a folder.
        ignored: What training ignores: other files, and folders that are not splits.

    Raises:
        DataError: If the root is not a folder, no split in it has a class folder, or a folder
            cannot be listed.
    """

    root: Path
    images: list[ImageFile] = field(default_factory=list, init=False)
    misplaced: list[str] = field(default_factory=list, init=False)
    empty: list[str] = field(default_factory=list, init=False)
    absent: list[str] = field(default_factory=list, init=False)
    ignored: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        _check_data_set(self.root)
        for entry in self._entries(self.root):
            if entry.name not in SPLITS and (entry.is_dir() or _is_image(entry)):
                self.ignored.append(self._name(entry))
        for split in SPLITS:
            if (self.root / split).is_dir():
                self._list_split(split)
            else:
                self.absent.append(split)

    def _entries(self, folder: Path) -> list[Path]:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise DataError(f"{folder} cannot be listed ({error.strerror}).") from error
        return [e for e in entries if not e.name.startswith(".") and e.name != "__MACOSX"]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _list_split(self, split: str) -> None:
        for entry in self._entries(self.root / split):
            if not (entry.is_dir() and entry.name in CLASSES):
                stray = self.misplaced if entry.is_dir() or _is_image(entry) else self.ignored
                stray.append(self._name(entry))
        for label, name in enumerate(CLASSES):
            folder = self.root / split / name
            before = len(self.images)
            for entry in self._entries(folder) if folder.is_dir() else ():
                if entry.is_dir():
                    self.misplaced.append(self._name(entry))
                elif _is_image(entry):
                    self.images.append(ImageFile(self._name(entry), split, label))
                else:
                    self.ignored.append(self._name(entry))
            if len(self.images) == before:
                self.empty.append(self._name(folder))


def _check_data_set(root: Path) -> None:
    expected = f"expected {', '.join(SPLITS)} in it, each with {' and '.join(CLASSES)}"
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {problem}; {expected}.")
    if _is_data_set(root):
        return
    if any((root / name).is_dir() for name in CLASSES):
        raise DataError(
            f"{root} is a single split, not a data set; {expected}: move it to a folder train, and"
            " give the folder above that."
        )
    nested = next((child for child in sorted(root.glob("*")) if _is_data_set(child)), None)
    hint = f"; did you mean {nested}?" if nested else "."
    raise DataError(f"{root} is not a data set: {expected}{hint}")


def _is_data_set(folder: Path) -> bool:
    return any((folder / split / name).is_dir() for split in SPLITS for name in CLASSES)


def _is_image(path: Path) -> bool:
    return is_image_name(path.name)


@dataclass(frozen=True)
class Inspection:
    """What is kept of a file's content.

    Attributes:
        problem: Why the file cannot be used; None if it decodes.
        size: Bytes.
        mode: Pillow's colour mode, such as `L` or `RGB`; `L` for DICOM.
        width: Pixels.
        height: Pixels.
        digest: SHA-256 of the bytes.
        fingerprint: Perceptual hash of the image; see `fingerprint`.
    """

    problem: str | None = None
    size: int = 0
    mode: str = ""
    width: int = 0
    height: int = 0
    digest: bytes = b""
    fingerprint: bytes = b""


def inspect(path: str | Path) -> Inspection:
    """Read and decode a file once, as training would.

    Args:
        path: Any file; a damaged one is reported in `Inspection.problem`.
    """
    try:
        grey = read_grey(path)
    except DataError as error:
        return Inspection(str(error).removeprefix(f"{path} ").rstrip("."))
    content = Path(path).read_bytes()
    mode = "L"
    try:
        with quiet(), Image.open(path, formats=FORMATS) as image:  # the header alone
            mode = image.mode
    except UnidentifiedImageError:
        pass  # DICOM
    digest = hashlib.sha256(content).digest()
    return Inspection(None, len(content), mode, *grey.size, digest, fingerprint(grey))


def fingerprint(image: Image.Image) -> bytes:
    """Hash what an image shows, independent of how it was saved.

    Args:
        image: Mode `L`, any size.

    Returns:
        72 bytes: 24 x 24 signs of a cosine transform. In 5,206 X-rays, any two differ in at least
        124 of the 576 bits, and copies at other sizes, brightnesses and JPEG qualities in at most
        40. At 8 x 8 or 16 x 16 bits, and with other hashes, the two are closer or overlap.
    """
    return np.packbits(imagehash.phash(image, hash_size=24).hash).tobytes()


@dataclass(frozen=True)
class Entry(ImageFile):
    """An image file with what its name and content tell.

    Attributes:
        identity: Patient and subtype; None if the name matches no scheme.
        misfiled: Whether the name states the other class.
        content: The result of `inspect`.
    """

    identity: Identity | None
    misfiled: bool
    content: Inspection

    @property
    def patient(self) -> str | None:
        """Key of the patient; None if the name matches no scheme."""
        return self.identity.patient if self.identity is not None else None

    @property
    def subtype(self) -> str:
        """`normal`, `bacterial`, `viral` or `unknown`, by name or, failing that, by folder."""
        if self.identity is not None:
            return self.identity.subtype
        return "normal" if self.label == NORMAL else UNKNOWN_SUBTYPE


def scan_images(
    inventory: Inventory, patients: str | None = None, workers: int | None = None
) -> list[Entry]:
    """Read every image file of a data set.

    Args:
        inventory: The files.
        patients: What a patient is; see `pneumonia.data.patients.identify_patients`.
        workers: Number of processes; None: one for each core.

    Returns:
        In the order of the inventory.

    Raises:
        ConfigError: If `patients` is not a valid expression.
    """
    identities = [_identify(file, patients) for file in inventory.images]
    paths = [inventory.root / file.name for file in inventory.images]
    contents = parallel_map(inspect, paths, "reading images", workers)
    return [
        Entry(file.name, file.split, file.label, *identity, content)
        for file, identity, content in zip(inventory.images, identities, contents, strict=True)
    ]


def _identify(file: ImageFile, patients: str | None) -> tuple[Identity | None, bool]:
    """Return the identity, and whether the name states the other class."""
    for label, misfiled in ((file.label, False), (1 - file.label, True)):
        try:
            return identify_patients([file.name], [label], patients)[0], misfiled
        except DataError:  # the name matches no scheme, or states the other class
            continue
    return None, False
