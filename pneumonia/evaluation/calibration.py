"""Whether a probability of 0.8 is right in 8 of 10 images, and the temperature that makes it so."""

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.evaluation.predictions import (
    check_labels,
    check_probabilities,
    check_scores,
    sigmoid,
)

log = logging.getLogger(__name__)

BINS = 15
TEMPERATURES = (1.0, 10.0)
"""Bounds of a fitted temperature: below 1 a separable hold-out would make every error certain."""

_TINY = float(np.finfo(np.float64).eps)
"""Probabilities are kept this far from 0 and 1 where a logarithm is taken, as in scikit-learn."""


def fit_temperature(labels: ArrayLike, logits: ArrayLike) -> float:
    """Find the temperature T that makes sigmoid(logit / T) most likely, within `TEMPERATURES`.

    Temperature scaling: Guo, Pleiss, Sun and Weinberger, ICML 2017, section 4. The likelihood is
    concave in 1 / T, so that its one maximum is found by bisecting the slope.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA), of images not trained on.
        logits: Shape (n,), finite: the model's raw output.

    Returns:
        The temperature, from 1 to 10: 1 for an underconfident model or separable classes, 10
        (with a warning) for logits that say nothing.

    Raises:
        EvaluationError: If the labels are not of both classes or a logit is not finite.
    """
    truth = check_labels(labels)
    x = check_scores(logits, truth.size, "logits")
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]

    def rises(inverse: float) -> bool:
        return float(x @ (truth - sigmoid(x * inverse))) >= 0

    if rises(high):
        return TEMPERATURES[0]
    if not rises(low):
        log.warning(
            "The temperature fitted to %d images stopped at its bound of %g: these logits are far "
            "surer than they are right, so that calibrated probabilities stay too extreme; look "
            "at the reliability diagram before using them.",
            truth.size,
            TEMPERATURES[1],
        )
        return TEMPERATURES[1]
    while high - low > 4 * _TINY:
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) else (low, middle)
    return 2 / (low + high)


def log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn probabilities into logits, those of 0 and 1 into -36 and 36.

    Args:
        probabilities: Any shape, in [0, 1].
    """
    p = np.clip(probabilities, _TINY, 1 - _TINY)
    odds: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return odds


def squared_errors(
    labels: NDArray[np.bool_], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute what each image adds to the Brier score (Brier 1950): (probability - label)^2.

    Args:
        labels: Shape (n,), bool.
        probabilities: Shape (n,), in [0, 1].
    """
    errors: NDArray[np.float64] = (probabilities - labels) ** 2
    return errors


