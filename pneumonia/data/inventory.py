"""What lies where in a data set's folder, whether or not it should."""

from dataclasses import dataclass, field
from pathlib import Path

from pneumonia.errors import DataError
from pneumonia.labels import CLASSES

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
