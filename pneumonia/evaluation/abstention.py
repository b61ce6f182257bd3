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
is measured on a test (`pneumonia.evaluation.abstention`), never promised.

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
from pneumonia.evaluation.confidence import Estimate, clopper_pearson, percentiles, wilson
from pneumonia.evaluation.predictions import Sample, check_probabilities, check_threshold
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
class Abstention:
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
    def from_dict(cls, values: Mapping[str, Any]) -> "Abstention":
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


def check_alpha(error: float) -> float:
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


def fit_abstention(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: ArrayLike | None,
    threshold: float,
    error: float = ERROR,
) -> Abstention:
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
    error = check_alpha(error)
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
    return Abstention(
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


COVERAGE = "coverage"
DECIDED = "decided/"
"""What stands before the names of metrics among the decided images."""

WRONG_PATIENTS = (f"{DECIDED}alarmed_patients", f"{DECIDED}missed_patients")
"""By label: the share of its patients with an image confidently called the other class."""

_MORE_THAN_CHANCE = 0.025


def selective(sample: Sample, band: Abstention, weights: NDArray[np.int32]) -> dict[str, Estimate]:
    """Measure what a band does.

    Args:
        sample: The images.
        band: Chosen on other images.
        weights: What `pneumonia.evaluation.confidence.draw_patients` gave for this sample.

    Returns:
        `coverage`, `coverage_positive` and `coverage_negative`: the share of all, PNEUMONIA and
        NORMAL images decided. `decided/sensitivity`, `decided/specificity` and `decided/accuracy`
        among the decided, NaN where none is. `decided/missed_patients` and
        `decided/alarmed_patients`: the share of PNEUMONIA and of NORMAL patients with an image
        confidently called the other class, which is what the band promises. `alpha`,
        `uncertain_from` and `uncertain_below` of the band, and `n_decided`.
    """
    truth, decided = sample.labels, ~band.uncertain(sample.probabilities)
    right = decided & (truth == (sample.probabilities >= band.upper))
    shares = {
        COVERAGE: (decided, np.ones_like(decided)),
        f"{COVERAGE}_positive": (decided & truth, truth),
        f"{COVERAGE}_negative": (decided & ~truth, ~truth),
        f"{DECIDED}sensitivity": (right & truth, decided & truth),
        f"{DECIDED}specificity": (right & ~truth, decided & ~truth),
        f"{DECIDED}accuracy": (right, decided),
    }
    found = {name: _share(sample, *images, weights) for name, images in shares.items()}
    for label, (wrong, n) in confidently_wrong_patients(sample, band).items():
        found[WRONG_PATIENTS[label]] = Estimate(
            wrong / n, *wilson(wrong, n), f"Wilson 1927 on {n} {sample.unit}s{sample.assumption}"
        )
    return found | {
        "alpha": Estimate.exact(band.error, "given"),
        "uncertain_from": Estimate.exact(band.lower, "given"),
        "uncertain_below": Estimate.exact(band.upper, "given"),
        "n_decided": Estimate.exact(int(decided.sum()), "count"),
    }


def confidently_wrong_patients(sample: Sample, band: Abstention) -> dict[int, tuple[int, int]]:
    """Count patients with an image of a class that is confidently called the other.

    Args:
        sample: The images.
        band: The band.

    Returns:
        By label: how many, and of how many patients with an image of that class.
    """
    p, truth = sample.probabilities, sample.labels
    found = {}
    for label, images, wrong in (
        (NORMAL, ~truth, p >= band.upper),
        (PNEUMONIA, truth, p < band.lower),
    ):
        of_class = sample.patients_with(images).size
        found[label] = (sample.patients_with(images & wrong).size, of_class)
    return found


def violated_guarantees(sample: Sample, band: Abstention) -> tuple[str, ...]:
    """Say where confident errors are more frequent than the band promises.

    Args:
        sample: The images.
        band: The band.

    Returns:
        A sentence for each class where they are, with whether chance explains it.
    """
    sentences = []
    for label, (wrong, n) in confidently_wrong_patients(sample, band).items():
        if wrong <= band.error * n:
            continue
        p = band.chance(label, wrong, n)
        verdict = (
            f"chance alone gives as many in {p:.0%} of tests"
            if p >= _MORE_THAN_CHANCE
            else "that is more than chance: the promise does not hold for these patients"
        )
        sentences.append(
            f"Above the promise: {wrong} of {n} {CLASSES[label]} {sample.unit}s ({wrong / n:.1%}) "
            f"have an image confidently called {CLASSES[1 - label]}, and the band promised "
            f"{band.error:.3g} at most; {verdict}."
        )
    return tuple(sentences)


def _share(
    sample: Sample,
    part: NDArray[np.bool_],
    whole: NDArray[np.bool_],
    weights: NDArray[np.int32],
) -> Estimate:
    """Give the share that some images are of others, with its interval."""
    if not whole.any():
        return Estimate.without_interval(math.nan, "undefined, for no such image is decided")
    sums = sample.patient_sums(np.column_stack([part, whole]).astype(np.float64))
    value = float(part.sum() / whole.sum())
    n = sample.patients_with(whole).size
    if value in {0, 1}:  # so is every replicate: see `pneumonia.evaluation.confidence`
        method = f"Clopper-Pearson on {n} {sample.unit}s{sample.assumption}"
        return Estimate(value, *clopper_pearson(value, n), method)
    counted, of = (weights @ sums).T
    replicates = np.full(len(weights), np.nan)
    np.divide(counted, of, out=replicates, where=of > 0)
    ends = percentiles(value, replicates) if n > 1 else None
    if ends is None:
        return Estimate.without_interval(value, f"too few {sample.unit}s to resample")
    return Estimate(value, *ends, f"{sample.unit} bootstrap{sample.assumption}")
