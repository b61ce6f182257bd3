"""Metrics agree with scikit-learn under every weighting; light modules import no scipy."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from pneumonia.evaluation.metrics import (
    METRICS,
    compute_metrics,
    metric_values,
)
from pneumonia.evaluation.predictions import PredictionTable, sigmoid


def drawn(seed: int) -> PredictionTable:
    """Many scores are tied."""
    rng = np.random.default_rng(seed)
    patients = np.unique(np.sort(rng.integers(0, 40, 150)), return_inverse=True)[1]
    labels = patients % 2
    logits = np.round(1.5 * labels - 0.5 + rng.normal(size=150), (1, 6)[seed % 2])
    return PredictionTable(label=labels, logit=logits, patient=patients)


def by_scikit_learn(y, p, threshold) -> dict[str, float]:
    predicted = p >= threshold
    line = LogisticRegression(C=np.inf, tol=1e-10).fit(np.log(p / (1 - p))[:, None], y)
    frequency, probability = calibration_curve(y, p, n_bins=15)
    images = np.histogram(p, 15, (0, 1))[0]
    return {
        "recall": sk.recall_score(y, predicted),
        "specificity": sk.recall_score(y, predicted, pos_label=0),
        "precision": sk.precision_score(y, predicted),
        "npv": sk.precision_score(y, predicted, pos_label=0),
        "accuracy": sk.accuracy_score(y, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(y, predicted),
        "f1": sk.f1_score(y, predicted),
        "mcc": sk.matthews_corrcoef(y, predicted),
        "auroc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p),
        "brier": sk.brier_score_loss(y, p),
        "log_loss": sk.log_loss(y, p),
        "ece": np.average(np.abs(frequency - probability), weights=images[images > 0]),
        "calibration_slope": line.coef_[0, 0],
        "calibration_intercept": line.intercept_[0],
    }


@pytest.mark.parametrize("seed", range(2))
def test_weighted_metrics_equal_scikit_learn_on_repeated_images(seed):
    table = drawn(seed)
    weights = np.random.default_rng(seed).integers(0, 4, (3, table.n_patients))
    weights[0] = 1
    found = compute_metrics(table, {"": 0.4, "at_0.5/": 0.5}, weights)
    for row in range(3):
        images = np.repeat(np.arange(150), weights[row][table.patient_ids])
        y, p = table.label[images], table.probability[images]
        expected = by_scikit_learn(y, p, 0.4)
        assert set(expected) == {metric.name for metric in METRICS}
        assert {name: found[name][row] for name in expected} == pytest.approx(expected, rel=1e-3)
        halves = by_scikit_learn(y, p, 0.5)
        for name in ("recall", "mcc", "npv"):
            assert found[f"at_0.5/{name}"][row] == pytest.approx(halves[name])
    values = metric_values(table, {"": 0.4, "at_0.5/": 0.5})
    assert values == pytest.approx({name: row[0] for name, row in found.items()})


def test_ends_of_the_range_of_probabilities():
    p, label = np.array([0.5, np.nextafter(0.5, 0)]), np.array([1, 0])
    found = metric_values(PredictionTable(label=label, probability=p), {"": 0.5})
    assert found["accuracy"] == 1  # PNEUMONIA from the threshold itself
    found = metric_values(PredictionTable(label=label, probability=np.array([1.0, 1.0])), {})
    assert found["log_loss"] == pytest.approx(sk.log_loss(label, [1.0, 1.0]))


def test_saturated_logits_still_rank():
    logits = np.float32([-60, 40, 60, 60.5])
    assert len(set(sigmoid(logits[1:]))) == 1
    found = metric_values(PredictionTable(label=np.array([0, 0, 1, 1]), logit=logits), {})
    assert found["auroc"] == found["average_precision"] == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.3, 1.0])
def test_constant_scores_give_no_warning(value):
    table = PredictionTable(label=np.array([0, 1, 1]), probability=np.full(3, value))
    found = metric_values(table, {"": 0.5})
    assert found["auroc"] == 0.5
    assert found["average_precision"] == pytest.approx(2 / 3)
    assert found["mcc"] == 0
    assert np.isnan(found["calibration_slope"])
    assert np.isnan(found["npv" if value == 1 else "precision"])


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("pneumonia.evaluation.threshold, pneumonia.evaluation.abstention", {"scipy", "sklearn"}),
        (
            "pneumonia.cli",
            {"torch", "timm", "numpy", "PIL", "matplotlib", "rich", "scipy", "sklearn", "pydantic"},
        ),
        (
            "pneumonia.commands.evaluate, pneumonia.evaluation.report.write",
            {"torch", "lightning", "hydra", "timm", "matplotlib.pyplot"},
        ),
    ],
)
def test_what_modules_do_not_import(modules, absent):
    code = f"import sys, {modules}; print(*({absent} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
