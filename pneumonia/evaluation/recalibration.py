"""The line that would calibrate the logits, for one weighting of the images or thousands."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pneumonia.evaluation.metrics import sigmoid

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
