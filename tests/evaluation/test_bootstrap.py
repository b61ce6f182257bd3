"""Patients are drawn within class, and where resampling is blind something else sees."""

import math

import numpy as np
import pytest
from scipy.stats import beta

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.confidence import MetricSet, draw_patients, estimate_metrics
from pneumonia.evaluation.predictions import Sample


def cohort(seed: int = 0, patients: int = 80, most: int = 5, effect: float = 2.0) -> Sample:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), rng.integers(1, most + 1, patients))
    labels = groups % 2
    x = effect * (labels - 0.5) + rng.normal(size=patients)[groups] + rng.normal(size=groups.size)
    return Sample.of(labels, 1 / (1 + np.exp(-x)), groups, x)


def test_patients_are_drawn_within_class_and_by_seed():
    sample = cohort()
    weights = draw_patients(sample, 500, seed=3)
    assert (weights[:, ::2].sum(axis=1) == 40).all()
    assert (weights[:, 1::2].sum(axis=1) == 40).all()
    assert (weights == draw_patients(sample, 500, seed=3)).all()
    assert (weights != draw_patients(sample, 500, seed=4)).any()
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.25)
    assert weights.var(axis=0).mean() == pytest.approx(1 - 1 / 40, abs=0.05)


def test_patients_of_both_classes_are_drawn_with_all_others():
    sample = Sample.of([0, 1, 0, 1, 1], [0.1, 0.4, 0.5, 0.6, 0.7], ["a", "a", "b", "c", "d"])
    weights = draw_patients(sample, 2000)
    assert sample.mixed_patients.tolist() == [0]
    assert (weights.sum(axis=1) == 4).all()
    assert (weights[:, [0, 1]].sum(axis=1) > 0).all()  # NORMAL images in every replicate
    assert (weights[:, [0, 2, 3]].sum(axis=1) > 0).all()
    assert weights[:, 0].max() > 1


def test_few_replicates_are_refused():
    with pytest.raises(EvaluationError, match=r"Found 100 bootstrap replicates.*at least 200"):
        draw_patients(cohort(), 100)


def test_intervals_hold_their_values_and_know_their_method():
    sample = cohort()
    found = estimate_metrics(sample, {"": 0.5}, draw_patients(sample))
    assert {e.method for e in found.values()} == {"patient bootstrap"}
    for name, e in found.items():
        assert e.low <= e.value <= e.high, name
        assert e.high - e.low > 1e-4, name


def test_patients_widen_intervals():
    sample = cohort(patients=120, most=9)
    alone = Sample.of(sample.labels, sample.probabilities, scores=sample.scores)
    clustered = estimate_metrics(sample, {"": 0.5}, draw_patients(sample))
    plain = estimate_metrics(alone, {"": 0.5}, draw_patients(alone))
    for name in ("sensitivity", "specificity", "auroc", "brier"):
        e, narrow = clustered[name], plain[name]
        assert e.high - e.low > 1.3 * (narrow.high - narrow.low), name
        assert narrow.method == "image bootstrap, assumes independent images"


def test_the_bootstrap_of_single_images_agrees_with_the_exact_interval():
    rng = np.random.default_rng(0)
    labels = np.arange(800) % 2
    p = np.where(rng.random(800) < 0.85, 0.2 + 0.6 * labels, 0.8 - 0.6 * labels)
    sample = Sample.of(labels, p)
    e = estimate_metrics(sample, {"": 0.5}, draw_patients(sample, 4000))["sensitivity"]
    k = round(e.value * 400)
    assert e.low == pytest.approx(beta.ppf(0.025, k, 401 - k), abs=0.01)
    assert e.high == pytest.approx(beta.ppf(0.975, k + 1, 400 - k), abs=0.01)


