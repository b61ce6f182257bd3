"""Live metrics: over batches of one class, and of a constant classifier."""

import pytest
import torch

from pneumonia.model.metrics import all_metrics, threshold_metrics


def computed(metrics, labels, probabilities) -> dict[str, float]:
    for probability, label in zip(probabilities, labels, strict=True):
        metrics.update(torch.tensor([probability]), torch.tensor([label]))
    return {name: float(value) for name, value in metrics.compute().items()}


def test_batches_of_one_class_add_up():
    labels, probabilities = [0, 0, 0, 1, 1], [0.1, 0.2, 0.8, 0.3, 0.9]
    expected = {"accuracy": 3 / 5, "precision": 1 / 2, "recall": 1 / 2, "specificity": 2 / 3}
    expected |= {"f1": 1 / 2, "balanced_accuracy": 7 / 12}
    metrics = all_metrics()
    computed(metrics, labels, probabilities[::-1])
    metrics.reset()
    found = computed(metrics, labels, probabilities)
    ranking = {"auroc": 5 / 6, "average_precision": 5 / 6, "specificity_at_95_recall": 2 / 3}
    assert found == pytest.approx(expected | ranking)
    assert computed(threshold_metrics(), labels, probabilities) == pytest.approx(expected)


def test_images_of_one_class_have_values():
    assert computed(all_metrics(), [0, 0], [0.1, 0.2])["specificity_at_95_recall"] == 0


@pytest.mark.parametrize("constant", [0.01, 0.99], ids=["all normal", "all pneumonia"])
def test_a_constant_classifier_has_a_balanced_accuracy_of_half(constant):
    found = computed(all_metrics(), [0, 1, 1, 1], [constant] * 4)
    assert found["balanced_accuracy"] == found["auroc"] == 0.5
    assert found["accuracy"] == (0.75 if constant > 0.5 else 0.25)
