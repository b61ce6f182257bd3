"""One split on disk, in Kaggle's layout: `SPLIT/NORMAL/*` and `SPLIT/PNEUMONIA/*`."""

from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder

from pneumonia.data.inventory import EXTENSIONS
from pneumonia.data.samples import Samples
from pneumonia.errors import DataError
from pneumonia.labels import CLASSES

_ARCHIVE_DEBRIS = "__MACOSX"


class ChestXrayFolder(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """torchvision's `ImageFolder`, strict: exactly NORMAL = 0 and PNEUMONIA = 1.

    Hidden entries, `__MACOSX` and files that are not images are not counted. Anything else
    that would be skipped or counted twice is an error that names it.

    Args:
        root: The split's folder.

    Raises:
        DataError: If the folder or a class folder is missing or empty, or holds folders or
            images that belong to no class.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(root, is_valid_file=_is_image)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Check the split's folder and return the two classes with their labels.

        Args:
            directory: The split's folder.

        Raises:
            DataError: As for the class.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise DataError(f"{directory} is not a folder; a split holds {_expected()}.")
        entries = sorted(entry for entry in directory.iterdir() if _counts(entry))
        alien = [entry for entry in entries if entry.is_dir() and entry.name not in CLASSES]
        alien += [entry for entry in entries if entry.is_file() and _is_image(str(entry))]
        if alien:
            raise DataError(
                f"{directory} holds {', '.join(entry.name for entry in alien[:5])}, which is no"
                f" class; a split holds {_expected()} and nothing else: move it elsewhere."
            )
        missing = [name for name in CLASSES if not (directory / name).is_dir()]
        if missing:
            raise DataError(
                f"{directory} has no folder {' or '.join(missing)}; a split holds {_expected()}."
            )
        return list(CLASSES), {name: label for label, name in enumerate(CLASSES)}

    @staticmethod
    def make_dataset(
        directory: str | Path,
        class_to_idx: dict[str, int],
        extensions: tuple[str, ...] | None = None,
        is_valid_file: Any = None,
        allow_empty: bool = False,
    ) -> list[tuple[str, int]]:
        """List the image files of each class, in name order.

        Args:
            directory: The split's folder.
            class_to_idx: Label of each class name.
            extensions: Unused; part of torchvision's signature.
            is_valid_file: Tells an image from another file by its name.
            allow_empty: Whether a class without images is fine.

        Raises:
            DataError: If a class is empty or holds folders of its own.
        """
        samples: list[tuple[str, int]] = []
        for name, label in class_to_idx.items():
            folder = Path(directory) / name
            entries = sorted(entry for entry in folder.iterdir() if _counts(entry))
            nested = [entry.name for entry in entries if entry.is_dir()]
            if nested:
                raise DataError(
                    f"{folder} holds the folder {nested[0]}; images lie directly in their class"
                    " folder: move them up, or the copy elsewhere."
                )
            files = [str(entry) for entry in entries if is_valid_file(str(entry))]
            if not files and not allow_empty:
                raise DataError(
                    f"{folder} holds no image ({', '.join(EXTENSIONS)}); a split needs both"
                    " classes."
                )
            samples.extend((file, label) for file in files)
        return samples


def read_split(root: str | Path, split: str, patients: str | None = None) -> Samples:
    """List one split of a data set with patient and subtype of every image.

    Args:
        root: The data set's folder, with `train`, `val` and `test` in it.
        split: `train`, `val` or `test`.
        patients: What a patient is; see `pneumonia.data.patients.identify`.

    Raises:
        DataError: If the folder is not a split, or names tell no patient.
        ConfigError: If `patients` is no usable expression.
    """
    paths, labels = zip(*ChestXrayFolder(Path(root) / split).samples, strict=True)
    return Samples.identified(paths, labels, patients)


def _counts(entry: Path) -> bool:
    return not entry.name.startswith(".") and entry.name != _ARCHIVE_DEBRIS


def _is_image(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def _expected() -> str:
    return " and ".join(CLASSES)
