"""The threshold is the one its policy names, and the validation set must support it."""

import json
import logging

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.threshold import OperatingPoint, check_support, choose_threshold


def drawn(steps: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    p = 1 / (1 + np.exp(-rng.normal(2 * labels - 1, 1.2)))
    return labels, np.round(p * steps) / steps


def rates_at(labels: np.ndarray, p: np.ndarray, threshold: float) -> tuple[float, float]:
    return np.mean(p[labels == 1] >= threshold), np.mean(p[labels == 0] < threshold)


@pytest.mark.parametrize("steps", [10_000, 20])
@pytest.mark.parametrize("target", [0.8, 0.99])
def test_sensitivity_takes_the_largest_threshold_that_reaches_it(steps, target):
    labels, p = drawn(steps=steps)
    point = choose_threshold(labels, p, policy="sensitivity", target=target)
    assert (point.sensitivity, point.specificity) == rates_at(labels, p, point.threshold)
    assert point.sensitivity >= target
    for larger in (np.nextafter(point.threshold, 2), *p[p > point.threshold]):
        assert rates_at(labels, p, larger)[0] < target


@pytest.mark.parametrize("steps", [10_000, 20])
def test_specificity_takes_the_smallest_threshold_that_reaches_it(steps):
    labels, p = drawn(steps=steps)
    point = choose_threshold(labels, p, policy="specificity", target=0.9)
    assert point.specificity >= 0.9
    assert all(rates_at(labels, p, smaller)[1] < 0.9 for smaller in p[p < point.threshold])


@pytest.mark.parametrize(("policy", "ratio"), [("youden", 1), ("cost", 0.2), ("cost", 10)])
def test_youden_and_cost_are_the_best_of_all_thresholds(policy, ratio):
    labels, p = drawn()  # balanced, so that youden is a cost of ratio 1
    point = choose_threshold(labels, p, policy=policy, target=None if policy == "youden" else ratio)

    def cost(threshold: float) -> float:
        sensitivity, specificity = rates_at(labels, p, threshold)
        return ratio * (1 - sensitivity) + 1 - specificity

    assert cost(point.threshold) == pytest.approx(min(map(cost, np.unique(p))))
    assert all(cost(smaller) > cost(point.threshold) + 1e-9 for smaller in p[p < point.threshold])


def test_a_target_that_the_clean_images_miss_is_a_warning(caplog):
    labels, p = np.repeat([0, 1], 100), np.r_[np.linspace(0, 0.6, 100), np.linspace(0.4, 1, 100)]
    point = choose_threshold(labels, p, target=0.9, shifted=[p**0.2, p**0.2])
    assert point.sensitivity < 0.9
    assert "clean" in caplog.text


@pytest.mark.parametrize("on_shifted", [True, False])
def test_shifted_probabilities_count_beside_the_clean_ones_or_are_only_described(on_shifted):
    labels, p = drawn()
    shifted = [p**2, np.sqrt(p)]
    point = choose_threshold(labels, p, target=0.9, shifted=shifted, on_shifted=on_shifted)
    clean = choose_threshold(labels, p, target=0.9)
    pooled = choose_threshold(np.tile(labels, 3), np.concatenate([p, *shifted]), target=0.9)
    expected = pooled if on_shifted else clean
    assert point.threshold == expected.threshold != (clean if on_shifted else pooled).threshold
    assert (point.sensitivity, point.specificity) == rates_at(labels, p, point.threshold)
    changed = rates_at(np.tile(labels, 2), np.concatenate(shifted), point.threshold)
    assert (point.shifted_sensitivity, point.shifted_specificity) == changed
    assert point.auroc == pytest.approx(roc_auc_score(labels, p))
    assert point.n_positive == clean.n_positive
    assert clean.shifted_auroc is None
    for each in (point, clean):
        assert OperatingPoint.from_dict(json.loads(json.dumps(each.to_dict()))) == each


def test_rounding_does_not_miss_the_target():
    labels = np.r_[np.ones(100, int), np.zeros(100, int)]
    p = np.r_[np.linspace(0.5, 0.9, 100), np.linspace(0.1, 0.4, 100)]
    assert choose_threshold(labels, p).sensitivity == 0.95


def test_fixed_threshold_and_counts():
    labels, p = drawn()
    point = choose_threshold(labels, p, np.arange(400) // 4 * 2 + labels, "fixed", 0.3)
    assert point.threshold == 0.3
    assert (point.sensitivity, point.specificity) == rates_at(labels, p, 0.3)
    assert (point.n_positive, point.n_negative) == (200, 200)
    assert (point.n_patients_positive, point.n_patients_negative) == (100, 100)


@pytest.mark.parametrize("policy", ["sensitivity", "youden"])
def test_point_survives_the_checkpoint(policy):
    point = choose_threshold(*drawn(), policy=policy)
    values = json.loads(json.dumps(point.to_dict()))
    assert OperatingPoint.from_dict(values) == point
    for change in ({"threshold": 2}, {"threshold": None}, {"more": 1}):
        with pytest.raises((EvaluationError, TypeError)):
            OperatingPoint.from_dict(values | change)


@pytest.mark.parametrize(
    ("policy", "target", "named"),
    [
        ("recall", None, "operating_point"),
        ("sensitivity", 1, "target"),
        ("specificity", 0, "target"),
        ("youden", 0.9, "target"),
        ("cost", None, "target"),
        ("fixed", None, "target"),
        ("fixed", np.nan, "target"),
    ],
)
def test_target_must_suit_its_policy(policy, target, named):
    with pytest.raises(EvaluationError, match=named):
        choose_threshold(*drawn(), policy=policy, target=target)


def test_target_without_room_for_one_error_is_refused():
    labels, p = np.arange(38) % 2, np.linspace(0.1, 0.9, 38)
    with pytest.raises(EvaluationError, match=r"sensitivity.*20 PNEUMONIA.*19"):
        choose_threshold(labels, p)
    with pytest.raises(EvaluationError, match=r"specificity.*20 NORMAL.*19"):
        choose_threshold(labels, p, policy="specificity")
    assert choose_threshold(np.arange(40) % 2, np.linspace(0.1, 0.9, 40)).n_positive == 20
    assert choose_threshold(labels, p, policy="youden").n_positive == 19


def test_support_by_too_few_patients_gives_a_warning(caplog):
    labels, p = drawn()
    patients = np.arange(400) // 8 * 2 + labels  # 50 patients per class, of 4 images
    with caplog.at_level(logging.WARNING):
        choose_threshold(labels, p, patients, quiet=True)
        choose_threshold(labels, p, np.arange(400) // 4 * 2 + labels)
        assert not caplog.records
        choose_threshold(labels, p, patients)
    (record,) = caplog.records
    assert "50 PNEUMONIA patients" in record.message
    assert "59 are needed" in record.message
    (warning,) = check_support("sensitivity", 0.95, (40, 400), (12, 200))
    assert "12 NORMAL patients" in warning


def test_constant_model_gives_a_warning_or_an_error(caplog):
    labels = np.arange(200) % 2
    with caplog.at_level(logging.WARNING):
        point = choose_threshold(labels, np.full(200, 0.7))
    assert (point.threshold, point.sensitivity, point.specificity) == (0.7, 1, 0)
    assert len(caplog.records) == 1
    with pytest.raises(EvaluationError, match="specificity"):
        choose_threshold(labels, np.full(200, 0.7), policy="specificity")
