"""A test, whole: every metric with its interval, overall and by subtype, and what to doubt."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import confidence
from pneumonia.evaluation.abstention import Abstention, selective, violated_guarantees
from pneumonia.evaluation.calibration import Reliability, reliability
from pneumonia.evaluation.confidence import (
    LEVEL,
    REPLICATES,
    Estimate,
    draw_patients,
    estimate_metrics,
    wilson,
)
from pneumonia.evaluation.metrics import Confusion, confusion
from pneumonia.evaluation.predictions import FEW_PATIENTS, Cases, Sample, check_threshold
from pneumonia.evaluation.threshold import OperatingPoint
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA, UNKNOWN_SUBTYPE

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
        weights: What `pneumonia.evaluation.confidence.draw_patients` gave for this sample.
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
            of `pneumonia.evaluation.abstention.selective`.
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
    band: Abstention | None = None

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
    band: Abstention | None = None,
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
        notes += violated_guarantees(sample, band)
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
    found = estimate_metrics(sample, {"": threshold, AT_HALF: HALF}, weights)
    found["auroc_obuchowski"] = confidence.area(sample)
    found["auroc_delong"] = confidence.area(sample, clustered=False)
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


Origin = Literal["hold-out", "site", "given", "default", "missing"]
"""Of a threshold: chosen on the training's hold-out, or on a site's own images; given by hand;
0.5 for predictions that came without one, or for a checkpoint that holds none."""


@dataclass(frozen=True)
class EvaluatedModel:
    """What a result is about.

    Attributes:
        name: Of the model, as its owner would find it: a file.
        data: What it was tested on.
        checkpoint: Whether it is one of the project's checkpoints, rather than a table.
        calibration: Temperature and offset, `sigmoid(logit / temperature + offset)`; None
            where there is none.
        operating_point: Where the threshold comes from; None if nothing is known.
        metadata: Of data, hold-out, training and model: plain nested values, any of them missing.
        history: What calibrating at a site replaced, oldest first: plain nested values.
        warnings: What else to doubt, a sentence each.
        band: Around that threshold, in which images are left undecided; None where there is none.
    """

    name: str
    data: str
    checkpoint: bool = False
    calibration: tuple[float, float] | None = None
    operating_point: OperatingPoint | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    band: Abstention | None = None

    def fact(self, *keys: str) -> Any:
        """Look a fact up.

        Args:
            keys: From the outermost to the innermost.

        Returns:
            The value, or None where it was not recorded.
        """
        found: Any = self.metadata
        for key in keys:
            if not isinstance(found, Mapping):
                return None
            found = found.get(key)
        return found

    def table(self, *keys: str) -> dict[str, Any]:
        """Look metadata up that stand together.

        Args:
            keys: From the outermost to the innermost.

        Returns:
            Them, or nothing where they were not recorded.
        """
        found = self.fact(*keys)
        return dict(found) if isinstance(found, Mapping) else {}

    def origin(self, threshold: float | None) -> Origin:
        """Tell where the threshold of a test comes from.

        Args:
            threshold: What was given by hand; None for nothing.
        """
        if threshold is not None:
            return "given"
        if self.operating_point is not None:
            return "site" if self.history else "hold-out"
        return "missing" if self.checkpoint else "default"


MEANING = (
    "A high AUROC without the lungs shows that the model can use a shortcut; a low one proves"
    " nothing."
)


@dataclass(frozen=True, eq=False)
class ShortcutProbe:
    """AUROC on images changed in one way.

    Attributes:
        name: The change, in a few words.
        geometry: Exactly what was done.
        auroc: Of the changed images, with its interval.
        picture: One of them, grey uint8 [H, W]; None for what is no image.
    """

    name: str
    geometry: str
    auroc: Estimate
    picture: NDArray[np.uint8] | None = None


Picture = Callable[[str], NDArray[np.uint8]]


@dataclass(frozen=True)
class EvaluationResult:
    """All that a report or a model card draws on.

    Attributes:
        subject: What was evaluated.
        cases: On which images, and what it said of them.
        assessment: The result.
        origin: Of the threshold.
        probes: The shortcut probe; none where it was not run.
        picture: Gives the grey image of a path, uint8 [H, W]; None for no images.
    """

    subject: EvaluatedModel
    cases: Cases
    assessment: Assessment
    origin: Origin
    probes: tuple[ShortcutProbe, ...] = ()
    picture: Picture | None = None


def build_result(
    cases: Cases,
    subject: EvaluatedModel,
    threshold: float | None = None,
    *,
    probes: Sequence[ShortcutProbe] = (),
    picture: Picture | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> EvaluationResult:
    """Evaluate predictions and put what is known of them together.

    The subject's band belongs to its own threshold: it is left out where another is given.

    Args:
        cases: The predictions.
        subject: What made them.
        threshold: Given by hand, in [0, 1]; None for the subject's operating point, or else 0.5.
        probes: The shortcut probe.
        picture: Gives the image of a path, for the gallery.
        seed: Of the bootstrap.
        replicates: Of the bootstrap.

    Raises:
        EvaluationError: If the images are of one class, or the threshold is none.
    """
    origin = subject.origin(threshold)
    cut, band = HALF if threshold is None else threshold, None
    if origin in {"hold-out", "site"} and subject.operating_point is not None:
        cut, band = subject.operating_point.threshold, subject.band
    assessment = assess(
        cases.labels,
        cases.probabilities,
        cases.patients,
        cases.subtypes,
        threshold=cut,
        band=band,
        scores=cases.scores,
        seed=seed,
        replicates=replicates,
    )
    return EvaluationResult(subject, cases, assessment, origin, tuple(probes), picture)