def notebook() -> Sample:
    """390 of 390 PNEUMONIA and 229 of 234 NORMAL called PNEUMONIA, 3 images a patient."""
    labels = np.r_[np.ones(390, int), np.zeros(234, int)]
    p = np.r_[np.full(619, 0.9), np.full(5, 0.1)]
    p += np.random.default_rng(0).normal(0, 0.02, 624)
    return Sample.of(labels, p, np.arange(624) // 3)


def test_a_recall_of_one_is_counted_in_patients():
    sample = notebook()
    found = estimate_metrics(sample, {"": 0.5}, draw_patients(sample))
    sensitivity = found["sensitivity"]
    assert sensitivity.low == pytest.approx(0.025 ** (1 / 130))
    assert (sensitivity.value, sensitivity.high) == (1, 1)
    assert sensitivity.method == "Clopper-Pearson on 130 patients"
    assert found["npv"].value == 1
    assert found["npv"].method == "Clopper-Pearson on 2 patients"
    assert found["specificity"].method == "patient bootstrap"
    for name in ("balanced_accuracy", "f1", "mcc", "accuracy", "npv_at_5_percent"):
        e = found[name]
        assert "97.5% intervals" in e.method, name
        assert e.low < e.value < e.high or e.value == e.high == 1, name
    # the 5 NORMAL images called so are of 2 of 78 patients: many a replicate has none of them
    low = (0.0125 ** (1 / 130) + 0) / 2
    assert found["balanced_accuracy"].low == pytest.approx(low)


def test_a_perfect_model_is_not_certain():
    labels = np.repeat([0, 1], [60, 90])
    sample = Sample.of(labels, 0.2 + 0.6 * labels, np.arange(150) // 3)
    found = estimate_metrics(sample, {"": 0.5}, draw_patients(sample))
    for name in ("sensitivity", "specificity", "ppv", "npv", "accuracy", "auroc", "f1", "mcc"):
        assert found[name].value == found[name].high == pytest.approx(1), name
        assert found[name].low < 0.95, name
    assert found["accuracy"].low == pytest.approx(0.025 ** (1 / 50))
    assert found["auroc"].low == pytest.approx(0.025 ** (1 / 20))
    assert found["auroc"].method == "Clopper-Pearson on 20 pairs of patients"
    assert 0.5 < found["average_precision"].low < 0.9
    assert math.isnan(found["calibration_slope"].value)
    assert found["calibration_slope"].method.startswith("none: undefined, for a threshold")


def test_the_bound_on_perfect_precision_holds():
    # the worst truth the two intervals allow: false alarms outrank all hits, s of which are left
    n, s, f = 200_000, 0.9, 0.1
    positive = np.r_[np.full(int(n * s), 1.0), np.zeros(int(n * (1 - s)))]
    ties = np.r_[np.full(int(n * f), 2.0), np.full(int(n * (1 - f)), -1.0)]
    sample = Sample.of(
        np.repeat([1, 0], [positive.size, ties.size]),
        np.full(positive.size + ties.size, 0.5),
        scores=np.r_[positive + np.linspace(0, 0.5, positive.size), ties],
    )
    assert MetricSet(sample, {}).values()["average_precision"] >= s - f * math.log1p(s / f)


@pytest.mark.filterwarnings("error")
def test_constant_scores():
    labels = np.arange(100) % 2
    sample = Sample.of(labels, np.full(100, 0.7), np.arange(100))
    found = estimate_metrics(sample, {"": 0.5}, draw_patients(sample))
    assert found["auroc"].value == 0.5
    assert 0.46 < found["auroc"].low < 0.5 < found["auroc"].high < 0.54
    assert (found["sensitivity"].value, found["specificity"].value) == (1, 0)
    npv = found["npv"]
    assert (npv.value, npv.low, npv.high) == (0, 0, 1)
    assert npv.method == "Clopper-Pearson on 0 patients"
    assert found["mcc"].low < found["mcc"].value < found["mcc"].high
    assert math.isnan(found["brier"].low)
    assert found["brier"].method == "none: every bootstrap replicate gives the same value"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.2, 0.7])
def test_no_number_is_outside_its_interval_or_infinite(value):
    for labels in ([0, 1], [0, 0, 0, 1, 1], np.arange(10) % 2):
        for p in (np.full(len(labels), value), np.linspace(0, 1, len(labels))):
            sample = Sample.of(labels, p)
            for name, e in estimate_metrics(sample, {"": 0.5}, draw_patients(sample)).items():
                assert not math.isinf(e.value), name
                assert math.isnan(e.low) or e.low <= e.value <= e.high, name


def test_one_patient_in_a_class_gives_no_interval():
    labels = np.r_[np.zeros(40, int), np.ones(5, int)]
    p = np.r_[np.linspace(0, 0.9, 40), [0.3, 0.4, 0.6, 0.7, 0.8]]
    sample = Sample.of(labels, p, np.minimum(np.arange(45), 40))
    found = estimate_metrics(sample, {"": 0.5}, draw_patients(sample))
    assert found["auroc"].method == "none: one patient in a class"
    assert found["sensitivity"].method == "none: one patient in a class"
    assert found["specificity"].method == "patient bootstrap"
