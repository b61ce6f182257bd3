"""Every metric of a sample at once, for one weighting of its patients or thousands."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pneumonia.evaluation.calibration import (
    BINS,
    bin_numbers,
    log_losses,
    log_odds,
    squared_errors,
)
from pneumonia.evaluation.ranking import Ranking
from pneumonia.evaluation.rates import rates
from pneumonia.evaluation.recalibration import recalibrate
from pneumonia.evaluation.sample import Sample

_CELLS = 150_000
"""Images times replicates held at once: about 1 MB, so that the processor's cache serves them."""


class Scorecard:
    """What a sample has to be asked, prepared once and answered for any weights of its patients.

    Most metrics are made of sums over images, and so of sums over patients: one matrix product
    gives them for all weightings. Rankings and the recalibration line need the images.

    Args:
        sample: The images.
        thresholds: By prefix of the metric names (``""``, ``at_0.5/``), in [0, 1].
    """

    def __init__(self, sample: Sample, thresholds: Mapping[str, float]) -> None:
        self._sample = sample
        self._thresholds = dict(thresholds)
        self._ranking = Ranking(sample.labels, sample.scores)
        self._log_odds = log_odds(sample.probabilities)
        truth, p = sample.labels, sample.probabilities
        in_bin = bin_numbers(p)[:, None] == np.arange(BINS)
        columns = [truth, ~truth, squared_errors(truth, p), log_losses(truth, p)]
        for threshold in self._thresholds.values():
            called = p >= threshold
            columns += [truth & called, ~truth & called]
        gaps = in_bin * (p - truth)[:, None]
        self._sums = sample.patient_sums(np.column_stack([*columns, gaps]))

    def values(self) -> dict[str, float]:
        """Give the metrics of the sample as it is.

        Returns:
            By name: those of `rates` behind the prefix of each threshold; auroc and
            average_precision; brier, log_loss, ece, calibration_slope and calibration_intercept.
            NaN where undefined.
        """
        once = np.ones((1, self._sample.n_patients))
        return {name: float(found[0]) for name, found in self.replicates(once).items()}

    def replicates(self, weights: NDArray[np.number]) -> dict[str, NDArray[np.float64]]:
        """Give the metrics with each patient counted a number of times.

        Args:
            weights: Shape (r, n_patients): one weighting per row, with some weight in each class.

        Returns:
            The names of `values`, each with an array of shape (r,).
        """
        found = self._from_sums(np.asarray(weights, np.float64) @ self._sums)
        rows = max(1, _CELLS // len(self._sample))
        parts = [
            self._from_images(weights[start : start + rows][:, self._sample.patients])
            for start in range(0, len(weights), rows)
        ]
        for name in parts[0]:
            found[name] = np.concatenate([part[name] for part in parts])
        return found

    def _from_sums(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        n_positive, n_negative, squared, logarithmic = sums.T[:4]
        n = n_positive + n_negative
        found = {
            "brier": squared / n,
            "log_loss": logarithmic / n,
            "ece": np.abs(sums[:, -BINS:]).sum(axis=1) / n,
        }
        for place, prefix in enumerate(self._thresholds):
            tp, fp = sums.T[4 + 2 * place : 6 + 2 * place]
            for name, values in rates(tp, fp, n_positive, n_negative).items():
                found[prefix + name] = values
        return found

    def _from_images(self, weights: NDArray[np.number]) -> dict[str, NDArray[np.float64]]:
        w = weights.astype(np.float64)
        area, average = self._ranking.measure(w)
        line = recalibrate(self._sample.labels, self._log_odds, w)
        return {
            "auroc": area,
            "average_precision": average,
            "calibration_slope": line.slope,
            "calibration_intercept": line.intercept,
        }
