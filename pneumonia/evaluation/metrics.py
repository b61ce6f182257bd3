"""The registry of metrics, each defined once for the test value and its bootstrap replicates.

PNEUMONIA is the positive class and is predicted if probability >= threshold. AUROC and average
precision rank raw logits where they are known: in float32 a sigmoid saturates near 17.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.evaluation.calibration import fit_recalibration
from pneumonia.evaluation.predictions import PredictionTable

Array = NDArray[np.float64]

BINS = 15
"""Bins of equal width of the calibration error (Naeini, Cooper and Hauskrecht, AAAI 2015), which is
biased upwards where bins hold few images, and of the reliability diagram."""

_EPSILON = float(np.finfo(np.float64).eps)
"""Distance from 0 and 1 that probabilities keep where a logarithm is taken, as in scikit-learn."""

_CELLS = 150_000
"""Images times replicates held at once: about 1 MB, so that they fit into the processor's cache."""


def bin_numbers(probabilities: Array) -> NDArray[np.intp]:
    """Sort probabilities into bins from 0 to `BINS` - 1; lower edges belong to their bin."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probabilities, side="right")


class Confusion(NamedTuple):
    """The confusion matrix, PNEUMONIA positive: int, or float64 arrays of several weightings."""

    tp: Any
    fp: Any
    tn: Any
    fn: Any

    @property
    def n_positive(self) -> Any:
        """The number of PNEUMONIA images."""
        return self.tp + self.fn

    @property
    def n_negative(self) -> Any:
        """The number of NORMAL images."""
        return self.tn + self.fp

    @property
    def sensitivity(self) -> Any:
        """The fraction of PNEUMONIA images predicted as PNEUMONIA (recall)."""
        return self.tp / self.n_positive

    @property
    def specificity(self) -> Any:
        """The fraction of NORMAL images predicted as NORMAL."""
        return self.tn / self.n_negative


def confusion(labels: ArrayLike, predicted: NDArray[np.bool_]) -> Confusion:
    """Count images by label (0 or 1) and by whether PNEUMONIA is predicted."""
    y = np.asarray(labels, np.bool_)
    cells = (y & predicted, ~y & predicted, ~y & ~predicted, y & ~predicted)
    return Confusion(*(int(images.sum()) for images in cells))


@dataclass(frozen=True, eq=False)
class WeightedTable:
    """Predictions under r weightings of their images: the input of metrics without threshold.

    Attributes:
        weights: Shape (r, n): the weight of each image.
        n: Shape (r,): the sum of weights.
        squared_errors: Shape (r,): weighted sum of (probability - label)^2.
        log_losses: Shape (r,): weighted sum of -log of the probability of the label.
        bin_gaps: Shape (r, `BINS`): weighted sum of (probability - label) in each bin.
    """

    positive: NDArray[np.bool_]
    log_odds: Array
    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    weights: Array
    n: Array
    squared_errors: Array
    log_losses: Array
    bin_gaps: Array

    @cached_property
    def ranking(self) -> tuple[Array, Array]:
        """AUROC and average precision, each of shape (r,).

        The Mann-Whitney statistic, ties counted half (Hanley and McNeil, Radiology 143, 1982), and
        a sum of steps, as in scikit-learn (Davis and Goadrich, ICML 2006).
        """
        w, labels = self.weights[:, self.order], self.positive[self.order]
        positive = np.add.reduceat(np.where(labels, w, 0.0), self.starts, axis=1)
        negative = np.add.reduceat(np.where(labels, 0.0, w), self.starts, axis=1)
        tp, fp = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
        n_positive, n_negative = tp[:, -1], fp[:, -1]
        below = n_negative[:, None] - fp + negative / 2
        auroc = np.einsum("rk,rk->r", positive, below) / (n_positive * n_negative)
        predicted = tp + fp
        precision = np.divide(tp, predicted, out=np.zeros_like(tp), where=predicted > 0)
        average = np.einsum("rk,rk->r", positive, precision) / n_positive
        return auroc, average

    @cached_property
    def recalibration(self) -> tuple[Array, Array]:
        """Intercept and slope of Cox's recalibration line, each of shape (r,)."""
        return fit_recalibration(self.positive, self.log_odds, self.weights)


@dataclass(frozen=True)
class Metric:
    """One metric, as it is computed and named everywhere.

    The function takes a `Confusion` if it needs a threshold, else a `WeightedTable`; it returns
    shape (r,), NaN where undefined.
    """

    name: str  # key in `metrics.json`, without `test/`
    label: str  # name in tables
    function: Callable[[Any], Array]
    needs_threshold: bool = True
    higher_is_better: bool | None = True  # None where neither direction is


def _ratio(part: Array, whole: Array) -> Array:
    """Divide, with NaN where there is nothing to divide by."""
    ratio = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _mcc(c: Confusion) -> Array:
    """Correlation of label and predicted class (Matthews 1975), 0 if all predictions are equal."""
    spread = (
        np.sqrt(c.tp + c.fp) * np.sqrt(c.tn + c.fn) * np.sqrt(c.n_positive) * np.sqrt(c.n_negative)
    )
    return np.nan_to_num(_ratio(c.tp * c.tn - c.fp * c.fn, spread), nan=0.0)


