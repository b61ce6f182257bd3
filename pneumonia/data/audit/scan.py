"""Lists a data set's folder and reads every image file in it once."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import laplace

from pneumonia.data.image_io import FORMATS, Preprocessing, is_image_file, read_grey
from pneumonia.data.parallel import parallel_map
from pneumonia.data.patients import Identity, identify_patients
from pneumonia.data.safe_open import quiet
from pneumonia.errors import DataError
from pneumonia.labels import CLASSES, NORMAL, SPLITS, UNKNOWN_SUBTYPE, is_hidden

PUBLISHED: dict[str, dict[str, int]] = {
    "train": {"normal": 1341, "bacterial": 2530, "viral": 1345},
    "val": {"normal": 8, "bacterial": 8},
    "test": {"normal": 234, "bacterial": 242, "viral": 148},
}
"""Images in Kaggle's `paultimothymooney/chest-xray-pneumonia`, 5,856 in all."""

_BLACK, _WHITE = 16, 250  # darker, and at least as bright; JPEG does not keep 0 and 255
_SIDE, _BORDER = 224, 11  # pixels


@dataclass(frozen=True)
class ImageFile:
    """An image file of a data set."""

    name: str  # relative to the data set's folder, with `/` on every system
    split: str  # `train`, `val` or `test`
    label: int  # 0 (NORMAL) or 1 (PNEUMONIA), by its folder


@dataclass
class Inventory:
    """The content of a data set's folder, as relative paths in name order.

    Links are followed, but no folder below a class is entered, so link loops are harmless.

    Raises:
        DataError: If the root is not a folder, no split in it has a class folder, or a folder
            cannot be listed.
    """

    root: Path  # with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`
    images: list[ImageFile] = field(default_factory=list, init=False)  # in class folders
    misplaced: list[str] = field(default_factory=list, init=False)  # where training accepts none
    empty: list[str] = field(default_factory=list, init=False)  # classes missing or without images
    absent: list[str] = field(default_factory=list, init=False)  # splits without a folder
    ignored: list[str] = field(default_factory=list, init=False)  # by training

    def __post_init__(self) -> None:
        _check_data_set(self.root)
        for entry in _entries(self.root):
            if entry.name not in SPLITS and (entry.is_dir() or is_image_file(entry)):
                self.ignored.append(entry.name)
        for split in SPLITS:
            if (self.root / split).is_dir():
                self._list_split(split)
            else:
                self.absent.append(split)

    def _list_split(self, split: str) -> None:
        folders = _class_folders(self.root / split)
        for entry in _entries(self.root / split):
            path = f"{split}/{entry.name}"
            if entry.is_dir():
                if entry not in folders.values():
                    self.misplaced.append(path)
            elif is_image_file(entry):
                self.misplaced.append(path)
            else:
                self.ignored.append(path)
        for label, name in enumerate(CLASSES):
            folder = folders.get(name, self.root / split / name)
            before = len(self.images)
            for entry in _entries(folder) if folder.is_dir() else ():
                path = f"{split}/{folder.name}/{entry.name}"
                if entry.is_dir():
                    self.misplaced.append(path)
                elif is_image_file(entry):
                    self.images.append(ImageFile(path, split, label))
                else:
                    self.ignored.append(path)
            if len(self.images) == before:
                self.empty.append(f"{split}/{name}")


def _entries(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror}).") from error
    return [entry for entry in entries if not is_hidden(entry.name)]


def _check_data_set(root: Path) -> None:
    expected = f"expected {', '.join(SPLITS)} in it, each with {' and '.join(CLASSES)}"
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {problem}; {expected}.")
    if _is_data_set(root):
        return
    nested = next((child for child in sorted(root.glob("*")) if _is_data_set(child)), None)
    hint = f"; did you mean {nested}?" if nested else "."
    raise DataError(f"{root} is not a data set: {expected}{hint}")


def _class_folders(split: Path) -> dict[str, Path]:
    """The folders of the classes by name; their own names may be in any case."""
    folders = split.iterdir() if split.is_dir() else ()
    return {f.name.upper(): f for f in folders if f.name.upper() in CLASSES and f.is_dir()}


def _is_data_set(folder: Path) -> bool:
    return any(_class_folders(folder / split) for split in SPLITS)


@dataclass(frozen=True)
class Inspection:
    """What is kept of a file's content."""

    problem: str | None = None  # why the file cannot be used; None if it decodes
    size: int = 0  # bytes
    mode: str = ""  # Pillow's colour mode, such as `L` or `RGB`; `L` for DICOM
    width: int = 0  # pixels
    height: int = 0
    digest: bytes = b""  # SHA-256 of the bytes
    fingerprint: bytes = b""  # perceptual hash of the image; see `fingerprint`
    statistics: dict[str, float] = field(default_factory=dict)  # see `pixel_statistics`
    warnings: tuple[str, ...] = ()  # a guessed bit depth, the age of the patient


def inspect(path: str | Path) -> Inspection:
    """Read and decode a file once, as training would; a damaged one has a `problem`."""
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
    return Inspection(
        None,
        len(content),
        mode,
        *grey.size,
        hashlib.sha256(content).digest(),
        fingerprint(grey),
        pixel_statistics(grey),
        tuple(grey.info["warnings"]),
    )


def fingerprint(image: Image.Image) -> bytes:
    """Hash what an image of mode `L` shows, independent of how it was saved.

    Returns:
        72 bytes. In 5,206 X-rays, any two differ in at least 124 of the 576 bits, and copies at
        other sizes, brightnesses and JPEG qualities in at most 40; smaller hashes overlap.
    """
    return np.packbits(imagehash.phash(image, hash_size=24).hash).tobytes()


def pixel_statistics(image: Image.Image) -> dict[str, float]:
    """Describe an image of mode `L`, squashed to 224 pixels a side, by numbers from 0 up.

    Returns:
        `sharpness`: standard deviation of the Laplacian over that of the grey levels, both of the
        central quarter. `brightness` and `contrast`: mean and standard deviation of the grey
        levels. `saturated pixels`: the fraction that is white. `black border`: the fraction of the
        outer 5% on each side that is black.
    """
    pixels = Preprocessing(_SIDE)(image).astype(np.float32)
    quarter = slice(_SIDE // 4, -_SIDE // 4)
    centre = pixels[quarter, quarter]
    border = np.pad(np.zeros([_SIDE - 2 * _BORDER] * 2, bool), _BORDER, constant_values=True)
    return {
        "sharpness": float(laplace(centre).std() / max(centre.std(), 1)),  # 0 if uniform
        "brightness": float(pixels.mean()),
        "contrast": float(pixels.std()),
        "saturated pixels": float((pixels >= _WHITE).mean()),
        "black border": float((pixels[border] < _BLACK).mean()),
    }


@dataclass(frozen=True)
class Entry(ImageFile):
    """An image file with what its name and content tell."""

    identity: Identity | None  # None if the name matches no scheme
    misfiled: bool  # whether the name states the other class
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


def scan_images(inventory: Inventory, patients: str | None = None) -> list[Entry]:
    """Read every image file of an inventory, in its order; `patients` as for `audit`."""
    identities = [_identify(file, patients) for file in inventory.images]
    paths = [inventory.root / file.name for file in inventory.images]
    contents = parallel_map(inspect, paths, "reading images")
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
