"""Labels and scores -> counts, and the numbers that summarise them.

PNEUMONIA is the positive class and means probability >= threshold. Rankings (AUROC and
average precision) take raw logits: a sigmoid in float32 saturates near 17 and would tie
scores that the model tells apart.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.predictions import (
    check_labels,
    check_probabilities,
    check_scores,
    check_threshold,
    sigmoid,
)

PREVALENCES = (0.05, 0.2, 0.5)
"""Shares of PNEUMONIA for which predictive values are given: a screening, a ward, a referral."""


def predictive_name(value: str, prevalence: float) -> str:
    """Name a predictive value at a prevalence, such as `ppv_at_5_percent`.

    Args:
        value: `ppv` or `npv`.
        prevalence: In (0, 1).
    """
    return f"{value}_at_{prevalence:.0%}".replace("%", "_percent")


def rates(
    tp: ArrayLike, fp: ArrayLike, n_positive: ArrayLike, n_negative: ArrayLike
) -> dict[str, NDArray[np.float64]]:
    """Compute every metric of a threshold from counts, or from weighted counts.

    Predictive values at prevalence p follow Bayes' theorem, with Se sensitivity and Sp
    specificity (Altman and Bland, BMJ 309, 1994, 102): PPV = Se p / (Se p + (1 - Sp)(1 - p)), and
    NPV = Sp (1 - p) / (Sp (1 - p) + (1 - Se) p). MCC is the correlation of label and call
    (Matthews 1975), 0 where all calls are the same.

    Args:
        tp: PNEUMONIA images called PNEUMONIA; any shape.
        fp: NORMAL images called PNEUMONIA; the same shape.
        n_positive: PNEUMONIA images; positive, broadcastable.
        n_negative: NORMAL images; positive, broadcastable.

    Returns:
        By name, arrays of the common shape; recall is sensitivity and precision is ppv under its
        other name. Predictive values are NaN where no image was called so.
    """
    tp, fp, pos, neg = (np.asarray(x, np.float64) for x in (tp, fp, n_positive, n_negative))
    fn, tn = pos - tp, neg - fp
    sensitivity, specificity, false_alarm = tp / pos, tn / neg, fp / neg
    ppv = _ratio(tp, tp + fp)
    spread = np.sqrt(tp + fp) * np.sqrt(tn + fn) * np.sqrt(pos) * np.sqrt(neg)
    found = {
        "sensitivity": sensitivity,
        "recall": sensitivity,
        "specificity": specificity,
        "ppv": ppv,
        "precision": ppv,
        "npv": _ratio(tn, tn + fn),
        "accuracy": (tp + tn) / (pos + neg),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "f1": 2 * tp / (pos + tp + fp),
        "mcc": np.nan_to_num(_ratio(tp * tn - fp * fn, spread), nan=0.0),
    }
    for p in PREVALENCES:
        hits, alarms = sensitivity * p, false_alarm * (1 - p)
        cleared, misses = specificity * (1 - p), fn / pos * p
        found[predictive_name("ppv", p)] = _ratio(hits, hits + alarms)
        found[predictive_name("npv", p)] = _ratio(cleared, cleared + misses)
    return found


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide, with NaN where there is nothing to divide by."""
    shares = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


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


class RocCurve(NamedTuple):
    """Receiver operating characteristic, one point per distinct score, thresholds falling.

    Attributes:
        false_positive_rate: Shape (k + 1,), 1 - specificity, from 0 to 1.
        true_positive_rate: Shape (k + 1,), sensitivity, from 0 to 1.
        thresholds: Shape (k + 1,); score >= threshold is positive, the first is infinite.
    """

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]


class PrecisionRecallCurve(NamedTuple):
    """Precision over recall, one point per distinct score, thresholds rising.

    Attributes:
        precision: Shape (k + 1,); the last is 1 by convention, where nothing is called positive.
        recall: Shape (k + 1,), from 1 to 0.
        thresholds: Shape (k,); score >= threshold is positive.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def roc(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """Compute sensitivity and 1 - specificity at every distinct score.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        scores: Shape (n,), finite; raw logits rank best.

    Returns:
        The curve, from (0, 0) to (1, 1).

    Raises:
        EvaluationError: If the labels are not of both classes or a score is not finite.
    """
    tp, fp, thresholds = _cumulative_counts(labels, scores)
    return RocCurve(
        np.concatenate(([0.0], fp / fp[-1])),
        np.concatenate(([0.0], tp / tp[-1])),
        np.concatenate(([np.inf], thresholds)),
    )


def precision_recall(labels: ArrayLike, scores: ArrayLike) -> PrecisionRecallCurve:
    """Compute precision and recall at every distinct score.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        scores: Shape (n,), finite; raw logits rank best.

    Returns:
        The curve, from recall 1 to recall 0.

    Raises:
        EvaluationError: If the labels are not of both classes or a score is not finite.
    """
    tp, fp, thresholds = _cumulative_counts(labels, scores)
    return PrecisionRecallCurve(
        np.concatenate(((tp / (tp + fp))[::-1], [1.0])),
        np.concatenate(((tp / tp[-1])[::-1], [0.0])),
        thresholds[::-1],
    )


def _cumulative_counts(
    labels: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Count true and false positives at each distinct score, thresholds falling."""
    truth = check_labels(labels)
    ranked = check_scores(scores, truth.size)
    order = np.argsort(-ranked, kind="stable")
    truth, ranked = truth[order], ranked[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ranked)), truth.size - 1)
    tp = np.cumsum(truth)[last_of_tie]
    return tp, last_of_tie + 1 - tp, ranked[last_of_tie]


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


def predict_positive(probabilities: ArrayLike, threshold: float = 0.5) -> NDArray[np.bool_]:
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
        **threshold_metrics(truth, predict_positive(sigmoid(ranked), threshold)),
        "auroc": auroc(truth, ranked),
        "average_precision": average_precision(truth, ranked),
        "n": truth.size,
        "n_positive": int(truth.sum()),
    }
