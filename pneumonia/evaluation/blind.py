"""Intervals where a bootstrap is blind: nothing varied that could have.

390 of 390 pneumonias found is 390 of 390 in every replicate, and the interval [1, 1] claims that
none will ever be missed. What is certain instead:

- a proportion of 0 or 1: Clopper-Pearson on the number of patients it was seen in;
- an AUROC of 0, 1, or of scores all equal: patients of the two classes can be paired off, each
  patient once, into independent trials that all came out alike: Clopper-Pearson on the pairs;
- what is made of sensitivity and specificity of which one is 0 or 1 (each of these metrics rises
  with both): its values where both are at the lower and at the upper ends of their own intervals,
  of 97.5% each, so that both hold at once with 95% (Bonferroni);
- an average precision of 1: all PNEUMONIA lie above all NORMAL images, so that sensitivity at
  least s and a false alarm rate at most f hold, with 97.5% each, at the lowest PNEUMONIA image.
  The precision at recall u is then at least u / (u + c), c = f (1 - prevalence) / prevalence,
  and its mean over u from 0 to s is s - c log(1 + s / c).
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pneumonia.evaluation.intervals import LEVEL, Estimate, clopper_pearson, percentiles
from pneumonia.evaluation.rates import PREVALENCES, predictive_name, rates
from pneumonia.evaluation.sample import Sample

_HALF_LEVEL = (1 + LEVEL) / 2
_OF_BOTH = {
    "accuracy",
    "balanced_accuracy",
    "f1",
    "mcc",
    *(predictive_name(value, p) for value in ("ppv", "npv") for p in PREVALENCES),
}


def blind_interval(
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
