"""Live metrics of an epoch, such as `val/auroc`: add a torchmetrics metric here."""

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryF1Score,
    BinaryPrecision,
    BinaryRecall,
    BinarySpecificity,
    BinarySpecificityAtSensitivity,
    BinaryStatScores,
)


class BinaryBalancedAccuracy(BinaryStatScores):
    """Mean of sensitivity and specificity, 0 to 1; a class without images counts as 0."""

    def compute(self) -> Tensor:
        """The value over all updates, a float32 scalar."""
        tp, fp, tn, fn, _ = super().compute()
        value: Tensor = (tp / (tp + fn).clamp(min=1) + tn / (tn + fp).clamp(min=1)) / 2
        return value


def threshold_metrics() -> MetricCollection:
    """Metrics at probability 0.5, from four counts: cheap enough for every training batch.

    They take probabilities (float [N], 0 to 1) and labels (int [N], 0 or 1), and skip
    torchmetrics' validation, which would wait for the device at every batch.
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
    """The same with AUROC and average precision, which keep every score of the epoch."""
    collection = threshold_metrics()
    collection.add_metrics(
        {
            "auroc": BinaryAUROC(validate_args=False),
            "average_precision": BinaryAveragePrecision(validate_args=False),
            "specificity_at_95_recall": SpecificityAtSensitivity(0.95, validate_args=False),
        }
    )
    return collection


class SpecificityAtSensitivity(BinarySpecificityAtSensitivity):
    """Highest specificity at a minimal sensitivity, 0 to 1; without PNEUMONIA 0."""

    def compute(self) -> Tensor:  # type: ignore[override]
        """The value over all updates, a float32 scalar, without its threshold."""
        specificity: Tensor = super().compute()[0]
        return specificity
