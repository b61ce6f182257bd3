"""What a band of abstention leaves decided on a test, and how right that is.

Coverage is the share of images decided, and accuracy among them is 1 - selective risk (El-Yaniv
and Wiener, JMLR 11 (2010), 1605). This is not the coverage of a conformal prediction set.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pneumonia.evaluation.abstention import Band
from pneumonia.evaluation.intervals import Estimate, clopper_pearson, percentiles, wilson
from pneumonia.evaluation.sample import Sample
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

COVERAGE = "coverage"
DECIDED = "decided/"
"""What stands before the names of metrics among the decided images."""

WRONG_PATIENTS = (f"{DECIDED}alarmed_patients", f"{DECIDED}missed_patients")
"""By label: the share of its patients with an image confidently called the other class."""

_MORE_THAN_CHANCE = 0.025


def selective(sample: Sample, band: Band, weights: NDArray[np.int32]) -> dict[str, Estimate]:
    """Measure what a band does.

    Args:
        sample: The images.
        band: Chosen on other images.
        weights: What `pneumonia.evaluation.bootstrap.draw_patients` gave for this sample.

    Returns:
        `coverage`, `coverage_positive` and `coverage_negative`: the share of all, PNEUMONIA and
        NORMAL images decided. `decided/sensitivity`, `decided/specificity` and `decided/accuracy`
        among the decided, NaN where none is. `decided/missed_patients` and
        `decided/alarmed_patients`: the share of PNEUMONIA and of NORMAL patients with an image
        confidently called the other class, which is what the band promises. `abstention_error`,
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
    for label, (wrong, n) in wrong_patients(sample, band).items():
        found[WRONG_PATIENTS[label]] = Estimate(
            wrong / n, *wilson(wrong, n), f"Wilson 1927 on {n} {sample.unit}s{sample.assumption}"
        )
    return found | {
        "abstention_error": Estimate.exact(band.error, "given"),
        "uncertain_from": Estimate.exact(band.lower, "given"),
        "uncertain_below": Estimate.exact(band.upper, "given"),
        "n_decided": Estimate.exact(int(decided.sum()), "count"),
    }


def wrong_patients(sample: Sample, band: Band) -> dict[int, tuple[int, int]]:
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


def broken_promises(sample: Sample, band: Band) -> tuple[str, ...]:
    """Say where confident errors are more frequent than the band promises.

    Args:
        sample: The images.
        band: The band.

    Returns:
        A sentence for each class where they are, with whether chance explains it.
    """
    sentences = []
    for label, (wrong, n) in wrong_patients(sample, band).items():
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
    if value in {0, 1}:  # so is every replicate: see `pneumonia.evaluation.blind`
        method = f"Clopper-Pearson on {n} {sample.unit}s{sample.assumption}"
        return Estimate(value, *clopper_pearson(value, n), method)
    counted, of = (weights @ sums).T
    replicates = np.full(len(weights), np.nan)
    np.divide(counted, of, out=replicates, where=of > 0)
    ends = percentiles(value, replicates) if n > 1 else None
    if ends is None:
        return Estimate.without_interval(value, f"too few {sample.unit}s to resample")
    return Estimate(value, *ends, f"{sample.unit} bootstrap{sample.assumption}")
