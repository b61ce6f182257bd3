"""Nominal 95% intervals hold the truth in 92 to 98 of 100 simulated tests, clusters and all.

The simulation: 150 patients a class, 1 to 10 images each; score = class mean + patient effect +
image noise, of which the patient's part is half of the variance. The truth is AUROC 0.9 =
Phi(d / sqrt 2), and sensitivity 0.9 at the threshold.
"""

import numpy as np
import pytest
from scipy.stats import norm

from pneumonia.evaluation import confidence
from pneumonia.evaluation.calibration import Line
from pneumonia.evaluation.confidence import Estimate, draw_patients, estimate_metrics, wilson
from pneumonia.evaluation.predictions import Sample

TRUTH = 0.9
TESTS = 500
PATIENTS = 150
DISTANCE = np.sqrt(2) * norm.ppf(TRUTH)
THRESHOLD = DISTANCE - norm.ppf(TRUTH)


def simulated(seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(2 * PATIENTS), rng.integers(1, 11, 2 * PATIENTS))
    labels = patients % 2
    effect = rng.normal(size=2 * PATIENTS)[patients] + rng.normal(size=patients.size)
    scores = DISTANCE * labels + effect / np.sqrt(2)
    return Sample.of(labels, norm.cdf(scores - THRESHOLD), patients, scores)


@pytest.mark.slow
def test_coverage(monkeypatch):
    # the recalibration line takes most of the time and is not asked for here
    monkeypatch.setattr(
        confidence, "recalibrate", lambda y, x, w: Line(*np.full((2, len(w)), np.nan))
    )
    held: dict[str, int] = {}
    for seed in range(TESTS):
        sample = simulated(seed)
        found = estimate_metrics(sample, {"": 0.5}, draw_patients(sample, 600, seed))
        sick = sample.labels
        hits = int((sample.probabilities[sick] >= 0.5).sum())
        intervals = {
            "auroc": found["auroc"],
            "sensitivity": found["sensitivity"],
            "obuchowski": confidence.area(sample),
            "delong": confidence.area(sample, clustered=False),
            "wilson": Estimate(0, *wilson(hits, int(sick.sum())), "images"),
        }
        for name, e in intervals.items():
            held[name] = held.get(name, 0) + (e.low <= TRUTH <= e.high)
    coverage = {name: count / TESTS for name, count in held.items()}
    print(coverage)
    for name in ("auroc", "sensitivity", "obuchowski"):
        assert 0.92 <= coverage[name] <= 0.98, coverage
    for name in ("delong", "wilson"):  # what "assumes independent images" costs
        assert coverage[name] < 0.88, coverage
