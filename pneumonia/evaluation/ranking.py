"""How well scores rank images, for one weighting of the images or thousands at once."""

import numpy as np
from numpy.typing import NDArray


class Ranking:
    """Images ordered by score, ties together, ready to be weighted.

    Args:
        labels: Shape (n,), bool, both classes.
        scores: Shape (n,), finite.
    """

    def __init__(self, labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> None:
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        self._labels = labels[order]
        self._order = order
        self._starts = np.concatenate(([0], np.flatnonzero(np.diff(falling)) + 1))

    def measure(
        self, weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute the area under the ROC curve and average precision, images weighted.

        The area is the Mann-Whitney statistic: the probability that a random PNEUMONIA image
        scores higher than a random NORMAL one, ties counted half (Hanley and McNeil, Radiology
        143, 1982). Average precision is precision at each distinct score, weighted by the recall
        gained: a sum of steps, as the trapezoid is too optimistic (Davis and Goadrich, ICML 2006).

        Args:
            weights: Shape (r, n), not negative: one weighting per row, with some weight in each
                class. An integer weight counts an image that many times.

        Returns:
            Areas and average precisions, each of shape (r,), in [0, 1].
        """
        w = weights[:, self._order]
        positive = np.add.reduceat(np.where(self._labels, w, 0.0), self._starts, axis=1)
        negative = np.add.reduceat(np.where(self._labels, 0.0, w), self._starts, axis=1)
        tp, fp = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
        n_positive, n_negative = tp[:, -1], fp[:, -1]
        below = n_negative[:, None] - fp + negative / 2
        area = np.einsum("rk,rk->r", positive, below) / (n_positive * n_negative)
        called = tp + fp
        precision = np.divide(tp, called, out=np.zeros_like(tp), where=called > 0)
        average = np.einsum("rk,rk->r", positive, precision) / n_positive
        return area, average
