"""Evaluate predictions: every metric with its interval, overall and by subtype, and caveats."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from pneumonia.evaluation.abstention import Abstention, conformal_rank
from pneumonia.evaluation.confidence import (
    REPLICATES,
    Estimate,
    auroc_estimate,
    bootstrap_estimate,
    draw_patients,
    estimate_metrics,
    exact_proportion,
    proportion_interval,
)
from pneumonia.evaluation.metrics import Confusion, confusion
from pneumonia.evaluation.predictions import FEW_PATIENTS, PredictionTable, check_threshold
from pneumonia.evaluation.threshold import OperatingPoint
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA, UNKNOWN_SUBTYPE

HALF = 0.5
AT_HALF = f"at_{HALF}/"
"""Prefix of the names of metrics at probability 0.5."""

_MORE_THAN_CHANCE = 0.025
_COARSE = 10  # distinct scores

Origin = Literal["validation", "site", "given", "default", "missing"]
"""Where a threshold comes from: the validation set, a site's images (`pneumonia calibrate`), the
user, or 0.5 because the table (`default`) or the checkpoint (`missing`) has none."""

ImageLoader = Callable[[str], NDArray[np.uint8]]


@dataclass(frozen=True)
class EvaluatedModel:
    """The model that made the predictions, as far as it is known."""

    name: str  # the file of the model or table
    data: str  # what it was tested on, in words
    is_checkpoint: bool = False  # of this project, rather than a table
    temperature: float | None = None  # probability = sigmoid(logit / temperature)
    operating_point: OperatingPoint | None = None  # None if not chosen on any images
    abstention: Abstention | None = None  # the uncertain probabilities around its threshold
    metadata: Mapping[str, Any] = field(default_factory=dict)  # plain nested values, or missing
    history: tuple[Mapping[str, Any], ...] = ()  # what each `pneumonia calibrate` replaced
    warnings: tuple[str, ...] = ()  # a sentence each

    def lookup(self, *keys: str) -> Any:
        """Look up a value in the metadata by nested keys; None where it was not recorded."""
        found: Any = self.metadata
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def section(self, *keys: str) -> Mapping[str, Any]:
        """Look up nested values in the metadata; empty where they were not recorded."""
        found = self.lookup(*keys)
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True, eq=False)
class ShortcutProbe:
    """AUROC on images that were changed in one way."""

    name: str  # the change, in a few words
    geometry: str  # exactly what was done
    auroc: Estimate
    picture: NDArray[np.uint8]  # a changed image, grey [H, W]


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What report, console, model card and logs show.

    `metrics` are by name without `test/`: plain names at the threshold, `at_0.5/...` at 0.5,
    `<subtype>/...` for the PNEUMONIA images of a subtype with all NORMAL images. With abstention
    also `coverage*`, the fraction of images that are not uncertain; `decided/*`, metrics of those
    images; `decided/false_*_patients`, the fraction of patients with a confident error, which
    alpha bounds.
    """

    model: EvaluatedModel
    table: PredictionTable
    threshold: float  # PNEUMONIA is predicted if probability >= threshold
    threshold_origin: Origin
    metrics: dict[str, Estimate]
    confusion: Confusion  # at the threshold
    notes: tuple[str, ...]  # caveats, a sentence each
    abstention: Abstention | None = None
    probes: tuple[ShortcutProbe, ...] = ()  # empty where the shortcut probe was not run
    load_image: ImageLoader | None = None  # the grey image of a path, uint8 [H, W]

    def values(self, prefix: str = "") -> dict[str, float]:
        """Return the defined metrics over all images at the threshold, as plain numbers."""
        return {
            f"{prefix}{name}": found.value
            for name, found in self.metrics.items()
            if "/" not in name and math.isfinite(found.value)
        }


