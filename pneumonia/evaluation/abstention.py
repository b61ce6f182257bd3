"""A band of probabilities around the operating point, in which an image is left undecided.

Below the band an image is confidently NORMAL, from its upper end up confidently PNEUMONIA, and
between them `uncertain`: for somebody to read. The band is the narrowest that split conformal
prediction allows for a stated error, within each class.

What is guaranteed
------------------
Of PNEUMONIA patients who are exchangeable with those of the hold-out, a share of at most `error`
is expected to have any image confidently called NORMAL; of NORMAL patients likewise, any image
confidently called PNEUMONIA. No model of the scores is assumed. Conformal prediction within each
class ("Mondrian"): Vovk, Conditional validity of inductive conformal predictors, ACML 2012, PMLR
25, 475; for classifiers that may abstain: Sadinle, Lei and Wasserman, JASA 114 (2019), 223, on
class-specific coverage.

*One score per patient.* Images of a patient resemble each other, so images are not exchangeable,
and counting them would promise too much; patients are (Dunn, Wasserman and Ramdas, JASA 118
(2023), 2491; Lee, Barber and Willett, arXiv 2306.06342, call it hierarchical exchangeability).
Those draw one image of each or weigh them, for a promise of one further image; here it is of all
of a further patient's images. The score of a PNEUMONIA patient is the lowest probability among that
patient's PNEUMONIA images, of a NORMAL patient the highest: one number each, of exchangeable
patients. With n of them and k = floor(error * (n + 1)), a further one's score lies beyond the k-th
most extreme with probability k / (n + 1) at most, ties included.

*Not for this hold-out, but on average over hold-outs.* Given one, the share of patients called
confidently wrong spreads as Beta(k, n + 1 - k) (Vovk 2012): of 5%, and 129
patients, from 1.7% to 8.8% in 95 of 100 hold-outs.

*The same hold-out chose temperature and threshold.* Neither harms the guarantee. Scaling the
logits keeps their order, and the guarantee rests on ranks alone. The threshold only widens the
band: an end that conformal prediction would put beyond it is moved to it, so that no decided image
is called against the operating point. What does touch it is that the hold-out chose the epoch,
whose scores on it are therefore too good, the more so the fewer its patients: strictly, the
guarantee holds for images that chose nothing of the weights, such as a site's own (`pneumonia
calibrate`).

*Not of a decided image.* Errors are counted within a class, among all its patients: how often a
decided image is called wrong depends on the share of PNEUMONIA and on how many are undecided. It
is measured on a test (`pneumonia.evaluation.selective`), never promised.

*Not under shift.* Another hospital, machine or age breaks exchangeability, and so does Kaggle's
test split, whose patients are other blocks of ids than those trained on; so does another habit of
how many images a patient gets. Nothing at all is then guaranteed.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.inputs import check_probabilities, check_threshold
from pneumonia.evaluation.sample import Sample
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

log = logging.getLogger(__name__)

ERROR = 0.05
"""Stated error by default.

