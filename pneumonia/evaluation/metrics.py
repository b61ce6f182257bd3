"""Labels and scores -> counts, and the numbers that summarise them.

PNEUMONIA is the positive class and means probability >= threshold. Rankings (AUROC and
average precision) take raw logits: a sigmoid in float32 saturates near 17 and would tie
scores that the model tells apart.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.inputs import (
    check_labels,
    check_probabilities,
    check_scores,
    check_threshold,
)
from pneumonia.evaluation.ranking import Ranking
from pneumonia.evaluation.rates import rates

_AT_A_THRESHOLD = (
    "accuracy",
    "precision",
    "recall",
    "sensitivity",
    "specificity",
    "f1",
    "balanced_accuracy",
)


@dataclass(frozen=True)
class Confusion:
    """Images counted by label and call; both classes are present.

    Attributes:
        tp: PNEUMONIA images called PNEUMONIA.
        fp: NORMAL images called PNEUMONIA: false alarms.
        tn: NORMAL images called NORMAL.
        fn: PNEUMONIA images called NORMAL: misses.

    Raises:
        EvaluationError: If a count is negative or a class has no images.
    """

    tp: int
    fp: int
    tn: int
    fn: int

    def __post_init__(self) -> None:
        if min(self.tp, self.fp, self.tn, self.fn) < 0 or not (self.n_positive and self.n_negative):
            raise EvaluationError(
                f"{self} cannot be judged: give counts from 0 up, with images of both classes."
            )

    @property
    def n_positive(self) -> int:
        """The number of PNEUMONIA images."""
        return self.tp + self.fn

    @property
    def n_negative(self) -> int:
        """The number of NORMAL images."""
        return self.tn + self.fp

    @property
    def sensitivity(self) -> float:
        """The share of PNEUMONIA images called PNEUMONIA, also named recall; in [0, 1]."""
        return self.tp / self.n_positive

    @property
    def specificity(self) -> float:
        """The share of NORMAL images called NORMAL; in [0, 1]."""
        return self.tn / self.n_negative


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """Turn logits into probabilities, in float64 and without overflow.

    Args:
        logits: Any shape, any numeric dtype.

    Returns:
        The same shape, float64, in [0, 1].
    """
    x = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def called_pneumonia(probabilities: ArrayLike, threshold: float = 0.5) -> NDArray[np.bool_]:
    """Apply the rule of the whole project: PNEUMONIA means probability >= threshold.

    Args:
        probabilities: Shape (n,), in [0, 1].
        threshold: In [0, 1].

    Returns:
        Shape (n,), True where the image is called PNEUMONIA.

    Raises:
        EvaluationError: If a probability or the threshold lies outside [0, 1].
    """
    return check_probabilities(probabilities, np.size(probabilities)) >= check_threshold(threshold)


def confusion(labels: ArrayLike, positive: NDArray[np.bool_]) -> Confusion:
    """Count images by label and call.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        positive: Shape (n,), bool, True where the image is called PNEUMONIA.

    Returns:
        The four counts.

    Raises:
        EvaluationError: If the labels are not of both classes, or `positive` is not their equal
            in length or not boolean.
    """
    truth = check_labels(labels)
    if positive.shape != truth.shape or positive.dtype != np.bool_:
        raise EvaluationError(
            f"Found {truth.size} labels but calls of shape {positive.shape} and type "
            f"{positive.dtype}; give one True or False per image."
        )
    return Confusion(
        tp=int((truth & positive).sum()),
        fp=int((~truth & positive).sum()),
        tn=int((~truth & ~positive).sum()),
        fn=int((truth & ~positive).sum()),
    )


def threshold_metrics(labels: ArrayLike, positive: NDArray[np.bool_]) -> dict[str, float]:
    """Compute what depends on a threshold.

    Precision is 0 where no image is called PNEUMONIA: undefined, strictly, and given the value
    that scikit-learn gives with `zero_division=0`. The others are always defined here.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        positive: Shape (n,), bool, True where the image is called PNEUMONIA.

    Returns:
        Accuracy, precision, recall, sensitivity (the same number as recall), specificity, f1 and
        balanced_accuracy (the mean of sensitivity and specificity), each in [0, 1].

    Raises:
        EvaluationError: As `confusion`.
    """
    c = confusion(labels, positive)
    found = rates(c.tp, c.fp, c.n_positive, c.n_negative)
    return {name: float(np.nan_to_num(found[name], nan=0.0)) for name in _AT_A_THRESHOLD}


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Compute the area under the ROC curve from ranks.

    It is the Mann-Whitney statistic: the probability that a random PNEUMONIA image scores higher
    than a random NORMAL one, ties counted half (Hanley and McNeil, Radiology 143, 1982).

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        scores: Shape (n,), finite; raw logits rank best.

    Returns:
        The area, in [0, 1].

    Raises:
        EvaluationError: If the labels are not of both classes or a score is not finite.
    """
    truth = check_labels(labels)
    area, _ = Ranking(truth, check_scores(scores, truth.size)).measure(np.ones((1, truth.size)))
    return float(area[0])


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Compute average precision: precision at each distinct score, weighted by the recall gained.

    A sum of steps as in scikit-learn, not the trapezoid, which is too optimistic for a
    precision-recall curve (Davis and Goadrich, ICML 2006).

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        scores: Shape (n,), finite; raw logits rank best.

    Returns:
        Average precision, in (0, 1]; about the share of PNEUMONIA images for a random ranking.

    Raises:
        EvaluationError: If the labels are not of both classes or a score is not finite.
    """
    truth = check_labels(labels)
    _, average = Ranking(truth, check_scores(scores, truth.size)).measure(np.ones((1, truth.size)))
    return float(average[0])


def evaluate(labels: ArrayLike, logits: ArrayLike, threshold: float = 0.5) -> dict[str, float]:
    """Compute every number of a result.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        logits: Shape (n,), finite, any numeric dtype.
        threshold: In [0, 1]; PNEUMONIA means sigmoid(logit) >= threshold.

    Returns:
        The keys of `threshold_metrics`, auroc and average_precision (of the raw logits), and the
        whole numbers n and n_positive.

    Raises:
        EvaluationError: If the labels are not of both classes, a logit is not finite, the arrays
            differ in length, or the threshold lies outside [0, 1].
    """
    truth = check_labels(labels)
    ranked = check_scores(logits, truth.size, "logits")
    return {
        **threshold_metrics(truth, called_pneumonia(sigmoid(ranked), threshold)),
        "auroc": auroc(truth, ranked),
        "average_precision": average_precision(truth, ranked),
        "n": truth.size,
        "n_positive": int(truth.sum()),
    }
