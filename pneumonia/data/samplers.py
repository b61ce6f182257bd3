"""The order of images, the same with any number of workers and processes."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from pneumonia.data.dataset import Draw
from pneumonia.data.manifest import Manifest


class TrainingSampler(Sampler[Draw]):
    """A training order, which depends on (seed, epoch) only; an incomplete last batch is dropped.

    Each rank takes every `world_size`-th row, so a global batch is the same with any number of
    ranks.

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
        """Continue with an epoch of which this rank has already trained on some rows."""
        self.epoch = epoch
        self._resumed_at = (epoch, rows)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is iterated next; called by Lightning."""
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

    Each draw is uniform, with replacement. Repeated rows are augmented differently. Arguments as
    for `TrainingSampler`, with the samples instead of their number.
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
