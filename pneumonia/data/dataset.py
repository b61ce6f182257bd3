"""Samples -> tensors, one image at a time, and in which order."""

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pneumonia.data.augment import Augmentation
from pneumonia.data.image import Preprocessing, read_grey
from pneumonia.data.samples import Samples

Draw = tuple[int, int]
"""An epoch and a row of the samples."""


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
        seed: Of the changes, which depend on (seed, epoch, row) alone and so are the same
            with any number of workers or ranks.
    """

    def __init__(
        self,
        samples: Samples,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.samples = samples
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | Draw) -> Item:
        """Read one image.

        Args:
            key: A row, or an epoch and a row.

        Raises:
            DataError: If the file cannot be read; the message names it.
        """
        epoch, row = key if isinstance(key, tuple) else (0, key)
        pixels = self.preprocessing(read_grey(str(self.samples.paths[row])))
        image = torch.from_numpy(pixels.copy()).unsqueeze(0)
        if self.augmentation is not None:
            state = np.random.SeedSequence([self.seed, epoch, row]).generate_state(1, np.uint64)
            image = self.augmentation(image, int(state[0]))
        return Item(image=image, label=int(self.samples.labels[row]), index=row)


class ShuffledRows(Sampler[Draw]):
    """Every row once an epoch, in an order that depends on (seed, epoch) alone.

    Each rank takes every `world_size`-th row of the one order, so a global batch holds the
    same images with any number of ranks. Rows that fill no whole global batch sit out this
    epoch.

    Args:
        size: Number of rows.
        batch_size: Images of a step, over all ranks.
        seed: Of the order.
        rank: This process, 0 to world_size - 1.
        world_size: Number of processes.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.used = size - size % batch_size
        self.size = size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; Lightning calls this.

        Args:
            epoch: 0-based.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return self.used // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for row in order[: self.used][self.rank :: self.world_size]:
            yield self.epoch, int(row)


class OrderedRows(Sampler[int]):
    """Every row once, in order, each on exactly one rank: nothing is padded or counted twice.

    Args:
        size: Number of rows.
        rank: This process, 0 to world_size - 1.
        world_size: Number of processes.
    """

    def __init__(self, size: int, rank: int = 0, world_size: int = 1) -> None:
        self.rows = range(rank, size, world_size)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows)
