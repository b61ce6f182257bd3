"""One split on disk, in Kaggle's layout: `SPLIT/NORMAL/*` and `SPLIT/PNEUMONIA/*`."""

from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from pneumonia.data.audit.scan import EXTENSIONS
from pneumonia.data.cache import Cache
from pneumonia.data.image_io import Preprocessing
from pneumonia.data.manifest import Manifest
from pneumonia.data.transforms import Augmentation
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


def read_split(root: str | Path, split: str, patients: str | None = None) -> Manifest:
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
    return Manifest.identified(paths, labels, patients)


def _counts(entry: Path) -> bool:
    return not entry.name.startswith(".") and entry.name != _ARCHIVE_DEBRIS


def _is_image(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def _expected() -> str:
    return " and ".join(CLASSES)


Draw = tuple[int, int] | tuple[int, int, int]
"""An epoch and a row of the samples; and, where an epoch may draw a row more than once, how
many times it did before."""


class Item(TypedDict):
    """One image; a batch has the same keys with a leading dimension N.

    Attributes:
        image: uint8 [1, H, W], 0 black to 255 white.
        label: 0 (NORMAL) or 1 (PNEUMONIA).
        index: Row of the image in the split's samples.
    """

    image: Tensor
    label: int
    index: int


class ChestXrayDataset(Dataset[Item]):
    """Images of one split as grey tensors.

    Args:
        samples: The split's images.
        preprocessing: How each becomes a square.
        augmentation: Random changes, or None.
        seed: Of the changes, which depend on (seed, draw) alone and so are the same with any
            number of workers or ranks.
        cache: Holds the samples' images, preprocessed. None: each is decoded whenever it is
            read. The pixels are the same.
    """

    def __init__(
        self,
        samples: Manifest,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache: Cache | None = None,
    ) -> None:
        self.samples = samples
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self._cached = None if cache is None else (cache.pixels, cache.rows(samples.paths))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | Draw) -> Item:
        """Read one image.

        Args:
            key: A row, or a draw.

        Raises:
            DataError: If the file cannot be read; the message names it.
        """
        draw = key if isinstance(key, tuple) else (0, key)
        row = draw[1]
        image = torch.from_numpy(self._read(row)).unsqueeze(0)
        if self.augmentation is not None:
            state = np.random.SeedSequence([self.seed, *draw]).generate_state(1, np.uint64)
            image = self.augmentation(image, int(state[0]))
        return Item(image=image, label=int(self.samples.labels[row]), index=row)

    def _read(self, row: int) -> NDArray[np.uint8]:
        if self._cached is None:
            return self.preprocessing.read(str(self.samples.paths[row])).copy()
        pixels, rows = self._cached
        return pixels[int(rows[row])]
