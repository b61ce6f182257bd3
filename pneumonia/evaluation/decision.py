"""Whether acting on the model does more good than treating everyone or no one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pneumonia.evaluation.intervals import LEVEL
from pneumonia.evaluation.sample import Sample

GRID = np.arange(1, 100) / 100
"""Threshold probabilities of a decision curve."""


class DecisionCurve(NamedTuple):
    """Net benefit over the threshold probability at which one would treat; treating no one is 0.

    Attributes:
        threshold: Shape (k,), rising, in (0, 1).
        net_benefit: Of calling PNEUMONIA from the threshold up: true positives per image.
        low: Lower end of its 95% interval by the bootstrap, pointwise.
        high: Upper end.
        treat_all: Net benefit of calling everyone PNEUMONIA.
    """

    threshold: NDArray[np.float64]
    net_benefit: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    treat_all: NDArray[np.float64]


def decision_curve(
    sample: Sample, weights: NDArray[np.int32], thresholds: NDArray[np.float64] = GRID
) -> DecisionCurve:
    """Compute net benefit: TP / n - FP / n * t / (1 - t) at each threshold probability t.

    Vickers and Elkin, Medical Decision Making 26 (2006), 565. It holds at the share of PNEUMONIA
    in the sample, and for calibrated probabilities only.

    Args:
        sample: The images.
        weights: What `pneumonia.evaluation.bootstrap.draw_patients` gave for this sample.
        thresholds: Shape (k,), in (0, 1).
    """
    odds = thresholds / (1 - thresholds)
    called = sample.probabilities[:, None] >= thresholds
    truth = sample.labels[:, None]
    benefit = sample.patient_sums(np.where(truth, 1.0, -odds) * called)
    images = np.bincount(sample.patients)
    resampled = (weights.astype(np.float64) @ benefit) / (weights @ images)[:, None]
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    prevalence = float(np.mean(sample.labels))
    return DecisionCurve(
        thresholds,
        benefit.sum(axis=0) / len(sample),
        low,
        high,
        prevalence - (1 - prevalence) * odds,
    )
