"""Samples -> tensors, one image at a time."""

from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pneumonia.data.augment import Augmentation
from pneumonia.data.cache import Cache
from pneumonia.data.image import Preprocessing
from pneumonia.data.samples import Samples

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


class Radiographs(Dataset[Item]):
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
        samples: Samples,
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
