"""The figures of an epoch, against scikit-learn as an independent witness."""

import numpy as np
import pytest
import sklearn.metrics as sk
import torch

from pneumonia.model.metrics import all_metrics, threshold_metrics


def expected(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    called = probabilities > 0.5
    return {
        "accuracy": sk.accuracy_score(labels, called),
        "precision": sk.precision_score(labels, called, zero_division=0),
        "recall": sk.recall_score(labels, called, zero_division=0),
        "specificity": sk.recall_score(labels, called, pos_label=0, zero_division=0),
        "f1": sk.f1_score(labels, called, zero_division=0),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, called),
        "auroc": sk.roc_auc_score(labels, probabilities),
        "average_precision": sk.average_precision_score(labels, probabilities),
    }


def over_batches(metrics, labels, probabilities, batch=8) -> dict[str, float]:
    for start in range(0, len(labels), batch):
        metrics.update(
            torch.from_numpy(probabilities[start : start + batch]),
            torch.from_numpy(labels[start : start + batch]),
        )
    return {name: float(value) for name, value in metrics.compute().items()}


def drawn(seed: int, share: float, ordered: bool, coarse: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.random(61) < share).astype(np.int64)
    if ordered:  # as a split lies on disk: whole batches of one class
        labels = np.sort(labels)
    logits = random.normal(2 * labels - 1, 1.5)
    if coarse:  # many ties
        logits = np.round(logits)
    return labels, (1 / (1 + np.exp(-logits))).astype(np.float32)


@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("ordered", [False, True], ids=["mixed", "one-class batches"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.74])
def test_they_agree_with_scikit_learn_over_batches(share, ordered, coarse):
    labels, probabilities = drawn(3, share, ordered, coarse)
    wanted = expected(labels, probabilities)
    assert over_batches(all_metrics(), labels, probabilities) == pytest.approx(wanted, abs=1e-6)
    cheap = over_batches(threshold_metrics(), labels, probabilities)
    assert set(wanted) - set(cheap) == {"auroc", "average_precision"}
    assert cheap == pytest.approx({name: wanted[name] for name in cheap}, abs=1e-6)


@pytest.mark.parametrize("always", [0.01, 0.99], ids=["all normal", "all pneumonia"])
def test_a_classifier_that_gives_all_one_class_is_at_half(always):
    labels = np.array([0] * 5 + [1] * 15)
    found = over_batches(all_metrics(), labels, np.full(20, always, np.float32))
    assert found == pytest.approx(expected(labels, np.full(20, always)), abs=1e-6)
    assert found["balanced_accuracy"] == found["auroc"] == 0.5
    assert {found["recall"], found["specificity"]} == {0.0, 1.0}


def test_they_start_afresh_after_a_reset():
    metrics = all_metrics()
    over_batches(metrics, *drawn(0, 0.5, False, False))
    metrics.reset()
    labels, probabilities = drawn(1, 0.5, False, False)
    found = over_batches(metrics, labels, probabilities)
    assert found == pytest.approx(expected(labels, probabilities), abs=1e-6)
