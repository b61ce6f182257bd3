"""The area under the ROC curve with its variance from structural components."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.calibration import (
    BINS,
    bin_numbers,
    log_losses,
    log_odds,
    recalibrate,
    squared_errors,
)
from pneumonia.evaluation.metrics import PREVALENCES, Ranking, predictive_name, rates
from pneumonia.evaluation.predictions import Sample

LEVEL = 0.95
"""Confidence of every interval, two-sided."""

Number = int | float


def quantile_of_normal(level: float = LEVEL) -> float:
    """Give the number of standard errors on each side of a two-sided interval: 1.96 for 95%.

    Args:
        level: Confidence, in (0, 1).
    """
    return NormalDist().inv_cdf((1 + level) / 2)


@dataclass(frozen=True)
class Estimate:
    """A number, how far from it the truth may be, and how that was found.

    Attributes:
        value: The number on this sample; NaN where it is undefined.
        low: Lower end of the 95% interval; NaN where there is none.
        high: Upper end, likewise.
        method: Of the interval, or why there is none.
    """

    value: Number
    low: Number
    high: Number
    method: str

    def to_dict(self) -> dict[str, Number | str | None]:
        """Give plain numbers for JSON, None for NaN."""
        return {
            "value": _or_none(self.value),
            "low": _or_none(self.low),
            "high": _or_none(self.high),
            "method": self.method,
        }

    @classmethod
    def exact(cls, value: Number, method: str) -> "Estimate":
        """Make one of a number that is known and not estimated, such as a count.

        Args:
            value: The number, and both ends.
            method: What it is: `count`, `given`.
        """
        return cls(value, value, value, method)

    @classmethod
    def without_interval(cls, value: Number, reason: str) -> "Estimate":
        """Make one of a number whose interval cannot be known.

        Args:
            value: The number.
            reason: Why there is none.
        """
        return cls(value, math.nan, math.nan, f"none: {reason}")


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Compute the score interval of a proportion; assumes independent images.

    Wilson, JASA 22 (1927); method 3 of Newcombe, Statistics in Medicine 17 (1998), 857.

    Args:
        successes: From 0 to n.
        n: At least 1.
        level: Confidence.

    Returns:
        Lower and upper end.
    """
    z2 = quantile_of_normal(level) ** 2
    centre = (successes + z2 / 2) / (n + z2)
    reach = math.sqrt(z2 * (successes * (n - successes) / n + z2 / 4)) / (n + z2)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def clopper_pearson(all_or_none: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Compute the exact interval of a proportion that was seen to be 0 or 1.

    Clopper and Pearson, Biometrika 26 (1934): solving (1 - p)^n = alpha / 2 for the far end.
    Where images of a patient depend on each other, `n` counts patients: with every one of them
    free of errors, that their images were so too says no more.

    Args:
        all_or_none: The proportion, 0 or 1.
        n: Independent trials; none at all leave everything possible, [0, 1].
        level: Confidence.

    Returns:
        Lower and upper end.
    """
    far = ((1 - level) / 2) ** (1 / n) if n else 0.0
    return (far, 1.0) if all_or_none else (0.0, 1 - far)


def percentiles(
    value: float, replicates: NDArray[np.float64], level: float = LEVEL
) -> tuple[float, float] | None:
    """Compute the percentile interval of a bootstrap (Efron 1979).

    It is stretched to the value where it would miss it, as it does for the calibration error,
    which every resampling adds to.

    Args:
        value: The number on the sample itself.
        replicates: Shape (r,): the number on each replicate, NaN where undefined.
        level: Confidence.

    Returns:
        Lower and upper end, or None where replicates cannot tell: more of them are undefined than
        lie beyond one end, or all are the same.
    """
    defined = replicates[~np.isnan(replicates)]
    if math.isnan(value) or defined.size < (1 + level) / 2 * replicates.size:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    if np.ptp(defined) < 1e-12:  # noqa: PLR2004 - rounding of sums of the same images
        return None
    return min(float(low), value), max(float(high), value)


def _or_none(number: Number) -> Number | None:
    return number if math.isfinite(number) else None


OBUCHOWSKI = "Obuchowski 1997, clustered by patient"
DELONG = "DeLong 1988, assumes independent images"


class StructuralComponents(NamedTuple):
    """What each cluster says of an area, beyond its share.

    Attributes:
        area: The AUROC.
        positive: Shape (g,): sum over the cluster's PNEUMONIA images of (share of NORMAL images
            they outrank - area), divided by all PNEUMONIA images.
        negative: Shape (g,): likewise of its NORMAL images.
        has_positive: Shape (g,), whether the cluster has a PNEUMONIA image.
        has_negative: Shape (g,), whether it has a NORMAL one.
    """

    area: float
    positive: NDArray[np.float64]
    negative: NDArray[np.float64]
    has_positive: NDArray[np.bool_]
    has_negative: NDArray[np.bool_]


def components(sample: Sample, *, clustered: bool = True) -> StructuralComponents:
    """Split the area into what each cluster adds (DeLong, DeLong and Clarke-Pearson 1988).

    Args:
        sample: The images.
        clustered: Whether a cluster is a patient, or else a single image.
    """
    positive, negative = sample.scores[sample.labels], sample.scores[~sample.labels]
    outranked = _share_below(positive, negative)
    outranking = 1 - _share_below(negative, positive)
    area = float(outranked.mean())
    clusters = sample.patients if clustered else np.arange(len(sample))
    n = int(clusters.max()) + 1
    of_positive, of_negative = clusters[sample.labels], clusters[~sample.labels]
    return StructuralComponents(
        area,
        np.bincount(of_positive, outranked - area, n) / positive.size,
        np.bincount(of_negative, outranking - area, n) / negative.size,
        np.bincount(of_positive, minlength=n) > 0,
        np.bincount(of_negative, minlength=n) > 0,
    )


def covariance(a: StructuralComponents, b: StructuralComponents) -> float:
    """Compute the covariance of two areas on the same images; of one with itself, its variance.

    Obuchowski, Biometrics 53 (1997), 567: S10 / m + S01 / n + 2 S11 / (m n), and with one image
    per cluster the variance of DeLong et al., Biometrics 44 (1988), 837.

    Args:
        a: Components of one model's area.
        b: Components of the other's, of the same images in the same clusters.

    Returns:
        The covariance; NaN with fewer than two clusters in a class.
    """
    i10, i01, i = a.has_positive.sum(), a.has_negative.sum(), a.positive.size
    if min(i10, i01) < 2:  # noqa: PLR2004 - a variance needs two
        return math.nan
    crossed = a.positive @ b.negative + a.negative @ b.positive
    return float(
        i10 / (i10 - 1) * (a.positive @ b.positive)
        + i01 / (i01 - 1) * (a.negative @ b.negative)
        + i / (i - 1) * crossed
    )


def area(sample: Sample, *, clustered: bool = True) -> Estimate:
    """Give the AUROC with an interval from its variance, on the logit scale.

    On that scale the interval stays within [0, 1] and keeps its coverage near 1 (Pepe 2003,
    section 5.2.4).

    Args:
        sample: The images.
        clustered: Whether images of a patient may depend on each other.
    """
    method = OBUCHOWSKI if clustered and sample.known_patients else DELONG
    found = components(sample, clustered=clustered)
    variance = covariance(found, found)
    if not (variance > 0 and 0 < found.area < 1):
        return Estimate.without_interval(found.area, f"the variance is 0 or undefined ({method})")
    spread = found.area * (1 - found.area)
    centre = math.log(found.area / (1 - found.area))
    reach = quantile_of_normal() * math.sqrt(variance) / spread
    low, high = (1 / (1 + math.exp(-(centre + side * reach))) for side in (-1, 1))
    return Estimate(found.area, low, high, method)


def area_difference(a: Sample, b: Sample, *, clustered: bool = True) -> tuple[Estimate, float]:
    """Give the AUROC of b minus that of a, on the same images.

    Args:
        a: One model's scores.
        b: The other's, of the same images of the same patients in the same order.
        clustered: Whether images of a patient may depend on each other.

    Returns:
        The difference, and the two-sided p-value of its being 0 (NaN where it has no variance).
    """
    method = OBUCHOWSKI if clustered and a.known_patients else DELONG
    of_a, of_b = (components(sample, clustered=clustered) for sample in (a, b))
    variance = covariance(of_a, of_a) + covariance(of_b, of_b) - 2 * covariance(of_a, of_b)
    difference = of_b.area - of_a.area
    if not variance > np.finfo(float).eps:
        reason = f"the variance is 0 or undefined ({method})"
        return Estimate.without_interval(difference, reason), math.nan
    error = math.sqrt(variance)
    reach = quantile_of_normal() * error
    p = math.erfc(abs(difference) / error / math.sqrt(2))
    return Estimate(difference, difference - reach, difference + reach, method), p


def _share_below(scores: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the share of the others below each score, ties counted half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return below / (2 * others.size)


_CELLS = 150_000
"""Images times replicates held at once: about 1 MB, so that the processor's cache serves them."""


