"""Intervals: published figures, patients resampled within class, and exact where that fails."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import norm

from pneumonia.evaluation import metrics
from pneumonia.evaluation.confidence import (
    Estimate,
    auroc_estimate,
    auroc_p_value,
    draw_patients,
    estimate_metrics,
    percentile_interval,
    proportion_interval,
)
from pneumonia.evaluation.metrics import compute_metrics
from pneumonia.evaluation.predictions import PredictionTable


def table(labels, scores, patients=None) -> PredictionTable:
    return PredictionTable(
        label=np.asarray(labels),
        logit=np.asarray(scores, float),
        patient=None if patients is None else np.asarray(patients),
    )


def clustered(
    seed: int = 0, patients: int = 80, most: int = 5, noise: float = 1.0, mixed: bool = False
) -> PredictionTable:
    """Several images per patient that resemble each other; odd patients have PNEUMONIA."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), rng.integers(1, most + 1, patients))
    labels = rng.integers(0, 2, groups.size) if mixed else groups % 2
    effect = rng.normal(size=patients)[groups] + noise * rng.normal(size=groups.size)
    return table(labels, np.round(2 * labels - 1 + effect, 1), groups)


def estimates(t: PredictionTable) -> dict[str, Estimate]:
    return estimate_metrics(t, {"": 0.5}, draw_patients(t))


def test_wilson_interval_of_newcombe():
    # Statistics in Medicine 17 (1998), table I
    assert proportion_interval(81, 263, "wilson") == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert proportion_interval(0, 0, "exact") == (0, 1)


def test_constant_or_undefined_replicates_give_no_interval():
    assert percentile_interval(0.5, np.full(100, 0.5)) is None
    drawn = np.linspace(0, 1, 1000)
    drawn[:20] = np.nan
    assert percentile_interval(0.5, drawn) is not None
    drawn[:30] = np.nan
    assert percentile_interval(0.5, drawn) is None


def standard_error(e: Estimate) -> float:
    """Of the logit-scale interval, back on the scale of the AUROC."""
    width = math.log(e.high / (1 - e.high)) - math.log(e.low / (1 - e.low))
    return width / 2 / norm.ppf(0.975) * e.value * (1 - e.value)


def test_ct_ratings_of_hanley_and_mcneil():
    # Radiology 143 (1982), table I; Stata's manual gives area 0.8932, DeLong standard error 0.0307
    scores = np.r_[np.repeat(range(5), (33, 6, 6, 11, 2)), np.repeat(range(5), (3, 2, 2, 11, 33))]
    found = auroc_estimate(table(np.repeat([0, 1], [58, 51]), scores))
    assert found.value == pytest.approx(0.8932, abs=5e-5)
    assert standard_error(found) == pytest.approx(0.0307, abs=5e-5)


def obuchowski_1997(t: PredictionTable) -> float:
    """The variance, equations as printed, by loops over pairs."""
    y, g = t.positive, t.patient_ids
    x, z = t.scores[y], t.scores[~y]
    m, n = x.size, z.size
    kernel = (x[:, None] > z) + 0.5 * (x[:, None] == z)
    area = kernel.mean()
    patients = range(t.n_patients)
    vx = [kernel.mean(axis=1)[g[y] == k].sum() - (g[y] == k).sum() * area for k in patients]
    vy = [kernel.mean(axis=0)[g[~y] == k].sum() - (g[~y] == k).sum() * area for k in patients]
    i10, i01, i = len(set(g[y])), len(set(g[~y])), len(set(g))
    s10 = i10 / ((i10 - 1) * m) * np.dot(vx, vx)
    s01 = i01 / ((i01 - 1) * n) * np.dot(vy, vy)
    s11 = i / (i - 1) * np.dot(vx, vy)
    return float(s10 / m + s01 / n + 2 * s11 / (m * n))


@pytest.mark.parametrize("mixed", [False, True])
def test_variance_of_the_paper(mixed):
    t = clustered(patients=60, mixed=mixed)
    assert standard_error(auroc_estimate(t)) ** 2 == pytest.approx(obuchowski_1997(t))


def test_equal_aurocs_of_two_models():
    one = clustered()
    other = table(one.label, one.scores - 0.3 * one.label, one.patient)
    weights = draw_patients(one)
    drawn = [compute_metrics(t, {}, weights)["auroc"] for t in (one, other)]
    gap = auroc_estimate(one).value - auroc_estimate(other).value
    z = norm.isf(auroc_p_value(one, other) / 2)
    assert z == pytest.approx(gap / np.std(drawn[0] - drawn[1]), rel=0.1)
    assert math.isnan(auroc_p_value(one, one))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 0, 1]])
def test_auroc_without_variance_has_no_interval(labels):
    found = auroc_estimate(table(labels, range(len(labels))))
    assert math.isnan(found.low)
    assert found.method.startswith("none")


def test_patients_are_drawn_within_class_by_seed():
    t = clustered()
    weights = draw_patients(t, 500, seed=3)
    assert (weights[:, ::2].sum(axis=1) == 40).all()
    assert (weights[:, 1::2].sum(axis=1) == 40).all()
    assert (weights == draw_patients(t, 500, seed=3)).all()
    assert (weights != draw_patients(t, 500, seed=4)).any()
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.25)


