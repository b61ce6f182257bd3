"""The variance of the AUROC agrees with published figures and with formulas written out."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from pneumonia.evaluation import confidence
from pneumonia.evaluation.predictions import Sample


def sample(labels, scores, patients=None) -> Sample:
    scores = np.asarray(scores, float)
    return Sample.of(labels, 1 / (1 + np.exp(-scores)), patients, scores)


def clustered(seed: int, *, mixed: bool = False, noise: float = 1.0) -> Sample:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, 60)
    patients = np.repeat(np.arange(60), sizes)
    labels = rng.integers(0, 2, patients.size) if mixed else patients % 2
    scores = labels + rng.normal(size=60)[patients] + noise * rng.normal(size=patients.size)
    return sample(labels, np.round(scores, 1), patients)


def written_out(a: Sample, b: Sample) -> float:
    """Covariance of two areas, Obuchowski 1997, equations as printed, by loops over pairs."""
    y, g = a.labels, a.patients
    m, n = y.sum(), (~y).sum()
    parts = []
    for s in (a, b):
        kernel = np.array(
            [[float(x > z) + 0.5 * (x == z) for z in s.scores[~y]] for x in s.scores[y]]
        )
        area = kernel.mean()
        x10 = [kernel.mean(axis=1)[g[y] == k].sum() - (g[y] == k).sum() * area for k in range(60)]
        y01 = [kernel.mean(axis=0)[g[~y] == k].sum() - (g[~y] == k).sum() * area for k in range(60)]
        parts.append((np.array(x10), np.array(y01)))
    (xa, ya), (xb, yb) = parts
    i10, i01, i = len(set(g[y])), len(set(g[~y])), len(set(g))
    s10 = i10 / ((i10 - 1) * m) * (xa @ xb)
    s01 = i01 / ((i01 - 1) * n) * (ya @ yb)
    s11 = i / (i - 1) * (xa @ yb + xb @ ya) / 2
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def test_the_ct_ratings_of_hanley_and_mcneil():
    # Radiology 143 (1982), table I; Stata's manual gives area 0.8932, DeLong standard error 0.0307
    normal, abnormal = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
    scores = np.r_[np.repeat(range(5), normal), np.repeat(range(5), abnormal)]
    rated = sample(np.repeat([0, 1], [58, 51]), scores)
    parts = confidence.components(rated, clustered=False)
    assert parts.area == pytest.approx(0.8932, abs=5e-5)
    assert math.sqrt(confidence.covariance(parts, parts)) == pytest.approx(0.0307, abs=5e-5)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_variance_is_that_of_the_paper(seed, mixed):
    one = clustered(seed, mixed=mixed)
    rng = np.random.default_rng(seed)
    other = sample(one.labels, one.scores + rng.normal(size=len(one)), one.patients)
    a, b = confidence.components(one), confidence.components(other)
    assert confidence.covariance(a, a) == pytest.approx(written_out(one, one))
    assert confidence.covariance(a, b) == pytest.approx(written_out(one, other))


@pytest.mark.parametrize("mixed", [False, True])
def test_the_variance_is_near_that_of_leaving_patients_out(mixed):
    s = clustered(7, mixed=mixed)
    left = np.array([confidence.components(s.subset(s.patients != k)).area for k in range(60)])
    jackknife = 59 / 60 * np.sum((left - left.mean()) ** 2)
    parts = confidence.components(s)
    assert confidence.covariance(parts, parts) == pytest.approx(jackknife, rel=0.1)


def test_one_image_per_patient_is_delong():
    s = clustered(0)
    singles = sample(s.labels, s.scores, np.arange(len(s)))
    found, plain = confidence.area(singles), confidence.area(s, clustered=False)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))
    assert found.method == confidence.OBUCHOWSKI
    assert "assumes independent images" in plain.method
    assert "assumes independent images" in confidence.area(sample(s.labels, s.scores)).method


def test_clusters_widen_the_interval():
    s = clustered(0, noise=0.2)
    found, plain = confidence.area(s), confidence.area(s, clustered=False)
    assert found.low < plain.low < found.value < plain.high < found.high < 1


def test_a_difference_is_tested():
    one = clustered(0)
    other = sample(one.labels, one.scores - 1.5 * one.labels, one.patients)
    found, p = confidence.area_difference(one, other)
    assert found.low < found.value < found.high < 0
    error = (found.high - found.low) / 2 / norm.ppf(0.975)
    assert p == pytest.approx(2 * norm.sf(abs(found.value) / error))


@pytest.mark.filterwarnings("error")
def test_without_variance_there_is_no_interval():
    for s in (sample([0, 0, 1, 1], [1, 2, 3, 4]), sample([0, 0, 1], [1, 3, 2])):
        found = confidence.area(s)
        assert math.isnan(found.low)
        assert found.method.startswith("none: the variance is 0 or undefined")
    s = clustered(0)
    found, p = confidence.area_difference(s, s)
    assert found.value == 0
    assert math.isnan(found.low)
    assert math.isnan(p)
