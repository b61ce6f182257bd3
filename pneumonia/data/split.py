"""The validation split: all images of a patient, and identical files, stay on the same side."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.manifest import Manifest
from pneumonia.data.patients import UNNUMBERED
from pneumonia.errors import DataError, check_setting

Strategy = Literal["blocks", "random", "folder"]


@dataclass(frozen=True)
class ValidationSplit:
    """How the validation set is chosen.

    Attributes:
        strategy: `blocks` takes the lowest and highest patient numbers of each stream, as in the
            test split; `random` draws patients, which is more optimistic; `folder` uses the
            published `val` folder, which is too small to choose a threshold.
        fraction: Fraction of the patients of each stream, above 0 and below 1.
        folds: With `random`: number of cross-validation folds, instead of `fraction`.
        fold: The fold that is the validation set, 0 to folds - 1.
        seed: Seed of the draw.

    Raises:
        ConfigError: If a value is out of range.
    """

    strategy: Strategy = "blocks"
    fraction: float = 0.12
    folds: int | None = None
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        def check(valid: bool, name: str, expected: str) -> None:
            check_setting(valid, f"data.split.{name}", getattr(self, name), expected)

        words = get_args(Strategy)
        check(self.strategy in words, "strategy", f"one of {', '.join(words)}")
        check(0 < self.fraction < 1, "fraction", "above 0, below 1")
        check(self.seed >= 0, "seed", "0 or more")
        if self.folds is not None:
            check(self.strategy == "random", "strategy", "random, which data.split.folds needs")
            check(self.folds > 1, "folds", "2 or more")
            check(0 <= self.fold < self.folds, "fold", f"0 to {self.folds - 1}")

    def mask(self, samples: Manifest) -> NDArray[np.bool_]:
        """Choose the validation images, bool [N].

        Raises:
            DataError: If `blocks` meets patients without numbers.
        """
        groups = group_images(samples)
        if self.strategy == "blocks":
            _, first = np.unique(samples.patients, return_index=True)
            choose = self._blocks
        else:  # whole groups, so that no image is in two folds
            _, first = np.unique(groups, return_index=True)
            choose = self._draw
        representatives = samples.take(first)
        chosen: list[str] = []
        for stream in np.unique(representatives.streams):
            chosen += choose(representatives.take(representatives.streams == stream))
        return np.isin(groups, groups[np.isin(samples.patients, chosen)])

    def _blocks(self, stream: Manifest) -> list[str]:
        if (stream.numbers == UNNUMBERED).any():
            raise DataError(
                f"data.split.strategy=blocks needs patient numbers, and {stream.patients[0]} has"
                " none; use data.split.strategy=random."
            )
        by_number = stream.patients[np.argsort(stream.numbers, kind="stable")]
        count = round(self.fraction * len(stream))
        low = count - count // 2
        return [*by_number[:low], *by_number[len(by_number) - (count - low) :]]

    def _draw(self, stream: Manifest) -> list[str]:
        random = np.random.default_rng([self.seed, *str(stream.streams[0]).encode()])
        drawn = random.permutation(stream.patients)
        if self.folds is not None:
            return list(drawn[self.fold :: self.folds])
        return list(drawn[: round(self.fraction * len(stream))])


def group_images(samples: Manifest) -> NDArray[np.int64]:
    """Number the sets of images that must stay on one side of a split, int64 [N].

    Images of one patient and byte-identical files belong together, directly or through others.

    Raises:
        DataError: If a file cannot be read.
    """
    groups = np.unique(samples.patients, return_inverse=True)[1]
    for first, *others in identical_files([str(path) for path in samples.paths]):
        for other in others:
            groups[groups == groups[other]] = groups[first]
    return groups


def identical_files(paths: list[str]) -> list[list[int]]:
    """Find sets of two or more byte-identical files, as positions in `paths`.

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

    Raises:
        DataError: If they do; it names the first such images of `other`, and calls it `name`.
    """
    groups = group_images(train + other)
    shared = np.isin(groups[len(train) :], groups[: len(train)])
    if shared.any():
        names = ", ".join(other.paths[shared][:3])
        raise DataError(
            f"{int(shared.sum())} of {len(other)} images of {name} show a patient of the training"
            f" images or are copies of one (first: {names}); remove them from one side, or"
            " identify patients with data.patients."
        )
