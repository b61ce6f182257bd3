"""Labels and scores -> what every threshold would give."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.evaluation.inputs import check_labels, check_scores


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
