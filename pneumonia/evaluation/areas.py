"""The area under the ROC curve with its variance from structural components."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pneumonia.evaluation.intervals import Estimate, quantile_of_normal
from pneumonia.evaluation.sample import Sample

OBUCHOWSKI = "Obuchowski 1997, clustered by patient"
DELONG = "DeLong 1988, assumes independent images"


class Components(NamedTuple):
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


def components(sample: Sample, *, clustered: bool = True) -> Components:
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
    return Components(
        area,
        np.bincount(of_positive, outranked - area, n) / positive.size,
        np.bincount(of_negative, outranking - area, n) / negative.size,
        np.bincount(of_positive, minlength=n) > 0,
        np.bincount(of_negative, minlength=n) > 0,
    )


def covariance(a: Components, b: Components) -> float:
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
