"""The order of images, the same with any number of workers and processes."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from pneumonia.data.dataset import Draw
from pneumonia.data.manifest import Manifest


class TrainingSampler(Sampler[Draw]):
    """Base of the training orders, which depend on (seed, epoch) only.

    Each rank takes every `world_size`-th row of the one order, so a global batch holds the same
    images with any number of ranks. An incomplete last batch is dropped.

    Args:
        size: Number of rows.
        batch_size: Images of a step, over all ranks.
        seed: Seed of the order.
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
        self._resumed_at = (0, 0)

    def resume(self, epoch: int, rows: int) -> None:
        """Continue an interrupted training.

        Args:
            epoch: The epoch to continue with, 0-based.
            rows: How many of its rows this rank has already trained on.
        """
        self.epoch = epoch
        self._resumed_at = (epoch, rows)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is iterated next; called by Lightning.

        Args:
            epoch: 0-based.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return self.used // self.world_size

    def _skipped(self) -> int:
        """Rows of this rank to leave out at the beginning of this epoch."""
        epoch, rows = self._resumed_at
        return rows if epoch == self.epoch else 0

    def _random(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])


class ShuffledSampler(TrainingSampler):
    """Every row once an epoch, except those of an incomplete last batch."""

    def __iter__(self) -> Iterator[Draw]:
        order = self._random().permutation(self.size)
        for row in order[: self.used][self.rank :: self.world_size][self._skipped() :]:
            yield self.epoch, int(row)


class BalancedSampler(TrainingSampler):
    """As many draws as rows: a class, then one of its patients, then one of the patient's images.

    Each draw is uniform, with replacement, so both classes are equally likely, and so are all
    patients of a class. Repeated rows are augmented differently.

    Args:
        samples: The rows.
        batch_size: As for `TrainingSampler`.
        seed: As for `TrainingSampler`.
        rank: As for `TrainingSampler`.
        world_size: As for `TrainingSampler`.
    """

    def __init__(
        self, samples: Manifest, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(len(samples), batch_size, seed, rank, world_size)
        self.probabilities = _probabilities(samples)

    def __iter__(self) -> Iterator[Draw]:
        repeats: Counter[int] = Counter()
        start = self._skipped() * self.world_size
        drawn = self._random().choice(self.size, self.used, p=self.probabilities)
        for position, row in enumerate(drawn.tolist()):
            if position >= start and position % self.world_size == self.rank:
                yield self.epoch, row, repeats[row]
            repeats[row] += 1


def _probabilities(samples: Manifest) -> NDArray[np.float64]:
    """Probability of each row in a draw of class, patient and image; float64 [N], sum 1."""
    owners = np.stack([samples.labels, np.unique(samples.patients, return_inverse=True)[1]])
    pairs, owner, images = np.unique(owners, axis=1, return_inverse=True, return_counts=True)
    classes, label, patients = np.unique(pairs[0], return_inverse=True, return_counts=True)
    return 1 / (len(classes) * patients[label][owner] * images[owner])


class SequentialSampler(Sampler[int]):
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
