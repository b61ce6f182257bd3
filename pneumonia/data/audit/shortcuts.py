"""Shortcuts in the files: what tells the classes apart without a look at the child."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.labels import NORMAL, PNEUMONIA

FLAGGED_FROM = 0.70


@dataclass(frozen=True)
class Shortcut:
    """One property of the files, and how well it tells the classes apart on its own.

    Attributes:
        attribute: `colour mode`, `width`, `height`, `aspect ratio` or `bytes`.
        auroc: Of that property alone, whichever way round: 0.5 says nothing, 1 all.
        normal: What is typical of NORMAL images: the median, or the share of each mode.
        pneumonia: The same of PNEUMONIA.
    """

    attribute: str
    auroc: float
    normal: str
    pneumonia: str

    @property
    def flagged(self) -> bool:
        """Whether a classifier could lean on it."""
        return self.auroc >= FLAGGED_FROM


def shortcuts(
    labels: ArrayLike, modes: Sequence[str], numbers: Mapping[str, ArrayLike]
) -> list[Shortcut]:
    """Measure every property.

    Args:
        labels: 0 (NORMAL) or 1 (PNEUMONIA) for each image.
        modes: Their colour modes.
        numbers: Name and values of each numeric property.

    Returns:
        Strongest first; none if the images are not of both classes.
    """
    positive = np.asarray(labels) == PNEUMONIA
    if positive.all() or not positive.any():
        return []
    # A mode has no order of its own: the best score it can give is the class share it has.
    share = {mode: positive[np.array(modes) == mode].mean() for mode in set(modes)}
    found = [
        Shortcut(
            "colour mode",
            separation(positive, [share[mode] for mode in modes]),
            *(_mode_shares(modes, positive == bool(label)) for label in (NORMAL, PNEUMONIA)),
        )
    ]
    for name, values in numbers.items():
        column = np.asarray(values, dtype=np.float64)
        medians = (
            _rounded(float(np.median(column[positive == bool(c)]))) for c in (NORMAL, PNEUMONIA)
        )
        found.append(Shortcut(name, separation(positive, column), *medians))
    return sorted(found, key=lambda shortcut: -shortcut.auroc)


def separation(positive: NDArray[np.bool_], scores: ArrayLike) -> float:
    """The AUROC of a score, whichever way round, from ranks with ties counted half.

    Args:
        positive: Shape (n,), of both classes.
        scores: Shape (n,).

    Returns:
        In [0.5, 1].
    """
    _, place, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    n = int(positive.sum())
    area = (float(ranks[positive].sum()) - n * (n + 1) / 2) / (n * (positive.size - n))
    return max(area, 1 - area)


def _mode_shares(modes: Sequence[str], of_class: NDArray[np.bool_]) -> str:
    counts = Counter(mode for mode, counted in zip(modes, of_class, strict=True) if counted)
    return ", ".join(f"{mode} {n / counts.total():.1%}" for mode, n in counts.most_common())


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004  sizes, and ratios
