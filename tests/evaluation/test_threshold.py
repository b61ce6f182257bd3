"""The threshold is the one its policy names, and a hold-out that cannot support it says so."""

import json
import logging

import numpy as np
import pytest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import threshold as operating_point
from pneumonia.evaluation.threshold import OperatingPoint, choose_threshold


def drawn(seed: int, n: int = 400, steps: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    p = 1 / (1 + np.exp(-rng.normal(2 * labels - 1, 1.2)))
    return labels, np.round(p * steps) / steps


def rates_at(labels: np.ndarray, p: np.ndarray, threshold: float) -> tuple[float, float]:
    return np.mean(p[labels == 1] >= threshold), np.mean(p[labels == 0] < threshold)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("steps", [10_000, 20])
@pytest.mark.parametrize("target", [0.8, 0.9, 0.95, 0.99])
def test_sensitivity_takes_the_largest_threshold_that_reaches_it(seed, steps, target):
    labels, p = drawn(seed, steps=steps)
    point = choose_threshold(labels, p, policy="sensitivity", target=target)
    assert (point.sensitivity, point.specificity) == rates_at(labels, p, point.threshold)
    assert point.sensitivity >= target
    for larger in (np.nextafter(point.threshold, 2), *p[p > point.threshold]):
        assert rates_at(labels, p, larger)[0] < target


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("steps", [10_000, 20])
def test_specificity_takes_the_smallest_threshold_that_reaches_it(seed, steps):
    labels, p = drawn(seed, steps=steps)
    point = choose_threshold(labels, p, policy="specificity", target=0.9)
    assert point.specificity >= 0.9
    assert all(rates_at(labels, p, smaller)[1] < 0.9 for smaller in p[p < point.threshold])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("policy", "ratio"), [("youden", 1), ("cost", 0.2), ("cost", 10)])
def test_youden_and_cost_are_the_best_of_all_thresholds(seed, policy, ratio):
    labels, p = drawn(seed)  # balanced, so that youden is a cost of ratio 1
    point = choose_threshold(labels, p, policy=policy, target=None if policy == "youden" else ratio)

    def cost(threshold: float) -> float:
        sensitivity, specificity = rates_at(labels, p, threshold)
        return ratio * (1 - sensitivity) + 1 - specificity

    best = min(cost(threshold) for threshold in np.unique(p))
    assert cost(point.threshold) == pytest.approx(best)
    assert all(cost(smaller) > best + 1e-9 for smaller in p[p < point.threshold])


def test_a_share_that_rounding_would_miss_is_reached():
    labels = np.r_[np.ones(100, int), np.zeros(100, int)]
    p = np.r_[np.linspace(0.5, 0.9, 100), np.linspace(0.1, 0.4, 100)]
    assert choose_threshold(labels, p).sensitivity == 0.95


def test_fixed_is_taken_as_it_is():
    labels, p = drawn(0)
    point = choose_threshold(labels, p, np.arange(400) // 4 * 2 + labels, "fixed", 0.3)
    assert point.threshold == 0.3
    assert (point.sensitivity, point.specificity) == rates_at(labels, p, 0.3)
    assert (point.n_positive, point.n_negative) == (200, 200)
    assert (point.n_patients_positive, point.n_patients_negative) == (100, 100)


@pytest.mark.parametrize("policy", ["sensitivity", "youden"])
def test_a_point_survives_the_checkpoint(policy):
    point = choose_threshold(*drawn(0), policy=policy)
    values = point.to_dict()
    assert {type(value) for value in values.values()} <= {float, int, str, type(None)}
    assert OperatingPoint.from_dict(json.loads(json.dumps(values))) == point


@pytest.mark.parametrize(
    "change",
    [{"threshold": 2}, {"threshold": None}, {"policy": "luck"}, {"more": 1}, {"sensitivity": "x"}],
)
def test_what_is_no_point_is_refused(change):
    values = choose_threshold(*drawn(0)).to_dict()
    with pytest.raises(EvaluationError, match="operating point"):
        OperatingPoint.from_dict(values | change)


@pytest.mark.parametrize(
    ("policy", "target", "sentence"),
    [
        ("recall", None, "'recall', expected one of sensitivity, specificity, youden, cost, fixed"),
        ("sensitivity", 1, "between 0 and 1, both excluded"),
        ("sensitivity", 95, "between 0 and 1, both excluded"),
        ("specificity", 0, "between 0 and 1, both excluded"),
        ("youden", 0.9, "expected none"),
        ("cost", None, "how many false alarms"),
        ("cost", 0, "above 0"),
        ("fixed", None, "the threshold, from 0 to 1"),
        ("fixed", np.nan, "the threshold, from 0 to 1"),
    ],
)
def test_a_target_must_suit_its_policy(policy, target, sentence):
    with pytest.raises(EvaluationError, match=sentence):
        choose_threshold(*drawn(0), policy=policy, target=target)


def test_a_target_without_room_for_one_error_is_refused():
    labels, p = np.arange(38) % 2, np.linspace(0.1, 0.9, 38)
    with pytest.raises(EvaluationError, match=r"0\.95.*19 PNEUMONIA images.*0\.947.*at least 20"):
        choose_threshold(labels, p)
    with pytest.raises(EvaluationError, match="19 NORMAL images"):
        choose_threshold(labels, p, policy="specificity")
    assert choose_threshold(np.arange(40) % 2, np.linspace(0.1, 0.9, 40)).n_positive == 20
    assert choose_threshold(labels, p, policy="youden").n_positive == 19


def test_ten_images_are_refused():
    with pytest.raises(EvaluationError, match="5 PNEUMONIA images"):
        choose_threshold(np.arange(10) % 2, np.linspace(0, 1, 10))


def test_patients_that_cannot_confirm_the_target_are_warned_of(caplog):
    labels, p = drawn(0)
    patients = np.arange(400) // 8 * 2 + labels  # 50 patients a class, of 4 images
    with caplog.at_level(logging.WARNING):
        choose_threshold(labels, p, patients)
    assert "50 PNEUMONIA patients cannot confirm a sensitivity of 0.95" in caplog.text
    assert "0.942 (one-sided 95%); 59 patients would be needed" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        choose_threshold(labels, p, np.arange(400) // 4 * 2 + labels)
    assert not caplog.text


def test_few_patients_of_the_other_class_are_warned_of():
    warnings = operating_point.check_support("sensitivity", 0.95, (40, 400), (12, 200))
    assert len(warnings) == 1
    assert "12 NORMAL patients, fewer than 30" in warnings[0]


def test_a_constant_model_is_warned_of_or_refused(caplog):
    labels = np.arange(200) % 2
    with caplog.at_level(logging.WARNING):
        point = choose_threshold(labels, np.full(200, 0.7))
    assert (point.threshold, point.sensitivity, point.specificity) == (0.7, 1, 0)
    assert "no better than chance" in caplog.text
    with pytest.raises(EvaluationError, match="100 of 100 NORMAL images have its highest"):
        choose_threshold(labels, np.full(200, 0.7), policy="specificity")


@pytest.mark.parametrize(
    ("labels", "p", "patients", "sentence"),
    [
        ([1, 1], [0.1, 0.2], None, "all are PNEUMONIA"),
        ([0, 1], [0.1, 1.2], None, "outside 0 to 1"),
        ([0, 1], [0.1, np.nan], None, "not finite"),
        ([0, 1], [0.1, 0.2], ["a"], r"2 labels but patients of shape \(1,\)"),
    ],
)
def test_bad_arrays_are_refused(labels, p, patients, sentence):
    with pytest.raises(EvaluationError, match=sentence):
        choose_threshold(labels, p, patients)