def log_losses(
    labels: NDArray[np.bool_], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute what each image adds to the log loss: -log of the probability of its own class.

    Args:
        labels: Shape (n,), bool.
        probabilities: Shape (n,), in [0, 1]; 0 and 1 count as 2.2e-16 from there.
    """
    p = np.clip(probabilities, _TINY, 1 - _TINY)
    losses: NDArray[np.float64] = -np.where(labels, np.log(p), np.log1p(-p))
    return losses


def bin_numbers(probabilities: NDArray[np.float64], bins: int = BINS) -> NDArray[np.intp]:
    """Sort probabilities into bins of equal width, each with its lower edge, the last with both.

    Args:
        probabilities: Shape (n,), in [0, 1].
        bins: How many.

    Returns:
        Shape (n,), from 0 to bins - 1.
    """
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(inner, probabilities, side="right")


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Compute the Brier score: the mean of `squared_errors`.

    Args:
        labels: Shape (n,), 0 or 1.
        probabilities: Shape (n,), in [0, 1].

    Raises:
        EvaluationError: If the labels are not of both classes or a probability is none.
    """
    return float(np.mean(squared_errors(*_checked(labels, probabilities))))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Compute the log loss: the mean of `log_losses`, in nats.

    Args:
        labels: Shape (n,), 0 or 1.
        probabilities: Shape (n,), in [0, 1].

    Raises:
        EvaluationError: If the labels are not of both classes or a probability is none.
    """
    return float(np.mean(log_losses(*_checked(labels, probabilities))))


class Reliability(NamedTuple):
    """Points of a reliability diagram, one per bin that holds images, probabilities rising.

    Attributes:
        probability: The mean probability of the bin's images.
        frequency: The share of PNEUMONIA among them.
        images: How many they are.
    """

    probability: NDArray[np.float64]
    frequency: NDArray[np.float64]
    images: NDArray[np.int64]


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> Reliability:
    """Compare probabilities with what came true, in bins of equal width.

    Args:
        labels: Shape (n,), 0 or 1.
        probabilities: Shape (n,), in [0, 1].
        bins: How many, from 0 to 1.

    Raises:
        EvaluationError: If the labels are not of both classes or a probability is none.
    """
    truth, p = _checked(labels, probabilities)
    place = bin_numbers(p, bins)
    images = np.bincount(place, minlength=bins)
    filled = images > 0
    return Reliability(
        np.bincount(place, p, bins)[filled] / images[filled],
        np.bincount(place, truth, bins)[filled] / images[filled],
        images[filled],
    )


def ece(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> float:
    """Compute the expected calibration error.

    The distance of probability and frequency, averaged over bins by their images (Naeini, Cooper
    and Hauskrecht, AAAI 2015), of the probability of PNEUMONIA. It is biased upwards where bins
    hold few images: a perfectly calibrated model of 600 images shows about 0.04.

    Args:
        labels: Shape (n,), 0 or 1.
        probabilities: Shape (n,), in [0, 1].
        bins: How many, of equal width.

    Raises:
        EvaluationError: If the labels are not of both classes or a probability is none.
    """
    points = reliability(labels, probabilities, bins)
    return float(np.average(np.abs(points.probability - points.frequency), weights=points.images))


def _checked(
    labels: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    truth = check_labels(labels)
    return truth, check_probabilities(probabilities, truth.size)


_STEPS = 40


class Line(NamedTuple):
    """Cox's recalibration line; (0, 1) for calibrated probabilities.

    Attributes:
        intercept: Shape (r,); below 0 where probabilities are too high for a slope of 1.
        slope: Shape (r,); below 1 where they are too extreme, above 1 where too timid.
    """

    intercept: NDArray[np.float64]
    slope: NDArray[np.float64]


def recalibrate(
    labels: NDArray[np.bool_], logits: NDArray[np.float64], weights: NDArray[np.float64]
) -> Line:
    """Regress labels on logits: log odds of PNEUMONIA = intercept + slope * logit.

    Logistic regression by maximum likelihood (Cox, Biometrika 45, 1958; the "logistic
    recalibration" of Van Calster et al., J Clin Epidemiol 74, 2016, which fits both numbers
    together), by Newton's method from a slope of 0.

    Args:
        labels: Shape (n,), bool.
        logits: Shape (n,), finite: the log odds of the probabilities to judge.
        weights: Shape (r, n), not negative, with some weight in each class in every row.

    Returns:
        The lines. NaN where no finite line is most likely: the classes are separated by a logit
        (Albert and Anderson, Biometrika 71, 1984), which constant logits are a case of.
    """
    rows = weights.shape[0]
    intercept, slope = np.full(rows, np.nan), np.full(rows, np.nan)
    active = np.flatnonzero(~_separated(labels, logits, weights))
    if not active.size:
        return Line(intercept, slope)
    centre, scale = logits.mean(), logits.std()
    x = (logits - centre) / scale  # so that a step is about one whatever the logits' range
    powers = np.stack((np.ones_like(x), x, x * x), axis=1)
    w = weights[active]
    share = w @ labels / w.sum(axis=1)
    a, b = np.log(share / (1 - share)), np.zeros(active.size)
    for _ in range(_STEPS):
        p = sigmoid(a[:, None] + b[:, None] * x)
        gradient = (w * (labels - p)) @ powers[:, :2]
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
    return Line(intercept, slope)


def _separated(
    labels: NDArray[np.bool_], logits: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Find the rows in which no image of one class lies beyond one of the other."""
    present = weights > 0
    ends = {}
    for name, members in (("normal", ~labels), ("pneumonia", labels)):
        here = present[:, members]
        ends[name] = (
            np.where(here, logits[members], np.inf).min(axis=1),
            np.where(here, logits[members], -np.inf).max(axis=1),
        )
    (low_n, high_n), (low_p, high_p) = ends["normal"], ends["pneumonia"]
    apart: NDArray[np.bool_] = (low_p >= high_n) | (low_n >= high_p)
    return apart
