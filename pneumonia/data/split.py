"""The hold-out: which training images choose the checkpoint and, later, the threshold.

The published validation folder has 16 images, far too few to choose anything with, so the
hold-out is made from the training images. A patient, and a set of byte-identical files, is
always on one side as a whole.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.manifest import Manifest
from pneumonia.data.patients import UNNUMBERED
from pneumonia.errors import ConfigError, DataError

Strategy = Literal["blocks", "random", "folder"]


@dataclass(frozen=True)
class ValidationSplit:
    """How the hold-out is chosen.

    Attributes:
        strategy: `blocks` takes the lowest and highest patient numbers of each stream (the
            test split consists of such blocks, and a random draw is more optimistic still);
            `random` draws patients; `folder` uses the published `val` folder as it is.
        fraction: Share of the patients of each stream, above 0 and below 1. Unused with
            `folder` and with `folds`.
        folds: For `random`: cut the patients into this many parts, at least 2, and hold out
            part number `fold` (0-based). None: a single draw of `fraction`.
        fold: Which part, 0 to folds - 1.
        seed: Of the draw; the same seed gives the same hold-out.
    """

    strategy: Strategy = "blocks"
    fraction: float = 0.12
    folds: int | None = None
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise ConfigError(
                f"data.holdout.strategy={self.strategy!r} is not one of"
                f" {', '.join(get_args(Strategy))}."
            )
        if not 0 < self.fraction < 1:
            raise ConfigError(
                f"data.holdout.fraction={self.fraction} must lie above 0 and below 1."
            )
        if self.seed < 0:
            raise ConfigError(f"data.holdout.seed={self.seed} must be 0 or more.")
        if self.folds is None:
            return
        if self.strategy != "random":
            raise ConfigError(
                f"data.holdout.folds needs data.holdout.strategy=random, not {self.strategy}."
            )
        if self.folds < 2 or not 0 <= self.fold < self.folds:  # noqa: PLR2004
            raise ConfigError(
                f"data.holdout.folds={self.folds} fold={self.fold}: at least 2 folds are needed,"
                " numbered from 0."
            )

    def mask(self, samples: Manifest) -> NDArray[np.bool_]:
        """Choose the held-out rows.

        Args:
            samples: All training images.

        Returns:
            Mask of length N, true for the hold-out.

        Raises:
            DataError: If `blocks` meets patients without numbers.
        """
        together = group_images(samples)
        if self.strategy == "blocks":
            _, first = np.unique(samples.patients, return_index=True)
            choose = self._blocks
        else:  # whole groups, so that no two folds hold out the same image
            _, first = np.unique(together, return_index=True)
            choose = self._draw
        some = samples.take(first)  # one row of each
        chosen: list[str] = []
        for stream in np.unique(some.streams):
            chosen += choose(some.take(some.streams == stream))
        return np.isin(together, together[np.isin(samples.patients, chosen)])

    def _blocks(self, stream: Manifest) -> list[str]:
        if (stream.numbers == UNNUMBERED).any():
            raise DataError(
                f"data.holdout.strategy=blocks needs patient numbers, and {stream.patients[0]} has"
                " none; use data.holdout.strategy=random."
            )
        by_number = stream.patients[np.argsort(stream.numbers, kind="stable")]
        held = round(self.fraction * len(stream))
        low = held - held // 2
        return [*by_number[:low], *by_number[len(by_number) - (held - low) :]]

    def _draw(self, stream: Manifest) -> list[str]:
        random = np.random.default_rng([self.seed, *str(stream.streams[0]).encode()])
        drawn = random.permutation(stream.patients)
        if self.folds is not None:
            return list(drawn[self.fold :: self.folds])
        return list(drawn[: round(self.fraction * len(stream))])


def group_images(samples: Manifest) -> NDArray[np.int64]:
    """Number the sets of images that must stay together.

    Images belong together if they show the same patient or are byte-identical, directly or
    through other images.

    Args:
        samples: Images on disk.

    Returns:
        int64 [N], the same number for images of the same set.

    Raises:
        DataError: If a file cannot be read.
    """
    _, parents = np.unique(samples.patients, return_inverse=True)
    leader = list(range(int(parents.max(initial=-1)) + 1))

    def find(node: int) -> int:
        while leader[node] != node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    for twins in identical_files([str(path) for path in samples.paths]):
        for other in twins[1:]:
            leader[find(int(parents[other]))] = find(int(parents[twins[0]]))
    return np.array([find(int(parent)) for parent in parents], dtype=np.int64)


def identical_files(paths: list[str]) -> list[list[int]]:
    """Find byte-identical files; only files of equal size are read.

    Args:
        paths: Files.

    Returns:
        For each set of two or more identical files, their positions in `paths`.

    Raises:
        DataError: If a file cannot be read.
    """
    by_size: defaultdict[int, list[int]] = defaultdict(list)
    by_digest: defaultdict[bytes, list[int]] = defaultdict(list)
    try:
        for position, path in enumerate(paths):
            by_size[Path(path).stat().st_size].append(position)
        for positions in by_size.values():
            if len(positions) > 1:
                for position in positions:
                    digest = hashlib.sha256(Path(paths[position]).read_bytes()).digest()
                    by_digest[digest].append(position)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}).") from error
    return [positions for positions in by_digest.values() if len(positions) > 1]


def check_disjoint(train: Manifest, other: Manifest, name: str) -> None:
    """Refuse two splits that share a patient or a byte-identical file.

    Args:
        train: The training images.
        other: Images that must be new to a model trained on them.
        name: What `other` is called, for the message.

    Raises:
        DataError: If they share something, with the first few named.
    """
    together = group_images(train + other)
    shared = np.isin(together[len(train) :], together[: len(train)])
    if shared.any():
        names = ", ".join(other.paths[shared][:3])
        raise DataError(
            f"{int(shared.sum())} of {len(other)} images of {name} show a patient of the training"
            f" images or are copies of one (first: {names}); remove them from one side, or say"
            " what a patient is with data.patients."
        )