On the hold-outs of two trained models (129 NORMAL and 259 PNEUMONIA patients) it left 97% of the
images decided by each; at 0.02 it was 96% and 79%, at 0.01, where the band hangs on one patient,
91% and 52%, and at 0.1 there was no band. It needs 19 patients of each class.
"""

ABOVE_ONE = math.nextafter(1.0, 2.0)
"""Upper end of a band above which no image lies, as probability 1 would still reach an end of 1."""

_MOST = 0.5
_MANY = 1e9


@dataclass(frozen=True)
class Band:
    """Where images are uncertain: lower <= probability < upper.

    Attributes:
        lower: In [0, 1]; at 0 no image is confidently NORMAL.
        upper: From `lower` to `ABOVE_ONE`, where no image is confidently PNEUMONIA.
        error: Stated for the patients of each class, in (0, 0.5); see the head of this module.
        n_patients_positive: Patients with a PNEUMONIA image among those that chose the band.
        n_patients_negative: Patients with a NORMAL image.
    """

    lower: float
    upper: float
    error: float
    n_patients_positive: int
    n_patients_negative: int

    def uncertain(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """Tell which images are left undecided.

        Args:
            probabilities: Shape (n,), in [0, 1], calibrated.

        Returns:
            Shape (n,), True where lower <= probability < upper.

        Raises:
            EvaluationError: If a probability lies outside [0, 1].
        """
        p = check_probabilities(probabilities, np.size(probabilities))
        return (self.lower <= p) & (p < self.upper)

    def chance(self, label: int, wrong: int, patients: int) -> float:
        """Compute how likely as many confident errors are among patients like the hold-out's.

        With k = floor(error * (n + 1)) the errors of m further patients follow a beta-binomial
        distribution of m, k and n + 1 - k (Angelopoulos and Bates, Foundations and Trends in
        Machine Learning 16 (2023), 494, on checking coverage), which counts chance in the hold-out
        and in the further patients. Where the threshold widened the band, expect fewer.

        Args:
            label: NORMAL or PNEUMONIA.
            wrong: Patients of that class with an image confidently called the other.
            patients: m, all patients of that class.

        Returns:
            The probability of `wrong` or more.
        """
        n = self.n_patients_positive if label == PNEUMONIA else self.n_patients_negative
        k = rank(self.error, n)
        if wrong <= 0 or k == 0:
            return float(wrong <= 0)
        m, whole = patients, _log_beta(k, n + 1 - k)
        return math.fsum(
            math.exp(_log_beta(j + k, m - j + n + 1 - k) - whole - _log_beta(j + 1, m - j + 1))
            / (m + 1)
            for j in range(wrong, m + 1)
        )

    def to_dict(self) -> dict[str, float | int]:
        """Give plain numbers, for a checkpoint loadable with `weights_only=True`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Band":
        """Undo `to_dict`.

        Args:
            values: What `to_dict` gave.

        Raises:
            EvaluationError: If a value is missing, unknown or out of its range.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise EvaluationError(
                f"A band of abstention has {', '.join(sorted(names))}, and found "
                f"{', '.join(sorted(map(str, values))) or 'nothing'}; use a checkpoint of this "
                "version."
            )
        found = cls(**values)
        patients = (found.n_patients_positive, found.n_patients_negative)
        sound = (
            all(isinstance(value, int | float) for value in values.values())
            and 0 <= found.lower <= found.upper <= ABOVE_ONE
            and found.lower <= 1
            and 0 < found.error < _MOST
            and all(isinstance(n, int) and 0 < n < _MANY for n in patients)
        )
        if not sound:
            raise EvaluationError(
                f"{found} is no band of abstention: 0 <= lower <= upper, upper is at most just "
                f"above 1, error lies between 0 and {_MOST}, and each class has patients."
            )
        return found


def check_error(error: float) -> float:
    """Check a stated error, before anything is trained.

    Args:
        error: The share of a class's patients that may be called confidently wrong.

    Returns:
        The error.

    Raises:
        EvaluationError: If it does not lie between 0 and 0.5, both excluded.
    """
    if not 0 < error < _MOST:
        raise EvaluationError(
            f"Found the abstention error {error}, expected the share of patients that may be "
            f"called confidently wrong, between 0 and {_MOST}, both excluded; {ERROR} is the "
            "default."
        )
    return float(error)


def rank(error: float, patients: int) -> int:
    """Compute k = floor(error * (n + 1)), of the decimal number that was written.

    In floating point 0.29 * 100 is less than 29.

    Args:
        error: In (0, 0.5).
        patients: n, at least 1.

    Returns:
        Which of the n scores, from the most extreme on, is the end of the band; 0 for none.
    """
    return math.floor(Fraction(repr(float(error))) * (patients + 1))


def choose_band(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: ArrayLike | None,
    threshold: float,
    error: float = ERROR,
) -> Band:
    """Choose the band on a hold-out.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        probabilities: Shape (n,), in [0, 1], calibrated.
        patients: Shape (n,), text or numbers; None to count each image as a patient, which
            promises too much where patients have several.
        threshold: Of the operating point, in [0, 1]; the band reaches it at least.
        error: Stated for the patients of each class, in (0, 0.5).

    Returns:
        The band. Where a class has too few patients for the error, all images on the side of the
        other class are uncertain, and a warning says so.

    Raises:
        EvaluationError: If an array, the threshold or the error is not as said.
    """
    sample = Sample.of(labels, probabilities, patients)
    check_threshold(threshold)
    error = check_error(error)
    lowest = np.sort(_extremes(sample, PNEUMONIA, np.minimum))
    highest = np.sort(_extremes(sample, NORMAL, np.maximum))
    k, j = rank(error, lowest.size), rank(error, highest.size)
    for label, place, count in ((PNEUMONIA, k, lowest.size), (NORMAL, j, highest.size)):
        if place == 0:
            log.warning(
                "An abstention error of %g cannot be stated with %d %s patients in the hold-out, "
                "it needs %d: every image that would be called %s is uncertain. Enlarge the "
                "hold-out or raise the error.",
                error,
                count,
                CLASSES[label],
                math.ceil(1 / Fraction(repr(error))) - 1,
                CLASSES[1 - label],
            )
    lower = float(lowest[k - 1]) if k else 0.0
    upper = math.nextafter(float(highest[-j]), 2.0) if j else ABOVE_ONE
    return Band(
        lower=min(float(threshold), lower),
        upper=max(float(threshold), upper),
        error=error,
        n_patients_positive=lowest.size,
        n_patients_negative=highest.size,
    )


def _extremes(sample: Sample, label: int, extreme: np.ufunc) -> NDArray[np.float64]:
    """Find the most extreme probability of each patient's images of a class."""
    images = sample.labels == (label == PNEUMONIA)
    patients = sample.patients[images]
    order = np.argsort(patients, kind="stable")
    _, starts = np.unique(patients[order], return_index=True)
    found: NDArray[np.float64] = extreme.reduceat(sample.probabilities[images][order], starts)
    return found


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