def evaluate_predictions(
    table: PredictionTable,
    model: EvaluatedModel,
    threshold: float | None = None,
    *,
    probes: Sequence[ShortcutProbe] = (),
    load_image: ImageLoader | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> EvaluationResult:
    """Evaluate predictions.

    Args:
        table: The predictions.
        model: What made them.
        threshold: In [0, 1], and without the model's abstention, which belongs to its own
            threshold; None for the model's operating point, or else 0.5.
        probes: The shortcut probe.
        load_image: Returns the image of a path, for the gallery of errors.
        seed: Bootstrap seed.
        replicates: Number of bootstrap replicates.

    Raises:
        EvaluationError: If the threshold is outside [0, 1].
    """
    point, abstention = model.operating_point, None
    origin: Origin
    if threshold is not None:
        cut, origin = check_threshold(threshold), "given"
    elif point is not None:
        cut, origin = point.threshold, "site" if model.history else "validation"
        abstention = model.abstention
    else:
        cut, origin = HALF, "missing" if model.is_checkpoint else "default"
    weights = draw_patients(table, replicates, seed)
    metrics = _all_metrics(table, cut, weights) | {"threshold": Estimate.exact(cut, "given")}
    subtypes = np.array([]) if table.subtype is None else table.subtype[table.positive]
    for subtype in np.setdiff1d(subtypes, ["", UNKNOWN_SUBTYPE]):
        part = table.take(~table.positive | (table.subtype == subtype))
        of_subtype = _all_metrics(part, cut, draw_patients(part, replicates, seed))
        metrics |= {f"{subtype}/{name}": estimate for name, estimate in of_subtype.items()}
    notes = _notes(table)
    if min(metrics["auroc"].high, metrics["auroc_obuchowski"].high) < HALF:
        notes.insert(0, "Scores look inverted: are these probabilities of NORMAL?")
    if abstention is not None:
        metrics |= _selective_metrics(table, abstention, weights)
        for label in (NORMAL, PNEUMONIA):
            metrics |= _confident_errors(table, abstention, label, notes)
    return EvaluationResult(
        model=model,
        table=table,
        threshold=cut,
        threshold_origin=origin,
        metrics=metrics,
        confusion=confusion(table.label, table.probability >= cut),
        notes=tuple(notes),
        abstention=abstention,
        probes=tuple(probes),
        load_image=load_image,
    )


def _all_metrics(
    table: PredictionTable, threshold: float, weights: NDArray[np.int32]
) -> dict[str, Estimate]:
    """Compute the metrics of one set of images at both thresholds, and their counts."""
    found = estimate_metrics(table, {"": threshold, AT_HALF: HALF}, weights)
    found["auroc_obuchowski"] = auroc_estimate(table)
    n_negative, n_positive = table.class_patients
    counts = {
        "n": len(table),
        "n_positive": int(table.positive.sum()),
        "n_patients": table.n_patients,
        "n_patients_positive": n_positive,
        "n_patients_negative": n_negative,
    }
    return found | {name: Estimate.exact(count, "count") for name, count in counts.items()}


def _notes(table: PredictionTable) -> list[str]:
    notes = []
    if table.patient is None:
        notes.append(
            "Patients are unknown: each image counts as one patient, and intervals are too narrow"
            " if patients have several images."
        )
    for label in (NORMAL, PNEUMONIA):
        count = table.class_patients[label]
        if count < FEW_PATIENTS:
            notes.append(
                f"Only {count} {CLASSES[label]} {table.unit}s, fewer than {FEW_PATIENTS}: bootstrap"
                " intervals are too narrow."
            )
    if mixed := table.mixed_patients.size:
        notes.append(
            f"{mixed} patients have images of both classes: all patients are resampled together."
            " Check that no key is shared by several patients."
        )
    values = np.unique(table.scores).size
    if values <= min(_COARSE, len(table) - 1):
        notes.append(
            f"Distinct scores: only {values}. AUROC, average precision and calibration are coarse."
        )
    return notes


def _selective_metrics(
    table: PredictionTable, abstention: Abstention, weights: NDArray[np.int32]
) -> dict[str, Estimate]:
    truth, decided = table.positive, ~abstention.uncertain(table.probability)
    correct = decided & (truth == (table.probability >= abstention.upper))
    fractions = {
        "coverage": (decided, np.ones_like(decided)),
        "coverage_positive": (decided & truth, truth),
        "coverage_negative": (decided & ~truth, ~truth),
        "decided/sensitivity": (correct & truth, decided & truth),
        "decided/specificity": (correct & ~truth, decided & ~truth),
        "decided/accuracy": (correct, decided),
    }
    found = {name: _fraction(table, *images, weights) for name, images in fractions.items()}
    given = {
        "alpha": abstention.alpha,
        "uncertain_from": abstention.lower,
        "uncertain_below": abstention.upper,
    }
    found |= {name: Estimate.exact(number, "given") for name, number in given.items()}
    return found | {"n_decided": Estimate.exact(int(decided.sum()), "count")}


def _confident_errors(
    table: PredictionTable, abstention: Abstention, label: int, notes: list[str]
) -> dict[str, Estimate]:
    """Count the patients of a class with a confident error, and note if alpha is exceeded.

    If the guarantee holds, with k = floor(alpha * (n + 1)) the errors among m further patients
    follow a beta-binomial distribution of m, k and n + 1 - k (Angelopoulos and Bates, Foundations
    and Trends in Machine Learning 16 (2023), 494).
    """
    p, m = table.probability, table.class_patients[label]
    if label == PNEUMONIA:
        kind, n = "false_negative", abstention.n_patients_positive
        images = table.positive & (p < abstention.lower)
    else:
        kind, n = "false_positive", abstention.n_patients_negative
        images = ~table.positive & (p >= abstention.upper)
    wrong = table.patients_with(images).size
    if wrong > abstention.alpha * m:
        k = conformal_rank(abstention.alpha, n)
        chance = float(betabinom(m, k, n + 1 - k).sf(wrong - 1)) if k else 0.0
        verdict = (
            f"chance alone gives as many in {chance:.0%} of tests"
            if chance >= _MORE_THAN_CHANCE
            else "more than chance explains, so the guarantee does not hold for these patients"
        )
        notes.append(
            f"{wrong} of {m} {CLASSES[label]} {table.unit}s ({wrong / m:.1%}) have an image"
            f" confidently predicted as {CLASSES[1 - label]}, above alpha = {abstention.alpha:.3g}:"
            f" {verdict}."
        )
    ends = proportion_interval(wrong, m, "wilson")
    method = f"Wilson 1927 on {m} {table.unit}s{table.assumption}"
    return {f"decided/{kind}_patients": Estimate(wrong / m, *ends, method)}


def _fraction(
    table: PredictionTable,
    part: NDArray[np.bool_],
    whole: NDArray[np.bool_],
    weights: NDArray[np.int32],
) -> Estimate:
    """Estimate which fraction of some images has a property."""
    if not whole.any():
        return Estimate.without_interval(math.nan, "undefined, all such images are uncertain")
    value = float(part.sum() / whole.sum())
    if value in {0, 1}:  # as is every replicate
        return exact_proportion(table, value, whole)
    counted, of = (weights @ table.sum_by_patient(np.column_stack([part, whole]))).T
    replicates = np.full(len(weights), np.nan)
    np.divide(counted, of, out=replicates, where=of > 0)
    return bootstrap_estimate(table, value, replicates, table.patients_with(whole).size)