METRICS: tuple[Metric, ...] = (
    Metric("recall", "recall (sensitivity)", lambda c: c.sensitivity),
    Metric("specificity", "specificity", lambda c: c.specificity),
    Metric("precision", "precision (PPV)", lambda c: _ratio(c.tp, c.tp + c.fp)),
    Metric("npv", "NPV", lambda c: _ratio(c.tn, c.tn + c.fn)),
    Metric("accuracy", "accuracy", lambda c: (c.tp + c.tn) / (c.n_positive + c.n_negative)),
    Metric("balanced_accuracy", "balanced accuracy", lambda c: (c.sensitivity + c.specificity) / 2),
    Metric("f1", "F1", lambda c: 2 * c.tp / (c.n_positive + c.tp + c.fp)),
    Metric("mcc", "MCC", _mcc),
    Metric("auroc", "AUROC", lambda w: w.ranking[0], needs_threshold=False),
    Metric("average_precision", "average precision", lambda w: w.ranking[1], needs_threshold=False),
    Metric("brier", "Brier score", lambda w: w.squared_errors / w.n, False, False),
    Metric("log_loss", "log loss", lambda w: w.log_losses / w.n, False, False),
    Metric(
        "ece", "calibration error (ECE)", lambda w: np.abs(w.bin_gaps).sum(1) / w.n, False, False
    ),
    Metric("calibration_slope", "calibration slope", lambda w: w.recalibration[1], False, None),
    Metric(
        "calibration_intercept", "calibration intercept", lambda w: w.recalibration[0], False, None
    ),
)
"""All metrics of tables and comparisons, in the order in which they are shown."""

SYNONYMS = {"sensitivity": "recall", "ppv": "precision"}
"""Second names in `metrics.json`, with the metric that each stands for."""


def threshold_metrics(
    tp: ArrayLike, fp: ArrayLike, n_positive: ArrayLike, n_negative: ArrayLike
) -> dict[str, Array]:
    """Compute every metric that needs a threshold from counts of images, of any one shape.

    Returns:
        By name, NaN for the predictive value of a class that is never predicted.
    """
    tp, fp, positive, negative = (
        np.asarray(x, np.float64) for x in (tp, fp, n_positive, n_negative)
    )
    matrix = Confusion(tp, fp, negative - fp, positive - tp)
    return {metric.name: metric.function(matrix) for metric in METRICS if metric.needs_threshold}


def compute_metrics(
    table: PredictionTable,
    thresholds: Mapping[str, float],
    patient_weights: NDArray[np.number] | None = None,
) -> dict[str, Array]:
    """Compute every metric, each patient counted with a weight.

    Args:
        table: The predictions.
        thresholds: A threshold in [0, 1] for each prefix of metric names (`""`, `at_0.5/`).
        patient_weights: Shape (r, n_patients), with some weight in each class in every row; by
            default one row of ones.

    Returns:
        By name, shape (r,), NaN where undefined; metrics that need a threshold once behind each
        prefix.
    """
    if patient_weights is None:
        patient_weights = np.ones((1, table.n_patients))
    truth, p = table.positive, table.probability
    clipped = np.clip(p, _EPSILON, 1 - _EPSILON)
    log_losses = -np.where(truth, np.log(clipped), np.log1p(-clipped))
    columns = [truth, ~truth, (p - truth) ** 2, log_losses]
    for threshold in thresholds.values():
        columns += [truth & (p >= threshold), ~truth & (p >= threshold)]
    gaps = (bin_numbers(p)[:, None] == np.arange(BINS)) * (p - truth)[:, None]
    sums = np.asarray(patient_weights, np.float64) @ table.sum_by_patient(
        np.column_stack([*columns, gaps])
    )
    n_positive, n_negative, squared_errors, losses = sums.T[:4]
    found = {}
    for place, prefix in enumerate(thresholds):
        tp, fp = sums.T[4 + 2 * place : 6 + 2 * place]
        for name, values in threshold_metrics(tp, fp, n_positive, n_negative).items():
            found[prefix + name] = values
    order = np.argsort(-table.scores, kind="stable")
    starts = np.append(0, np.flatnonzero(np.diff(table.scores[order])) + 1)
    log_odds, chunks = np.log(clipped) - np.log1p(-clipped), []
    step = max(1, _CELLS // len(table))
    others = [metric for metric in METRICS if not metric.needs_threshold]
    for rows in (slice(start, start + step) for start in range(0, len(sums), step)):
        weighted = WeightedTable(
            table.positive,
            log_odds,
            order,
            starts,
            patient_weights[rows][:, table.patient_ids].astype(np.float64),
            (n_positive + n_negative)[rows],
            squared_errors[rows],
            losses[rows],
            sums[rows, -BINS:],
        )
        chunks.append([metric.function(weighted) for metric in others])
    for metric, parts in zip(others, zip(*chunks, strict=True), strict=True):
        found[metric.name] = np.concatenate(parts)
    return found


def metric_values(table: PredictionTable, thresholds: Mapping[str, float]) -> dict[str, float]:
    """Compute every metric of the table as it is; see `compute_metrics`."""
    return {name: float(values[0]) for name, values in compute_metrics(table, thresholds).items()}
