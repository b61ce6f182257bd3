"""The operating point: one threshold, chosen on the validation set before the test set is read."""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.metrics import metric_values
from pneumonia.evaluation.predictions import FEW_PATIENTS, PredictionTable, check_number
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

log = logging.getLogger(__name__)

Policy = Literal["sensitivity", "specificity", "youden", "cost", "fixed"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

_DEFAULT_TARGET = 0.95


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, how it was chosen, and the (optimistic) validation estimate there.

    Attributes:
        threshold: On the calibrated probability, in [0, 1]; at or above it,
            PNEUMONIA is predicted.
        policy: One of `POLICIES`.
        target: The target of the policy, see `check_policy`.
        n_positive: PNEUMONIA images of the validation set; `n_negative`: NORMAL images.
        n_patients_positive: Patients with a PNEUMONIA image; likewise `n_patients_negative`.
        sensitivity: On the validation set, at the threshold; likewise `specificity`.
        auroc: On the validation set.
        shifted_sensitivity: On the shifted validation sets, at the threshold, None without them;
            likewise `shifted_specificity` and `shifted_auroc`.
        on_shifted: Whether the threshold was chosen on the shifted images too.
    """

    threshold: float
    policy: str
    target: float | None
    n_positive: int
    n_negative: int
    n_patients_positive: int
    n_patients_negative: int
    sensitivity: float
    specificity: float
    auroc: float | None = None
    shifted_sensitivity: float | None = None
    shifted_specificity: float | None = None
    shifted_auroc: float | None = None
    on_shifted: bool = False

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Return plain values, for a checkpoint that loads with `weights_only=True`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OperatingPoint":
        """Undo `to_dict`.

        Raises:
            TypeError: If a value is missing or unknown.
            EvaluationError: If a value is out of range.
        """
        found = cls(**values)
        check_policy(found.policy, found.target)
        for name, value in asdict(found).items():
            optional = name == "auroc" or name.startswith("shifted_")
            unchecked = name in {"policy", "target", "on_shifted"} or (optional and value is None)
            if not unchecked:
                check_number(name, value, high=1e9 if name.startswith("n_") else 1)
        return found


def check_policy(policy: str, target: float | None = None) -> float | None:
    """Check that a policy exists and its target suits it.

    Args:
        policy: One of `POLICIES`.
        target: For `sensitivity` and `specificity` in (0, 1), by default 0.95; for `cost` how
            many false positives cost as much as one false negative; for `fixed` the threshold.

    Returns:
        The target, with its default.

    Raises:
        EvaluationError: If the policy is unknown or the target does not suit it.
    """
    if policy not in POLICIES:
        raise EvaluationError(
            f"operating_point: found {policy!r}, expected one of {', '.join(POLICIES)}."
        )
    if target is None and policy in {"sensitivity", "specificity"}:
        return _DEFAULT_TARGET
    t = math.nan if target is None else target
    valid, expected = {
        "sensitivity": (0 < t < 1, "a number between 0 and 1, both excluded"),
        "specificity": (0 < t < 1, "a number between 0 and 1, both excluded"),
        "youden": (target is None, "null"),
        "cost": (0 < t < math.inf, "the false positives that equal a false negative, above 0"),
        "fixed": (0 <= t <= 1, "the threshold, from 0 to 1"),
    }[policy]
    if not valid:
        raise EvaluationError(
            f"target: found {target} for the operating point {policy}, expected {expected}."
        )
    return target


def check_support(
    policy: str, target: float | None, images: tuple[int, int], patients: tuple[int, int]
) -> list[str]:
    """Check whether a validation set is large enough for a target.

    Args:
        policy: One of `POLICIES`.
        target: As for `check_policy`.
        images: NORMAL and PNEUMONIA images of the validation set.
        patients: Patients with NORMAL and with PNEUMONIA images.

    Returns:
        Warnings, a sentence each: fewer than `FEW_PATIENTS` patients in a class, or too few for a
        perfect result to confirm the target (one-sided Clopper-Pearson bound: 0.95 needs 59).

    Raises:
        EvaluationError: If a single error misses the target: 0.95 needs 20 images.
    """
    target = check_policy(policy, target)
    warnings = [
        f"The validation set has {n} {name} patients, fewer than {FEW_PATIENTS}: the estimate for"
        f" {name} images is imprecise."
        for name, n in zip(CLASSES, patients, strict=True)
        if n < FEW_PATIENTS
    ]
    if target is None or policy not in {"sensitivity", "specificity"}:
        return warnings
    label = PNEUMONIA if policy == "sensitivity" else NORMAL
    n, units = images[label], patients[label]
    if n == 0 or (n - 1) / n < target:
        needed = next(m for m in itertools.count(1) if (m - 1) / m >= target)
        raise EvaluationError(
            f"A {policy} of {target:g} needs at least {needed} {CLASSES[label]} images in the"
            f" validation set, found {n}. Enlarge the validation set, lower the target, or use the"
            " policy youden or fixed."
        )
    bound = 0.05 ** (1 / units)
    if bound < target:
        needed = math.ceil(math.log(0.05) / math.log(target))
        warnings.insert(
            0,
            f"{units} {CLASSES[label]} patients in the validation set cannot confirm a {policy} of"
            f" {target:g}, {needed} are needed: a perfect result would show {bound:.3f} (one-sided"
            " 95%).",
        )
    return warnings


def choose_threshold(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: ArrayLike | None = None,
    policy: str = "sensitivity",
    target: float | None = None,
    *,
    shifted: Sequence[ArrayLike] = (),
    on_shifted: bool = True,
    quiet: bool = False,
) -> OperatingPoint:
    """Choose the threshold on the validation set, among its probabilities.

    - `sensitivity`: the largest whose sensitivity reaches the target;
    - `specificity`: the smallest whose specificity reaches the target;
    - `youden`: the greatest sensitivity + specificity - 1 (Youden, Cancer 3, 1950);
    - `cost`: the least false negatives * ratio + false positives;
    - `fixed`: the target itself.

    Among equally good thresholds of youden or cost the smallest is taken, which misses least.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        probabilities: Shape (n,), in [0, 1], calibrated.
        patients: Shape (n,), text or whole numbers; without them each image counts as a patient.
        policy: One of `POLICIES`.
        target: As for `check_policy`.
        shifted: Probabilities of the same images under sets of changes, each of shape (n,).
        on_shifted: Whether these also choose the threshold, or are only evaluated at it.
        quiet: Log no warnings.

    Raises:
        EvaluationError: If an array is invalid, the target does not suit the policy, or the
            validation set cannot support it.
    """
    table = PredictionTable(
        label=np.asarray(labels),
        probability=np.asarray(probabilities),
        patient=None if patients is None else np.asarray(patients),
    )
    changed, pooled = None, table
    if shifted:
        changed = _pooled(table, shifted)
        pooled = _pooled(table, [table.probability, *shifted]) if on_shifted else table
    target = check_policy(policy, target)
    n_negative, n_positive = np.bincount(table.label).tolist()
    patients_negative, patients_positive = table.class_patients
    warnings = check_support(policy, target, (n_negative, n_positive), table.class_patients)
    threshold = _best_threshold(pooled, policy, target)
    sensitivity, specificity, auroc = _performance(table, threshold)
    if sensitivity + specificity <= 1:
        warnings.append(
            f"At the threshold {threshold:.3g} the validation set has sensitivity {sensitivity:.3f}"
            f" and specificity {specificity:.3f}: no better than chance."
        )
    reached = {"sensitivity": sensitivity, "specificity": specificity}.get(policy, 1.0)
    if pooled is not table and target is not None and reached < target:
        warnings.append(
            f"The target {policy} of {target:g} holds for clean and shifted validation images"
            f" together; of the clean ones alone it is {reached:.3f}."
        )
    for warning in () if quiet else warnings:
        log.warning(warning)
    point = OperatingPoint(
        threshold,
        policy,
        target,
        n_positive,
        n_negative,
        patients_positive,
        patients_negative,
        sensitivity,
        specificity,
        auroc,
        on_shifted=pooled is not table,
    )
    if changed is None:
        return point
    sensitivity, specificity, auroc = _performance(changed, threshold)
    return replace(
        point,
        shifted_sensitivity=sensitivity,
        shifted_specificity=specificity,
        shifted_auroc=auroc,
    )


def _pooled(table: PredictionTable, probabilities: Sequence[ArrayLike]) -> PredictionTable:
    """The images of a table once for each set of probabilities."""
    return PredictionTable(
        label=np.tile(table.label, len(probabilities)), probability=np.concatenate(probabilities)
    )


def _performance(table: PredictionTable, threshold: float) -> tuple[float, float, float]:
    values = metric_values(table, {"": threshold})
    return values["recall"], values["specificity"], values["auroc"]


def _best_threshold(table: PredictionTable, policy: str, target: float | None) -> float:
    positive = np.sort(table.probability[table.positive])
    negative = np.sort(table.probability[~table.positive])
    thresholds = np.unique(table.probability)[::-1]
    tp = positive.size - np.searchsorted(positive, thresholds, "left")
    tn = np.searchsorted(negative, thresholds, "left")
    sensitivity, specificity = tp / positive.size, tn / negative.size
    if target is None:
        return float(thresholds[_last_maximum(sensitivity + specificity)])
    if policy == "fixed":
        return float(target)
    if policy == "cost":
        return float(thresholds[_last_maximum(target * tp + tn)])
    if policy == "sensitivity":
        return float(thresholds[np.argmax(sensitivity >= target)])
    reaching = np.flatnonzero(specificity >= target)
    if not reaching.size:
        raise EvaluationError(
            f"No threshold reaches a specificity of {target:g} on the validation set:"
            f" {negative.size - int(tn[0])} of {negative.size} NORMAL images have its highest"
            f" probability, {thresholds[0]:.3g}. Check for a diverged or constant model."
        )
    return float(thresholds[reaching[-1]])


def _last_maximum(values: NDArray[np.floating[Any]]) -> int:
    return int(np.flatnonzero(values >= values.max() - 1e-12)[-1])