class MetricSet:
    """What a sample has to be asked, prepared once and answered for any weights of its patients.

    Most metrics are made of sums over images, and so of sums over patients: one matrix product
    gives them for all weightings. Rankings and the recalibration line need the images.

    Args:
        sample: The images.
        thresholds: By prefix of the metric names (``""``, ``at_0.5/``), in [0, 1].
    """

    def __init__(self, sample: Sample, thresholds: Mapping[str, float]) -> None:
        self._sample = sample
        self._thresholds = dict(thresholds)
        self._ranking = Ranking(sample.labels, sample.scores)
        self._log_odds = log_odds(sample.probabilities)
        truth, p = sample.labels, sample.probabilities
        in_bin = bin_numbers(p)[:, None] == np.arange(BINS)
        columns = [truth, ~truth, squared_errors(truth, p), log_losses(truth, p)]
        for threshold in self._thresholds.values():
            called = p >= threshold
            columns += [truth & called, ~truth & called]
        gaps = in_bin * (p - truth)[:, None]
        self._sums = sample.patient_sums(np.column_stack([*columns, gaps]))

    def values(self) -> dict[str, float]:
        """Give the metrics of the sample as it is.

        Returns:
            By name: those of `rates` behind the prefix of each threshold; auroc and
            average_precision; brier, log_loss, ece, calibration_slope and calibration_intercept.
            NaN where undefined.
        """
        once = np.ones((1, self._sample.n_patients))
        return {name: float(found[0]) for name, found in self.replicates(once).items()}

    def replicates(self, weights: NDArray[np.number]) -> dict[str, NDArray[np.float64]]:
        """Give the metrics with each patient counted a number of times.

        Args:
            weights: Shape (r, n_patients): one weighting per row, with some weight in each class.

        Returns:
            The names of `values`, each with an array of shape (r,).
        """
        found = self._from_sums(np.asarray(weights, np.float64) @ self._sums)
        rows = max(1, _CELLS // len(self._sample))
        parts = [
            self._from_images(weights[start : start + rows][:, self._sample.patients])
            for start in range(0, len(weights), rows)
        ]
        for name in parts[0]:
            found[name] = np.concatenate([part[name] for part in parts])
        return found

    def _from_sums(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        n_positive, n_negative, squared, logarithmic = sums.T[:4]
        n = n_positive + n_negative
        found = {
            "brier": squared / n,
            "log_loss": logarithmic / n,
            "ece": np.abs(sums[:, -BINS:]).sum(axis=1) / n,
        }
        for place, prefix in enumerate(self._thresholds):
            tp, fp = sums.T[4 + 2 * place : 6 + 2 * place]
            for name, values in rates(tp, fp, n_positive, n_negative).items():
                found[prefix + name] = values
        return found

    def _from_images(self, weights: NDArray[np.number]) -> dict[str, NDArray[np.float64]]:
        w = weights.astype(np.float64)
        area, average = self._ranking.measure(w)
        line = recalibrate(self._sample.labels, self._log_odds, w)
        return {
            "auroc": area,
            "average_precision": average,
            "calibration_slope": line.slope,
            "calibration_intercept": line.intercept,
        }


_HALF_LEVEL = (1 + LEVEL) / 2
_OF_BOTH = {
    "accuracy",
    "balanced_accuracy",
    "f1",
    "mcc",
    *(predictive_name(value, p) for value in ("ppv", "npv") for p in PREVALENCES),
}


def degenerate_interval(
    sample: Sample,
    threshold: float | None,
    prefix: str,
    name: str,
    values: Mapping[str, float],
    replicates: Mapping[str, NDArray[np.float64]],
) -> Estimate | None:
    """Give the interval of a metric whose replicates are blind.

    Args:
        sample: The images.
        threshold: The threshold of the metric, None if it has none.
        prefix: Of the names of metrics at this threshold.
        name: The metric, with its prefix.
        values: The metrics of the sample.
        replicates: Of each metric, shape (r,).

    Returns:
        The metric with its interval, or None where the bootstrap sees.
    """
    metric, value = name.removeprefix(prefix), values[name]
    if metric == "auroc":
        return _area(sample, value)
    if metric == "average_precision":
        return _perfect_precision(sample) if value == 1 else None
    if threshold is None:
        return None
    trials = _trials(sample, threshold, metric)
    if trials is not None and (math.isnan(value) or value in {0, 1}):
        n = sample.patients_with(trials).size
        ends = clopper_pearson(value, n)
        return Estimate(
            0.0 if math.isnan(value) else value, *ends, _counted(sample, n, f"{sample.unit}s")
        )
    pair = values[f"{prefix}sensitivity"], values[f"{prefix}specificity"]
    if metric in _OF_BOTH and (pair[0] in {0, 1} or pair[1] in {0, 1}):
        return _corners(sample, prefix, metric, values, replicates)
    return None


def _trials(sample: Sample, threshold: float, metric: str) -> NDArray[np.bool_] | None:
    """Find the images that a proportion is a proportion of; None for what is no proportion."""
    called = sample.probabilities >= threshold
    return {
        "sensitivity": sample.labels,
        "recall": sample.labels,
        "specificity": ~sample.labels,
        "ppv": called,
        "precision": called,
        "npv": ~called,
        "accuracy": np.ones_like(called),
    }.get(metric)


def _area(sample: Sample, value: float) -> Estimate | None:
    constant = bool(np.ptp(sample.scores) == 0)
    if value not in {0, 1} and not constant:
        return None
    pairs = min(*sample.class_patients, max(1, sample.n_patients // 2))
    least, _ = clopper_pearson(1, pairs)
    low, high = (least / 2, 1 - least / 2) if constant else (least, 1.0)
    if value == 0:
        low, high = 1 - high, 1 - low
    return Estimate(value, low, high, _counted(sample, pairs, f"pairs of {sample.unit}s"))


def _perfect_precision(sample: Sample) -> Estimate:
    n_negative, n_positive = sample.class_patients
    s, _ = clopper_pearson(1, n_positive, _HALF_LEVEL)
    _, f = clopper_pearson(0, n_negative, _HALF_LEVEL)
    c = f * float(np.mean(~sample.labels) / np.mean(sample.labels))
    return Estimate(
        1.0, s - c * math.log1p(s / c), 1.0, f"bound by Clopper-Pearson{sample.assumption}"
    )


def _corners(
    sample: Sample,
    prefix: str,
    metric: str,
    values: Mapping[str, float],
    replicates: Mapping[str, NDArray[np.float64]],
) -> Estimate | None:
    value = values[prefix + metric]
    positive = int(sample.labels.sum())
    negative = len(sample) - positive
    corners: list[tuple[float, float]] = []
    for part, n in zip(("specificity", "sensitivity"), sample.class_patients, strict=True):
        share = values[prefix + part]
        ends = (
            clopper_pearson(share, n, _HALF_LEVEL)
            if share in {0, 1}
            else percentiles(share, replicates[prefix + part], _HALF_LEVEL)
        )
        if ends is None:
            return None
        corners.append(ends)
    low, high = (
        float(rates(s * positive, (1 - p) * negative, positive, negative)[metric])
        for p, s in zip(*corners, strict=True)
    )
    return Estimate(
        0.0 if math.isnan(value) else value,
        0.0 if math.isnan(low) else low,
        1.0 if math.isnan(high) else high,
        "97.5% intervals of sensitivity and specificity, Clopper-Pearson where 0 or 1"
        + sample.assumption,
    )


def _counted(sample: Sample, n: int, what: str) -> str:
    return f"Clopper-Pearson on {n} {what}{sample.assumption}"


REPLICATES = 2000
_FEWEST = 200
_ATTEMPTS = 100


def draw_patients(sample: Sample, replicates: int = REPLICATES, seed: int = 0) -> NDArray[np.int32]:
    """Draw patients with replacement, all images of a patient together, within each class.

    The cluster bootstrap (Davison and Hinkley 1997, section 3.8; Field and Welsh, JRSS B 69,
    2007). Each replicate has as many patients of each class as the sample, so that intervals are
    given the number of sick and healthy, as sensitivity and specificity are. Where patients with
    images of both classes exist, class is no property of a patient: all are drawn together, and
    the rare replicate that lacks a class is drawn again.

    Args:
        sample: Whose patients.
        replicates: How many draws, at least 200.
        seed: The same gives the same draws.

    Returns:
        Shape (replicates, n_patients): how often each patient was drawn.

    Raises:
        EvaluationError: If too few replicates are asked for.
    """
    if replicates < _FEWEST:
        raise EvaluationError(
            f"Found {replicates} bootstrap replicates, expected at least {_FEWEST}: the ends of a "
            f"95% interval are rare events; give {REPLICATES}."
        )
    random = np.random.default_rng(seed)
    weights = np.zeros((replicates, sample.n_patients), np.int32)
    positive = sample.patients_with(sample.labels)
    negative = sample.patients_with(~sample.labels)
    if not sample.mixed_patients.size:
        for members in (negative, positive):
            weights[:, members] = _draw(random, replicates, members.size)
        return weights
    missing = np.arange(replicates)
    for _ in range(_ATTEMPTS):
        weights[missing] = _draw(random, missing.size, sample.n_patients)
        lacks = [weights[:, members].sum(axis=1) == 0 for members in (negative, positive)]
        missing = np.flatnonzero(lacks[0] | lacks[1])
        if not missing.size:
            return weights
    weights[missing] = 1  # one patient of many holds a whole class: the sample itself
    return weights


def estimate_metrics(
    sample: Sample, thresholds: Mapping[str, float], weights: NDArray[np.int32]
) -> dict[str, Estimate]:
    """Give every metric of a sample with its interval.

    Percentile intervals of the patient bootstrap, except where it is blind (see
    `pneumonia.evaluation.confidence`).

    Args:
        sample: The images.
        thresholds: By prefix of the metric names, in [0, 1].
        weights: What `draw_patients` gave for this sample.

    Returns:
        The names of `MetricSet.values`. Predictive values of a call that no image got are 0, as
        with scikit-learn's `zero_division=0`, with the interval [0, 1].
    """
    card = MetricSet(sample, thresholds)
    values, replicates = card.values(), card.replicates(weights)
    found = {}
    for name, value in values.items():
        prefix = name[: name.rfind("/") + 1]
        draws = replicates[name]
        blind = degenerate_interval(
            sample, thresholds.get(prefix), prefix, name, values, replicates
        )
        if blind is not None:
            found[name] = blind
            continue
        ends = percentiles(value, draws) if _units(sample, name) > 1 else None
        found[name] = (
            Estimate(value, *ends, f"{sample.unit} bootstrap{sample.assumption}")
            if ends
            else Estimate.without_interval(value, _reason(sample, name, value, draws))
        )
    return found


def _draw(random: np.random.Generator, rows: int, size: int) -> NDArray[np.int64]:
    return random.multinomial(size, np.full(size, 1 / size), size=rows)


def _units(sample: Sample, name: str) -> int:
    """Count what varies between replicates: the patients of the class that a metric is about."""
    n_negative, n_positive = sample.class_patients
    metric = name.rpartition("/")[2]
    if metric in {"sensitivity", "recall"}:
        return n_positive
    return n_negative if metric == "specificity" else min(n_negative, n_positive)


def _reason(sample: Sample, name: str, value: float, draws: NDArray[np.float64]) -> str:
    if math.isnan(value):
        return "undefined, for a threshold separates the classes or all probabilities are equal"
    if _units(sample, name) < 2:  # noqa: PLR2004 - of one nothing is known of the next
        return f"one {sample.unit} in a class"
    if np.isnan(draws).any():
        return f"undefined in {np.isnan(draws).mean():.0%} of bootstrap replicates"
    return "every bootstrap replicate gives the same value"
