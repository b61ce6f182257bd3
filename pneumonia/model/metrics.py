"""The figures that training logs, at probability 0.5 and threshold-free."""

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryF1Score,
    BinaryPrecision,
    BinaryRecall,
    BinarySpecificity,
    BinaryStatScores,
)


class BinaryBalancedAccuracy(BinaryStatScores):
    """Mean of sensitivity and specificity, 0 to 1; an empty class counts as 0."""

    def compute(self) -> Tensor:
        """The value over all updates, a float32 scalar."""
        tp, fp, tn, fn = self._final_state()
        return (_ratio(tp, tp + fn) + _ratio(tn, tn + fp)) / 2


def threshold_metrics() -> MetricCollection:
    """Metrics from four counts: cheap enough for every training batch.

    Their inputs are probabilities (float [N], 0 to 1) and labels (int [N], 0 or 1). They
    skip torchmetrics' value checks, each of which would wait for the device.
    """
    return MetricCollection(
        {
            "accuracy": BinaryAccuracy(validate_args=False),
            "precision": BinaryPrecision(validate_args=False),
            "recall": BinaryRecall(validate_args=False),
            "specificity": BinarySpecificity(validate_args=False),
            "f1": BinaryF1Score(validate_args=False),
            "balanced_accuracy": BinaryBalancedAccuracy(validate_args=False),
        }
    )


def all_metrics() -> MetricCollection:
    """The same with AUROC and average precision, which keep every score until the end."""
    ranking: dict[str, Metric | MetricCollection] = {
        "auroc": BinaryAUROC(validate_args=False),
        "average_precision": BinaryAveragePrecision(validate_args=False),
    }
    collection = threshold_metrics()
    collection.add_metrics(ranking)
    return collection


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1), 0.0)
