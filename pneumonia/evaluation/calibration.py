"""Temperature scaling and Cox's recalibration line."""

import logging

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.evaluation.predictions import PredictionTable, sigmoid

log = logging.getLogger(__name__)

TEMPERATURES = (1.0, 10.0)
"""Bounds of a fitted temperature: below 1, separable classes would make every error certain."""

_EPSILON = float(np.finfo(np.float64).eps)
_NEWTON_STEPS = 40


def fit_temperature(labels: ArrayLike, logits: ArrayLike) -> float:
    """Find the temperature T within `TEMPERATURES` that maximises the likelihood.

    Temperature scaling, sigmoid(logit / T): Guo, Pleiss, Sun and Weinberger, ICML 2017, section 4.
    The log likelihood is concave in 1 / T: its derivative is bisected.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA), of images not used in training.
        logits: Shape (n,), finite: the raw output of the model.

    Returns:
        1 for an underconfident model or separable classes, 10 (with a warning) for logits that
        carry no information.

    Raises:
        EvaluationError: If the labels are not of both classes or a logit is not finite.
    """
    table = PredictionTable(label=np.asarray(labels), logit=np.asarray(logits))
    truth, x = table.positive, np.asarray(table.logit)
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]

    def rises(inverse: float) -> bool:
        return float(x @ (truth - sigmoid(x * inverse))) >= 0

    if rises(high):
        return TEMPERATURES[0]
    if not rises(low):
        log.warning(
            "The temperature fitted to %d images reached its upper bound of %g: calibrated"
            " probabilities are still overconfident, see the reliability diagram.",
            truth.size,
            TEMPERATURES[1],
        )
        return TEMPERATURES[1]
    while high - low > 4 * _EPSILON:
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) else (low, middle)
    return 2 / (low + high)


def fit_recalibration(
    positive: NDArray[np.bool_], logits: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit log odds of PNEUMONIA = intercept + slope * logit, for many weightings at once.

    Logistic regression (Cox, Biometrika 45, 1958; the "logistic recalibration" of Van Calster et
    al., J Clin Epidemiol 74, 2016) by Newton's method, for all bootstrap replicates at once.

    Args:
        positive: Shape (n,), True for PNEUMONIA.
        logits: Shape (n,), finite: the log odds of the probabilities.
        weights: Shape (r, n), not negative, with some weight in each class in every row.

    Returns:
        Intercept and slope, each of shape (r,): (0, 1) for calibrated probabilities, a slope below
        1 where they are too extreme. NaN where a logit separates the classes (Albert and Anderson,
        Biometrika 71, 1984) or all logits are equal.
    """
    rows = weights.shape[0]
    intercept, slope = np.full(rows, np.nan), np.full(rows, np.nan)
    active = np.flatnonzero(~_separated(positive, logits, weights))
    if not active.size:
        return intercept, slope
    centre, scale = logits.mean(), logits.std()
    x = (logits - centre) / scale  # so that a step is about one whatever the logits' range
    powers = np.stack((np.ones_like(x), x, x * x), axis=1)
    w = weights[active]
    prevalence = w @ positive / w.sum(axis=1)
    a, b = np.log(prevalence / (1 - prevalence)), np.zeros(active.size)
    for _ in range(_NEWTON_STEPS):
        p = sigmoid(a[:, None] + b[:, None] * x)
        gradient = (w * (positive - p)) @ powers[:, :2]
        curvature = (w * (p * (1 - p))) @ powers
        determinant = curvature[:, 0] * curvature[:, 2] - curvature[:, 1] ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            da = curvature[:, 2] * gradient[:, 0] - curvature[:, 1] * gradient[:, 1]
            db = curvature[:, 0] * gradient[:, 1] - curvature[:, 1] * gradient[:, 0]
            da, db = da / determinant, db / determinant
        a, b = a + da, b + db
        done = np.maximum(np.abs(da), np.abs(db)) < 1e-9  # noqa: PLR2004 - far below any digit shown
        slope[active[done]] = b[done] / scale
        intercept[active[done]] = a[done] - b[done] * centre / scale
        going = ~done & np.isfinite(a) & np.isfinite(b)
        if not going.any():
            break
        active, w, a, b = active[going], w[going], a[going], b[going]
    return intercept, slope


def _separated(
    positive: NDArray[np.bool_], logits: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Find the rows in which a logit separates the classes."""
    present = weights > 0
    ends = [
        extreme(np.where(present[:, members], logits[members], -side * np.inf), axis=1)
        for members in (~positive, positive)
        for extreme, side in ((np.min, -1), (np.max, 1))
    ]
    low_normal, high_normal, low_pneumonia, high_pneumonia = ends
    apart: NDArray[np.bool_] = (low_pneumonia >= high_normal) | (low_normal >= high_pneumonia)
    return apart
