"""Conformal abstention: the range of probabilities in which an image is uncertain.

Below the range an image is confidently NORMAL, above it confidently PNEUMONIA.

Split conformal prediction within each class (Vovk, ACML 2012, PMLR 25, 475; Sadinle, Lei and
Wasserman, JASA 114 (2019), 223) with one score per patient (Dunn, Wasserman and Ramdas, JASA 118
(2023), 2491): the lowest probability of a PNEUMONIA patient's images, the highest of a NORMAL
patient's. The k-th most extreme of n scores, k = floor(alpha * (n + 1)), is an end of the range.

On average over validation sets, at most a fraction alpha of comparable patients of a class has an
image confidently predicted as the other class. This holds strictly for images that did not select
the epoch, such as those of `pneumonia calibrate`, and not under distribution shift: another
hospital, machine or age group, or Kaggle's test split.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.predictions import PredictionTable, check_number, check_threshold
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

log = logging.getLogger(__name__)

DEFAULT_ALPHA = 0.05
"""Needs 19 patients of each class."""

ABOVE_ONE = math.nextafter(1.0, 2.0)
"""Upper end of a range that includes probability 1."""

_ALPHA_LIMIT = 0.5


@dataclass(frozen=True)
class Abstention:
    """The range of uncertain probabilities: lower <= probability < upper.

    Attributes:
        lower: Lower end, in [0, 1]; at 0 no image is confidently NORMAL.
        upper: Upper end, at most `ABOVE_ONE`, where no image is confidently PNEUMONIA.
        alpha: Error rate among the patients of each class, in (0, 0.5); see the module docstring.
        n_patients_positive: Patients with a PNEUMONIA image on which the range was chosen; likewise
            `n_patients_negative`.
    """

    lower: float
    upper: float
    alpha: float
    n_patients_positive: int
    n_patients_negative: int

    def uncertain(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """Find the uncertain images: shape (n,), by calibrated probabilities in [0, 1]."""
        p = np.asarray(probabilities, np.float64)
        return (self.lower <= p) & (p < self.upper)

    def to_dict(self) -> dict[str, float | int]:
        """Return plain numbers, for a checkpoint that loads with `weights_only=True`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Abstention":
        """Undo `to_dict`.

        Raises:
            TypeError: If a value is missing or unknown.
            EvaluationError: If it is not a range.
        """
        found = cls(**values)
        for name, value in asdict(found).items():
            check_number(name, value, high=1e9 if name.startswith("n_") else ABOVE_ONE)
        if found.lower > found.upper:
            raise EvaluationError(f"the uncertain range is {found.lower} to {found.upper}.")
        return found


def check_alpha(alpha: float) -> float:
    """Return alpha as float; raise an EvaluationError unless it is between 0 and 0.5 (excluded)."""
    if not 0 < alpha < _ALPHA_LIMIT:
        raise EvaluationError(
            f"alpha: found {alpha}, expected the tolerated fraction of patients with a confident"
            f" error, between 0 and {_ALPHA_LIMIT}; {DEFAULT_ALPHA} is the default."
        )
    return float(alpha)


def conformal_rank(alpha: float, patients: int) -> int:
    """Compute floor(alpha * (patients + 1)) exactly: in floating point 0.29 * 100 is below 29."""
    return math.floor(Fraction(repr(float(alpha))) * (patients + 1))


def fit_abstention(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: ArrayLike | None,
    threshold: float,
    alpha: float = DEFAULT_ALPHA,
) -> Abstention:
    """Choose the range on the validation set, around the operating point.

    Where a class has too few patients for alpha, all images predicted as the other class are
    uncertain, and a warning is logged.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        probabilities: Shape (n,), in [0, 1], calibrated.
        patients: Shape (n,), text or whole numbers; None if each image is of another patient.
        threshold: The operating point, in [0, 1].
        alpha: Error rate among the patients of each class, in (0, 0.5).

    Raises:
        EvaluationError: If an array, the threshold or alpha is invalid.
    """
    table = PredictionTable(
        label=np.asarray(labels),
        probability=np.asarray(probabilities),
        patient=None if patients is None else np.asarray(patients),
    )
    threshold, alpha = check_threshold(threshold), check_alpha(alpha)
    p, truth, patient = table.probability, table.positive, table.patient_ids
    lowest, highest = np.ones(table.n_patients), np.zeros(table.n_patients)
    np.minimum.at(lowest, patient[truth], p[truth])
    np.maximum.at(highest, patient[~truth], p[~truth])
    lowest = np.sort(lowest[table.patients_with(truth)])
    highest = np.sort(highest[table.patients_with(~truth)])
    k, j = conformal_rank(alpha, lowest.size), conformal_rank(alpha, highest.size)
    needed = math.ceil(1 / Fraction(repr(alpha))) - 1
    for label, rank, count in ((PNEUMONIA, k, lowest.size), (NORMAL, j, highest.size)):
        if rank == 0:
            log.warning(
                "alpha %g needs at least %d %s patients, found %d: all images predicted as %s are"
                " uncertain. Use a larger validation set or a larger alpha.",
                *(alpha, needed, CLASSES[label], count, CLASSES[1 - label]),
            )
    lower = float(lowest[k - 1]) if k else 0.0
    upper = math.nextafter(float(highest[-j]), 2.0) if j else ABOVE_ONE
    return Abstention(
        min(threshold, lower), max(threshold, upper), alpha, lowest.size, highest.size
    )
