"""One split on disk, in Kaggle's layout: `SPLIT/NORMAL/*` and `SPLIT/PNEUMONIA/*`."""

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from pneumonia.data.cache import Cache
from pneumonia.data.image_io import Preprocessing, is_image_file, skipped_line
from pneumonia.data.manifest import Manifest
from pneumonia.errors import DataError
from pneumonia.labels import CLASSES, is_hidden

log = logging.getLogger(__name__)


class ChestXrayFolder(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """torchvision's `ImageFolder` with exactly the classes NORMAL = 0 and PNEUMONIA = 1.

    The folders may have these names in any case. Hidden files, `__MACOSX` and files without an
    image are skipped, counted and named in the log. Images in any other place are an error.

    Raises:
        DataError: If the folder or a class folder is missing or empty, or holds folders or
            images that belong to no class.
    """

    def __init__(self, root: str | Path) -> None:
        self._skipped: list[str] = []
        super().__init__(root, is_valid_file=self._is_listed, allow_empty=True)
        if self._skipped:
            _log_once(f"{root}: {skipped_line(self._skipped)}")
        for name, label in self.class_to_idx.items():
            if label not in self.targets:
                raise DataError(f"{Path(root, name)} holds no image; a split needs both classes.")

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Check the split's folder and return the two classes with their labels."""
        directory = Path(directory)
        found: dict[str, str] = {}  # name of the class -> of the folder
        for entry in sorted(directory.iterdir()) if directory.is_dir() else ():
            name = entry.name.upper()
            if is_hidden(entry.name) or not (entry.is_dir() or is_image_file(entry)):
                self._skipped.append(str(entry))
            elif not entry.is_dir() or name not in CLASSES or name in found:
                raise DataError(
                    f"{directory} holds {entry.name}; expected the folders"
                    f" {' and '.join(CLASSES)} in it, and images nowhere else."
                )
            else:
                found[name] = entry.name
        missing = [name for name in CLASSES if name not in found]
        if missing:
            raise DataError(
                f"{directory} has no folder {missing[0]}; expected {' and '.join(CLASSES)} in it."
            )
        names = [found[name] for name in CLASSES]
        return names, {name: label for label, name in enumerate(names)}

    def _is_listed(self, path: str) -> bool:
        folder, *nested, name = Path(path).relative_to(self.root).parts
        if any(map(is_hidden, (*nested, name))) or not is_image_file(path):
            self._skipped.append(path)
            return False
        if nested:
            raise DataError(
                f"{Path(self.root, folder)} holds the folder {nested[0]}; images must lie directly"
                " in their class folder: move them up, or the folder elsewhere."
            )
        return True


@cache
def _log_once(line: str) -> None:
    log.info(line)


def read_split(root: str | Path, split: str, patients: str | None = None) -> Manifest:
    """List a split of a data set, with patient and subtype of every image.

    `patients` is explained in `identify_patients`, whose errors are raised, too.

    Raises:
        DataError: If the folder is not a split.
    """
    paths, labels = zip(*ChestXrayFolder(Path(root) / split).samples, strict=True)
    return Manifest.from_paths(paths, labels, patients)


Change = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
"""Changes pixels [C, C] at random, the same for the same seed; returns pixels [S, S]."""

Draw = tuple[int, int, int]
"""Epoch, row, and number of earlier draws of the row in this epoch."""


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
        change: Random transform, or None.
        seed: Seed of the transform, which depends on (seed, draw) only.
        cache: Holds the preprocessed images. None: they are decoded at every read.
    """

    def __init__(
        self,
        samples: Manifest,
        preprocessing: Preprocessing,
        change: Change | None = None,
        seed: int = 0,
        cache: Cache | None = None,
    ) -> None:
        self.samples = samples
        self.preprocessing = preprocessing
        self.change = change
        self.seed = seed
        self._cached = None if cache is None else (cache, cache.rows(samples.paths))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | Draw) -> Item:
        """Read the image of a row or a draw.

        Raises:
            DataError: If the file cannot be read; the message names it.
        """
        draw = key if isinstance(key, tuple) else (0, key, 0)
        row = draw[1]
        if self._cached is None:
            pixels = self.preprocessing.read(str(self.samples.paths[row])).copy()
        else:
            cache, rows = self._cached
            pixels = cache[int(rows[row])]
        if self.change is not None:
            state = np.random.SeedSequence([self.seed, *draw]).generate_state(1, np.uint64)
            pixels = self.change(pixels, int(state[0]))
        image = torch.from_numpy(pixels).unsqueeze(0)
        return Item(image=image, label=int(self.samples.labels[row]), index=row)
