"""Live metrics, against scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics as sk
import torch

from pneumonia.model.metrics import all_metrics, shifted_metrics, threshold_metrics


def expected(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    predicted = probabilities > 0.5
    return {
        "accuracy": sk.accuracy_score(labels, predicted),
        "precision": sk.precision_score(labels, predicted, zero_division=0),
        "recall": sk.recall_score(labels, predicted),
        "specificity": sk.recall_score(labels, predicted, pos_label=0),
        "f1": sk.f1_score(labels, predicted, zero_division=0),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "auroc": sk.roc_auc_score(labels, probabilities),
        "average_precision": sk.average_precision_score(labels, probabilities),
        "specificity_at_95_recall": specificity_at_95_recall(labels, probabilities),
    }


def specificity_at_95_recall(labels: np.ndarray, probabilities: np.ndarray) -> float:
    false_positive_rate, recall, _ = sk.roc_curve(labels, probabilities)
    return 1 - false_positive_rate[recall >= 0.95].min()


def over_batches(metrics, labels, probabilities, batch=8) -> dict[str, float]:
    for start in range(0, len(labels), batch):
        rows = slice(start, start + batch)
        metrics.update(torch.from_numpy(probabilities[rows]), torch.from_numpy(labels[rows]))
    return {name: float(value) for name, value in metrics.compute().items()}


def test_batches_of_one_class_add_up_to_the_metrics_of_scikit_learn():
    random = np.random.default_rng(3)
    labels = np.sort((random.random(61) < 0.7).astype(np.int64))  # as a split lies on disk
    logits = np.round(random.normal(2 * labels - 1, 1.5))  # with ties
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    wanted = expected(labels, probabilities)
    metrics = all_metrics()
    over_batches(metrics, labels, 1 - probabilities)
    metrics.reset()
    assert over_batches(metrics, labels, probabilities) == pytest.approx(wanted, abs=1e-6)
    cheap = over_batches(threshold_metrics(), labels, probabilities)
    assert set(wanted) - set(cheap) == {
        "auroc",
        "average_precision",
        "specificity_at_95_recall",
    }
    shifted = over_batches(shifted_metrics(), labels, probabilities)
    assert shifted == pytest.approx({name: wanted[name] for name in shifted}, abs=1e-6)


@pytest.mark.parametrize("constant", [0.01, 0.99], ids=["all normal", "all pneumonia"])
def test_a_constant_classifier_has_a_balanced_accuracy_of_half(constant):
    labels = np.array([0] * 5 + [1] * 15)
    probabilities = np.full(20, constant, np.float32)
    found = over_batches(all_metrics(), labels, probabilities)
    assert found == pytest.approx(expected(labels, probabilities), abs=1e-6)
    assert found["balanced_accuracy"] == found["auroc"] == 0.5
