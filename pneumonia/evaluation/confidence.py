"""Confidence intervals that account for several images per patient.

Metrics get percentile intervals of the patient-level bootstrap; proportions of 0 or 1, of which
every replicate is the same, get an exact one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from pneumonia.evaluation.metrics import SYNONYMS, compute_metrics, metric_values
from pneumonia.evaluation.predictions import PredictionTable

LEVEL = 0.95
REPLICATES = 2000

OBUCHOWSKI = "Obuchowski 1997, clustered by patient"
DELONG = "DeLong 1988, assumes independent images"

_QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval."""

    value: float  # NaN where undefined
    low: float  # ends of the 95% interval; NaN without an interval
    high: float
    method: str  # how the interval was computed, or why there is none

    def to_dict(self) -> dict[str, float | str | None]:
        """Return plain values for JSON, None for NaN."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        finite = {key: x if math.isfinite(x) else None for key, x in numbers.items()}
        return {**finite, "method": self.method}

    @classmethod
    def exact(cls, value: float, method: str) -> "Estimate":
        """Wrap a number that is known exactly, such as a count or a given threshold."""
        return cls(value, value, value, method)

    @classmethod
    def without_interval(cls, value: float, reason: str) -> "Estimate":
        """Wrap a number that has no interval, for the reason given."""
        return cls(value, math.nan, math.nan, f"none: {reason}")


def proportion_interval(
    successes: int, n: int, method: Literal["exact", "wilson"]
) -> tuple[float, float]:
    """Compute the interval of a proportion of n independent trials; [0, 1] for n = 0.

    The method is `exact` (Clopper and Pearson, Biometrika 26, 1934) or `wilson` (JASA 22, 1927).
    """
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(LEVEL, method)
    return float(interval.low), float(interval.high)


def percentile_interval(
    value: float, replicates: NDArray[np.float64]
) -> tuple[float, float] | None:
    """Compute the percentile interval of a bootstrap (Efron 1979), extended to include the value.

    Returns:
        Both ends; None if all replicates are the same or too many of them are undefined (NaN).
    """
    defined = replicates[~np.isnan(replicates)]
    if math.isnan(value) or defined.size < (1 + LEVEL) / 2 * replicates.size:
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if np.ptp(defined) < 1e-12:  # noqa: PLR2004 - rounding of sums of the same images
        return None
    return min(float(low), value), max(float(high), value)


class _Components(NamedTuple):
    """The part of each patient in an AUROC (DeLong, DeLong and Clarke-Pearson 1988).

    `positive` sums over its PNEUMONIA images (fraction of NORMAL images that they outrank - AUROC)
    divided by the number of all PNEUMONIA images; `negative` likewise.
    """

    auroc: float
    positive: NDArray[np.float64]
    negative: NDArray[np.float64]
    class_patients: tuple[int, int]


def _components(table: PredictionTable) -> _Components:
    truth, scores = table.positive, table.scores
    outranked = _fraction_below(scores[truth], scores[~truth])
    outranking = 1 - _fraction_below(scores[~truth], scores[truth])
    auroc = float(outranked.mean())
    patients, n = table.patient_ids, table.n_patients
    return _Components(
        auroc,
        np.bincount(patients[truth], outranked - auroc, n) / outranked.size,
        np.bincount(patients[~truth], outranking - auroc, n) / outranking.size,
        table.class_patients,
    )


def _covariance(a: _Components, b: _Components) -> float:
    """Covariance of two AUROCs on the same images; NaN with fewer than two patients in a class.

    Obuchowski, Biometrics 53 (1997), 567: S10 / m + S01 / n + 2 S11 / (m n). One image per
    patient gives the variance of DeLong et al., Biometrics 44 (1988), 837.
    """
    (i01, i10), i = a.class_patients, a.positive.size
    if min(i10, i01) < 2:  # noqa: PLR2004 - a variance needs two
        return math.nan
    crossed = a.positive @ b.negative + a.negative @ b.positive
    return float(
        i10 / (i10 - 1) * (a.positive @ b.positive)
        + i01 / (i01 - 1) * (a.negative @ b.negative)
        + i / (i - 1) * crossed
    )


def auroc_estimate(table: PredictionTable) -> Estimate:
    """Compute the AUROC with an interval from its variance, on the logit scale (Pepe 2003, 5.2.4).

    Without patients the variance is that of DeLong (1988).
    """
    method = DELONG if table.patient is None else OBUCHOWSKI
    found = _components(table)
    variance = _covariance(found, found)
    if not (variance > 0 and 0 < found.auroc < 1):
        return Estimate.without_interval(found.auroc, f"the variance is 0 or undefined ({method})")
    spread = found.auroc * (1 - found.auroc)
    centre = math.log(found.auroc / (1 - found.auroc))
    reach = _QUANTILE * math.sqrt(variance) / spread
    low, high = (1 / (1 + math.exp(-(centre + side * reach))) for side in (-1, 1))
    return Estimate(found.auroc, low, high, method)


def auroc_p_value(a: PredictionTable, b: PredictionTable) -> float:
    """Test whether two models have the same AUROC on the same images, in the same order.

    Returns:
        The two-sided p-value from the variance of the difference; NaN where that is 0.
    """
    of_a, of_b = _components(a), _components(b)
    variance = _covariance(of_a, of_a) + _covariance(of_b, of_b) - 2 * _covariance(of_a, of_b)
    if not variance > np.finfo(float).eps:
        return math.nan
    return math.erfc(abs(of_b.auroc - of_a.auroc) / math.sqrt(2 * variance))


def _fraction_below(
    scores: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find the fraction of the others below each score, ties counted half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return below / (2 * others.size)


def draw_patients(
    table: PredictionTable, replicates: int = REPLICATES, seed: int = 0
) -> NDArray[np.int32]:
    """Draw patients with replacement within each class, all images of a patient together.

    The cluster bootstrap (Davison and Hinkley 1997, section 3.8; Field and Welsh, JRSS B 69,
    2007). Where a patient has images of both classes, all patients are drawn together until both
    classes are there.

    Returns:
        Shape (replicates, n_patients): how often each patient was drawn.
    """
    random = np.random.default_rng(seed)

    def draw(rows: int, size: int) -> NDArray[np.int64]:
        return random.multinomial(size, np.full(size, 1 / size), size=rows)

    weights = np.zeros((replicates, table.n_patients), np.int32)
    classes = table.patients_with(~table.positive), table.patients_with(table.positive)
    if not table.mixed_patients.size:
        for members in classes:
            weights[:, members] = draw(replicates, members.size)
        return weights
    missing = np.arange(replicates)
    while missing.size:
        weights[missing] = draw(missing.size, table.n_patients)
        lacks = [weights[:, members].sum(axis=1) == 0 for members in classes]
        missing = np.flatnonzero(lacks[0] | lacks[1])
    return weights


def estimate_metrics(
    table: PredictionTable, thresholds: Mapping[str, float], weights: NDArray[np.int32]
) -> dict[str, Estimate]:
    """Compute every metric with its interval.

    Args:
        table: The predictions.
        thresholds: A threshold in [0, 1] for each prefix of metric names (`""`, `at_0.5/`).
        weights: What `draw_patients` returned for this table.

    Returns:
        The names of `compute_metrics`, and those of `SYNONYMS`. A predictive value of a class that
        was never predicted is 0, as with scikit-learn's `zero_division=0`, with interval [0, 1].
    """
    values = metric_values(table, thresholds)
    replicates = compute_metrics(table, thresholds, weights)
    found = {}
    for prefix, threshold in thresholds.items():
        predicted = table.probability >= threshold
        for metric, images in (
            ("recall", table.positive),
            ("specificity", ~table.positive),
            ("precision", predicted),
            ("npv", ~predicted),
            ("accuracy", np.ones_like(predicted)),
        ):
            value = values[prefix + metric]
            if math.isnan(value) or value in {0, 1}:  # as is every replicate
                found[prefix + metric] = exact_proportion(table, value, images)
    n_negative, n_positive = table.class_patients
    patients = {"recall": n_positive, "specificity": n_negative}
    for name in values.keys() - found.keys():
        n = patients.get(name.rpartition("/")[2], min(n_negative, n_positive))
        found[name] = bootstrap_estimate(table, values[name], replicates[name], n)
    for prefix in thresholds:
        found |= {prefix + name: found[prefix + metric] for name, metric in SYNONYMS.items()}
    return found


def bootstrap_estimate(
    table: PredictionTable, value: float, replicates: NDArray[np.float64], patients: int
) -> Estimate:
    """Take the percentile interval, or say why there is none.

    Args:
        table: The predictions.
        value: The metric of the table.
        replicates: Shape (r,): the metric of each replicate, NaN where undefined.
        patients: How many patients it depends on.
    """
    if math.isnan(value):
        reason = "undefined, a threshold separates the classes or all probabilities are equal"
    elif patients < 2:  # noqa: PLR2004 - one patient shows no variation
        reason = f"one {table.unit} in a class"
    elif ends := percentile_interval(value, replicates):
        return Estimate(value, *ends, f"{table.unit} bootstrap{table.assumption}")
    elif np.isnan(replicates).any():
        reason = f"undefined in {np.isnan(replicates).mean():.0%} of bootstrap replicates"
    else:
        reason = "every bootstrap replicate gives the same value"
    return Estimate.without_interval(value, reason)


def exact_proportion(table: PredictionTable, value: float, images: NDArray[np.bool_]) -> Estimate:
    """Estimate a proportion of 0, 1 or NaN (of no image) of the images of a mask by patients."""
    value = 0.0 if math.isnan(value) else value
    n = table.patients_with(images).size
    ends = proportion_interval(int(value) * n, n, "exact")
    return Estimate(value, *ends, f"Clopper-Pearson on {n} {table.unit}s{table.assumption}")