def test_patients_of_both_classes_are_drawn_with_all_others():
    t = table([0, 1, 0, 1, 1], [-1, -0.5, 0, 0.5, 1], ["a", "a", "b", "c", "d"])
    weights = draw_patients(t, 2000)
    assert (weights.sum(axis=1) == 4).all()
    assert (weights[:, [0, 1]].sum(axis=1) > 0).all()  # NORMAL images in every replicate
    assert (weights[:, [0, 2, 3]].sum(axis=1) > 0).all()


def test_bootstrap_intervals_contain_their_values():
    found = estimates(clustered())
    assert {e.method for e in found.values()} == {"patient bootstrap"}
    for name, e in found.items():
        assert e.low <= e.value <= e.high, name
        assert e.high - e.low > 1e-4, name
    assert found["sensitivity"] == found["recall"]
    assert found["ppv"] == found["precision"]


def test_recall_of_1_is_counted_in_patients():
    # the Keras notebook: 390 of 390 and 229 of 234 predicted as PNEUMONIA, 3 images per patient
    scores = np.repeat([2.0, -2.0], [619, 5]) + np.random.default_rng(0).normal(0, 0.1, 624)
    found = estimates(table(np.repeat([1, 0], [390, 234]), scores, np.arange(624) // 3))
    recall = found["recall"]
    assert (recall.value, recall.high) == (1, 1)
    assert recall.low == pytest.approx(0.025 ** (1 / 130))
    assert recall.method == "Clopper-Pearson on 130 patients"
    assert found["npv"].method == "Clopper-Pearson on 2 patients"
    assert found["specificity"].method == "patient bootstrap"


def test_perfect_model_is_not_certain():
    labels = np.repeat([0, 1], [60, 90])
    found = estimates(table(labels, 2 * labels - 1, np.arange(150) // 3))
    for name in ("recall", "specificity", "precision", "npv", "accuracy"):
        assert found[name].value == found[name].high == pytest.approx(1), name
        assert found[name].low < 0.95, name
    assert found["accuracy"].low == pytest.approx(0.025 ** (1 / 50))
    for name in ("auroc", "average_precision", "f1", "calibration_slope"):
        assert math.isnan(found[name].low), name
        assert found[name].method.startswith("none"), name


@pytest.mark.filterwarnings("error")
def test_constant_scores():
    found = estimates(table(np.arange(100) % 2, np.full(100, 0.8), np.arange(100)))
    assert (found["auroc"].value, found["mcc"].value) == (0.5, 0)
    npv = found["npv"]
    assert (npv.value, npv.low, npv.high) == (0, 0, 1)
    assert math.isnan(found["brier"].low)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("p", [[0, 1], [0.7, 0.7], [0, 0.2, 0.4, 0.7, 1]])
def test_values_are_finite_and_inside_their_intervals(p):
    labels = np.arange(len(p)) >= len(p) // 2
    for name, e in estimates(PredictionTable(label=labels, probability=np.array(p))).items():
        assert not math.isinf(e.value), name
        assert math.isnan(e.low) or e.low <= e.value <= e.high, name


def test_one_patient_in_a_class_gives_no_interval():
    labels = np.repeat([0, 1], [40, 5])
    scores = np.r_[np.linspace(-3, 2, 40), [-1, -0.5, 0.5, 1, 2]]
    found = estimates(table(labels, scores, np.minimum(np.arange(45), 40)))
    assert found["auroc"].method == found["recall"].method == "none: one patient in a class"
    assert found["specificity"].method == "patient bootstrap"


@pytest.mark.slow
def test_coverage(monkeypatch):
    """Nominal 95% intervals hold the truth in 92% to 98% of 500 simulated tests.

    150 patients per class with 1 to 10 images; score = class mean + patient effect + noise, half
    of the variance each. The truth is AUROC 0.9 = Phi(d / sqrt 2) and recall 0.9.
    """
    monkeypatch.setattr(  # it takes most of the time and is not asked for here
        metrics, "fit_recalibration", lambda y, x, w: (np.full(len(w), np.nan),) * 2
    )
    truth, tests = 0.9, 500
    distance = np.sqrt(2) * norm.ppf(truth)
    held = Counter()
    for seed in range(tests):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(300), rng.integers(1, 11, 300))
        labels = patients % 2
        effect = rng.normal(size=300)[patients] + rng.normal(size=patients.size)
        scores = distance * labels + effect / np.sqrt(2) - distance + norm.ppf(truth)
        t = table(labels, scores, patients)
        found = estimate_metrics(t, {"": 0.5}, draw_patients(t, 600, seed))
        intervals = {name: found[name] for name in ("auroc", "recall")}
        intervals["obuchowski"] = auroc_estimate(t)
        intervals["images"] = auroc_estimate(table(labels, scores))
        held.update(name for name, e in intervals.items() if e.low <= truth <= e.high)
    coverage = {name: count / tests for name, count in held.items()}
    for name in ("auroc", "recall", "obuchowski"):
        assert 0.92 <= coverage[name] <= 0.98, coverage
    assert coverage["images"] < 0.88, coverage  # the cost of assuming independent images
