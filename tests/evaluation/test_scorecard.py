"""Every metric of every weighting equals scikit-learn's on the images repeated that often."""

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from pneumonia.evaluation import calibration
from pneumonia.evaluation.confidence import MetricSet
from pneumonia.evaluation.evaluate import decision_curve
from pneumonia.evaluation.predictions import Sample


def drawn(seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    patients = np.sort(rng.integers(0, 40, 150))
    patients = np.unique(patients, return_inverse=True)[1]
    labels = patients % 2
    logits = np.round(1.5 * labels - 0.5 + rng.normal(size=150), (1, 6)[seed % 2])
    return Sample.of(labels, calibration.sigmoid(logits), patients, logits)


def by_scikit_learn(y, p, threshold) -> dict[str, float]:
    called = p >= threshold
    sensitivity, specificity = sk.recall_score(y, called), sk.recall_score(y, called, pos_label=0)
    logits = np.log(p / (1 - p))[:, None]
    line = LogisticRegression(C=np.inf, tol=1e-10).fit(logits, y)
    expected = {
        "sensitivity": sensitivity,
        "recall": sensitivity,
        "specificity": specificity,
        "ppv": sk.precision_score(y, called),
        "precision": sk.precision_score(y, called),
        "npv": sk.precision_score(y, called, pos_label=0),
        "accuracy": sk.accuracy_score(y, called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "f1": sk.f1_score(y, called),
        "mcc": sk.matthews_corrcoef(y, called),
        "auroc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p),
        "brier": sk.brier_score_loss(y, p),
        "log_loss": sk.log_loss(y, p),
        "ece": calibration.ece(y, p),
        "calibration_slope": line.coef_[0, 0],
        "calibration_intercept": line.intercept_[0],
    }
    for percent in (5, 20, 50):
        share = percent / 100  # weigh the classes so that the prevalence is that
        w = np.where(y == 1, share / np.mean(y == 1), (1 - share) / np.mean(y == 0))
        for name, label in (("ppv", 1), ("npv", 0)):
            expected[f"{name}_at_{percent}_percent"] = sk.precision_score(
                y, called, pos_label=label, sample_weight=w
            )
    return expected


@pytest.mark.parametrize("seed", range(4))
def test_weighted_metrics_equal_those_of_scikit_learn(seed):
    sample = drawn(seed)
    weights = np.random.default_rng(seed).integers(0, 4, (3, sample.n_patients))
    weights[0] = 1
    card = MetricSet(sample, {"": 0.4, "at_0.5/": 0.5})
    found = card.replicates(weights)
    for row in range(3):
        images = np.repeat(np.arange(150), weights[row][sample.patients])
        y, p = sample.labels[images].astype(int), sample.probabilities[images]
        expected = by_scikit_learn(y, p, 0.4)
        assert {name: found[name][row] for name in expected} == pytest.approx(expected, rel=1e-3)
        halves = by_scikit_learn(y, p, 0.5)
        for name in ("sensitivity", "mcc", "npv_at_20_percent"):
            assert found[f"at_0.5/{name}"][row] == pytest.approx(halves[name])
    assert card.values() == pytest.approx({name: values[0] for name, values in found.items()})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_scores_are_answered_without_a_warning(value):
    found = MetricSet(Sample.of([0, 1, 1], [value] * 3), {"": 0.5}).values()
    assert found["auroc"] == 0.5
    assert found["average_precision"] == pytest.approx(2 / 3)
    assert found["mcc"] == 0
    assert np.isnan(found["calibration_slope"])
    assert np.isnan(found["npv" if value == 1 else "ppv"])


def test_net_benefit_by_hand():
    sample = Sample.of([1, 1, 0, 0, 0], [0.9, 0.3, 0.5, 0.2, 0.1], scores=None)
    weights = np.ones((200, 5), np.int32)
    curve = decision_curve(sample, weights, np.array([0.05, 0.25, 0.4, 0.95]))
    every = 2 / 5 - 3 / 5 * 0.05 / 0.95
    expected = [every, 2 / 5 - 1 / 5 / 3, 1 / 5 - 1 / 5 * 0.4 / 0.6, 0]
    assert curve.net_benefit == pytest.approx(expected)
    assert curve.treat_all[0] == pytest.approx(every)
    assert curve.low == pytest.approx(expected)
    assert len(decision_curve(sample, weights).threshold) == 99
