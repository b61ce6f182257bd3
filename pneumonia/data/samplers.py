"""The order of images, the same with any number of workers and processes."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from pneumonia.data.dataset import Draw
from pneumonia.data.manifest import Manifest


class TrainingSampler(Sampler[Draw]):
    """An order that depends on (seed, epoch) only; an incomplete last batch is dropped.

    Each rank takes every `world_size`-th row, so a global batch is the same with any number of
    ranks.

    Args:
        size: Number of rows.
        batch_size: Images of a step, over all ranks.
        seed: Seed of the order.
        rank: This process, 0 to world_size - 1.
        world_size: Number of processes.
        probabilities: Of each row in a draw with replacement, float64 [size]. None: every row
            once an epoch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        probabilities: NDArray[np.float64] | None = None,
    ) -> None:
        self.used = size - size % batch_size
        self.size = size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.probabilities = probabilities
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

    def __iter__(self) -> Iterator[Draw]:
        random = np.random.default_rng([self.seed, self.epoch])
        if self.probabilities is None:
            rows = random.permutation(self.size)[: self.used]
        else:
            rows = random.choice(self.size, self.used, p=self.probabilities)
        epoch, done = self._resumed_at
        start = done * self.world_size if epoch == self.epoch else 0
        repeats: Counter[int] = Counter()
        for position, row in enumerate(rows.tolist()):
            if position >= start and position % self.world_size == self.rank:
                yield self.epoch, row, repeats[row]
            repeats[row] += 1


def balanced_probabilities(samples: Manifest) -> NDArray[np.float64]:
    """Probability of each image, float64 [N], if class, patient, then image is drawn."""
    owners = np.stack([samples.labels, np.unique(samples.patients, return_inverse=True)[1]])
    pairs, owner, images = np.unique(owners, axis=1, return_inverse=True, return_counts=True)
    classes, label, patients = np.unique(pairs[0], return_inverse=True, return_counts=True)
    return 1 / (len(classes) * patients[label][owner] * images[owner])


class SequentialSampler(Sampler[int]):
    """Every row once, in order, each on exactly one rank: nothing is padded or counted twice."""

    def __init__(self, size: int, rank: int = 0, world_size: int = 1) -> None:
        self.rows = range(rank, size, world_size)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows)
