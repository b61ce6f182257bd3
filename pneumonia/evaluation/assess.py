"""A test, whole: every metric with its interval, overall and by subtype, and what to doubt."""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import areas
from pneumonia.evaluation.abstention import Band
from pneumonia.evaluation.bootstrap import REPLICATES, draw_patients, estimate
from pneumonia.evaluation.calibration import Reliability, reliability
from pneumonia.evaluation.decision import DecisionCurve, decision_curve
from pneumonia.evaluation.inputs import check_threshold
from pneumonia.evaluation.intervals import Estimate, wilson
from pneumonia.evaluation.metrics import Confusion, confusion
from pneumonia.evaluation.sample import FEW_PATIENTS, Sample
from pneumonia.evaluation.selective import broken_promises, selective
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA, UNKNOWN_SUBTYPE

log = logging.getLogger(__name__)

HALF = 0.5
AT_HALF = f"at_{HALF}/"
"""What stands before the names of metrics at probability 0.5."""


@dataclass(frozen=True)
class Assessment:
    """The result of a test.

    Attributes:
        threshold: The operating point's: PNEUMONIA means probability >= threshold.
        metrics: By name, without `test/`. Plain names hold at the operating point, `at_0.5/...`
            at 0.5, `<subtype>/...` and `<subtype>/at_0.5/...` for the PNEUMONIA images of a
            subtype beside all NORMAL images; a subtype's predictive values, accuracy and
            calibration are therefore those of another share of PNEUMONIA. With a band, also those
            of `pneumonia.evaluation.selective.selective`.
        confusion: Images by label and call, at the operating point.
        reliability: Points of the reliability diagram.
        decision: The decision curve.
        notes: What to doubt, a sentence each.
        band: In which images were left undecided; None for a test without.
    """

    threshold: float
    metrics: dict[str, Estimate]
    confusion: Confusion
    reliability: Reliability
    decision: DecisionCurve
    notes: tuple[str, ...]
    band: Band | None = None

    def plain(self, prefix: str = "") -> dict[str, float]:
        """The defined metrics at the operating point over all images, as plain numbers."""
        return {
            f"{prefix}{name}": found.value
            for name, found in self.metrics.items()
            if "/" not in name and np.isfinite(found.value)
        }


def assess(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: ArrayLike | None = None,
    subtypes: ArrayLike | None = None,
    *,
    threshold: float,
    band: Band | None = None,
    scores: ArrayLike | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Assessment:
    """Evaluate a test.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        probabilities: Shape (n,), in [0, 1], calibrated if calibration exists.
        patients: Shape (n,), text or numbers; without them each image counts as a patient of its
            own, which every method says.
        subtypes: Shape (n,), text; read of PNEUMONIA images only, `unknown` and empty left out.
        threshold: Of the operating point, in [0, 1].
        band: In which images are left undecided; None for no such band.
        scores: Shape (n,), finite: raw logits to rank by; by default the probabilities.
        seed: Of the bootstrap.
        replicates: Of the bootstrap, at least 200.

    Returns:
        The assessment. Beside each `auroc` by the bootstrap stand `auroc_obuchowski` and
        `auroc_delong`, beside `sensitivity` and `specificity` those of `_wilson`; counts are `n`,
        `n_positive`, `n_patients`, `n_patients_positive` and `n_patients_negative`.

    Raises:
        EvaluationError: If a column is not as said, or the labels are of one class.
    """
    sample = Sample.of(labels, probabilities, patients, scores)
    threshold = check_threshold(threshold)
    weights = draw_patients(sample, replicates, seed)
    metrics = _metrics(sample, threshold, weights)
    metrics["threshold"] = Estimate.exact(threshold, "given")
    for subtype, images in _subtypes(sample, subtypes).items():
        part = sample.subset(images | ~sample.labels)
        of_part = _metrics(part, threshold, draw_patients(part, replicates, seed))
        metrics |= {f"{subtype}/{name}": found for name, found in of_part.items()}
    notes = _notes(sample)
    if band is not None:
        metrics |= selective(sample, band, weights)
        notes += broken_promises(sample, band)
    for note in notes:
        log.warning(note)
    return Assessment(
        threshold,
        metrics,
        confusion(sample.labels, sample.probabilities >= threshold),
        reliability(sample.labels, sample.probabilities),
        decision_curve(sample, weights),
        notes,
        band,
    )


def _metrics(sample: Sample, threshold: float, weights: NDArray[np.int32]) -> dict[str, Estimate]:
    """Give the metrics of one set of images, at both thresholds."""
    found = estimate(sample, {"": threshold, AT_HALF: HALF}, weights)
    found["auroc_obuchowski"] = areas.area(sample)
    found["auroc_delong"] = areas.area(sample, clustered=False)
    for prefix, cut in (("", threshold), (AT_HALF, HALF)):
        c = confusion(sample.labels, sample.probabilities >= cut)
        for name, right, n in (
            ("sensitivity", c.tp, c.n_positive),
            ("specificity", c.tn, c.n_negative),
        ):
            found[f"{prefix}{name}_wilson"] = Estimate(
                right / n, *wilson(right, n), "Wilson 1927, assumes independent images"
            )
    n_negative, n_positive = sample.class_patients
    counts = {
        "n": len(sample),
        "n_positive": int(sample.labels.sum()),
        "n_patients": sample.n_patients,
        "n_patients_positive": n_positive,
        "n_patients_negative": n_negative,
    }
    return found | {name: Estimate.exact(count, "count") for name, count in counts.items()}


def _subtypes(sample: Sample, subtypes: ArrayLike | None) -> dict[str, NDArray[np.bool_]]:
    """Find the PNEUMONIA images of each subtype."""
    if subtypes is None:
        return {}
    names = np.asarray(subtypes)
    if names.shape != sample.labels.shape or names.dtype.kind != "U":
        raise EvaluationError(
            f"Found {len(sample)} labels but subtypes of shape {names.shape} and type "
            f"{names.dtype}; give one name per image, in the same order."
        )
    known = np.setdiff1d(names[sample.labels], ["", UNKNOWN_SUBTYPE])
    return {str(name): sample.labels & (names == name) for name in known}


def _notes(sample: Sample) -> tuple[str, ...]:
    notes = []
    if not sample.known_patients:
        notes.append(
            "No patients are given: each image counts as a patient of its own, and intervals are "
            "too narrow if a patient has several."
        )
    for label in (NORMAL, PNEUMONIA):
        count = sample.class_patients[label]
        if count < FEW_PATIENTS:
            notes.append(
                f"Only {count} {sample.unit}s in class {CLASSES[label]}, fewer than "
                f"{FEW_PATIENTS}: bootstrap intervals are too narrow."
            )
    mixed = sample.mixed_patients.size
    if mixed:
        notes.append(
            f"Patients with images of both classes: {mixed}. Patients are therefore resampled "
            "together, not within class; if that is no follow-up, look for patient keys used twice."
        )
    if np.ptp(sample.scores) == 0:
        notes.append("All images have the same score: the classifier tells none apart.")
    return tuple(notes)
