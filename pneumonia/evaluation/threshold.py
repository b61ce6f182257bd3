"""The one threshold a model is used at, chosen on the hold-out before any test was seen.

What a hold-out can support
---------------------------
*Refused* is a target that no image may miss. Of m images sensitivity goes in steps of 1 / m; if
already one error brings it below the target, (m - 1) / m < target, the "target" is perfection on
this sample and the threshold is the score of one image: 0.95 needs 20 PNEUMONIA images.

*Warned of* is a target that the patients could not confirm. Were all m patients of the class
called right, the one-sided 95% Clopper-Pearson bound would be 0.05^(1 / m); below the target, not
even a perfect result shows that it is reached: 0.95 needs 59 PNEUMONIA patients. Warned of are
also fewer than 30 patients in either class (`predictions.FEW_PATIENTS`), as what the point
promises of that class is then nearly unknown, and a point that tells images apart no
better than chance.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.metrics import roc
from pneumonia.evaluation.predictions import FEW_PATIENTS, Sample
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

log = logging.getLogger(__name__)

Policy = Literal["sensitivity", "specificity", "youden", "cost", "fixed"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

_DEFAULT_TARGET = 0.95
_MANY = 1e9
"""More images than there are, and a cost ratio beyond any."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, why it is that, and what the hold-out gave there. PNEUMONIA is >= threshold.

    The figures were seen on the images that chose the threshold: a promise, not a test.

    Attributes:
        threshold: On the calibrated probability, in [0, 1].
        policy: One of `POLICIES`.
        target: The sensitivity or specificity asked for, the cost ratio, or the fixed threshold;
            None for youden.
        n_positive: PNEUMONIA images of the hold-out.
        n_negative: NORMAL images.
        n_patients_positive: Patients with a PNEUMONIA image.
        n_patients_negative: Patients with a NORMAL image.
        sensitivity: Of the hold-out, at the threshold.
        specificity: Likewise.
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

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Give plain numbers and text, for a checkpoint loadable with `weights_only=True`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OperatingPoint":
        """Undo `to_dict`.

        Args:
            values: What `to_dict` gave.

        Raises:
            EvaluationError: If a value is missing, unknown or out of its range.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise EvaluationError(
                f"An operating point has {', '.join(sorted(names))}, and found "
                f"{', '.join(sorted(map(str, values))) or 'nothing'}; use a checkpoint of this "
                "version."
            )
        found = cls(**values)
        shares = (found.threshold, found.sensitivity, found.specificity)
        counts = (found.n_positive, found.n_negative)
        patients = (found.n_patients_positive, found.n_patients_negative)
        sound = (
            found.policy in POLICIES
            and all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares)
            and all(isinstance(count, int) and 0 <= count < _MANY for count in (*counts, *patients))
            and (
                found.target is None
                or (isinstance(found.target, int | float) and 0 <= found.target < _MANY)
            )
        )
        if not sound:
            raise EvaluationError(
                f"{found} is no operating point: the policy is one of {', '.join(POLICIES)}, and "
                "threshold, sensitivity and specificity lie from 0 to 1, the target is a number or "
                "none, and the others count."
            )
        return found


def check_policy(policy: str, target: float | None = None) -> float | None:
    """Check that a policy exists and that its target suits it, before anything is trained.

    Args:
        policy: One of `POLICIES`.
        target: For `sensitivity` and `specificity` in (0, 1), by default 0.95; for `cost` how
            many false alarms are as bad as one missed pneumonia, above 0; for `fixed` the
            threshold, in [0, 1]; for `youden` None.

    Returns:
        The target, with its default.

    Raises:
        EvaluationError: If there is no such policy, or its target is missing, senseless or would
            be ignored.
    """
    if policy not in POLICIES:
        raise EvaluationError(
            f"Found the operating point policy {policy!r}, expected one of {', '.join(POLICIES)}."
        )
    if target is None and policy in {"sensitivity", "specificity"}:
        return _DEFAULT_TARGET
    right, expected = {
        "sensitivity": (_within(target, 0, 1), "a sensitivity between 0 and 1, both excluded"),
        "specificity": (_within(target, 0, 1), "a specificity between 0 and 1, both excluded"),
        "youden": (target is None, "none (null)"),
        "cost": (
            _within(target, 0, math.inf),
            "how many false alarms are as bad as one missed pneumonia, above 0",
        ),
        "fixed": (target in {0, 1} or _within(target, 0, 1), "the threshold, from 0 to 1"),
    }[policy]
    if not right:
        raise EvaluationError(
            f"Found the target {target} for the operating point policy {policy}, expected "
            f"{expected}."
        )
    return target


def check_support(
    policy: str,
    target: float | None,
    images: tuple[int, int],
    patients: tuple[int, int],
) -> list[str]:
    """Check that a hold-out can support a target: needs its counts only, so can precede training.

    The rule stands at the head of this module.

    Args:
        policy: One of `POLICIES`.
        target: As for `check_policy`.
        images: NORMAL and PNEUMONIA images of the hold-out.
        patients: Patients with NORMAL and with PNEUMONIA images.

    Returns:
        What to warn of, a sentence each.

    Raises:
        EvaluationError: If the hold-out cannot support the target, with the numbers.
    """
    target = check_policy(policy, target)
    warnings = [
        f"The hold-out has {patients[label]} {CLASSES[label]} patients, fewer than {FEW_PATIENTS}: "
        f"what the operating point promises of {CLASSES[label]} images is hardly known."
        for label in (NORMAL, PNEUMONIA)
        if patients[label] < FEW_PATIENTS
    ]
    if target is None or policy not in {"sensitivity", "specificity"}:
        return warnings
    label = PNEUMONIA if policy == "sensitivity" else NORMAL
    n, units = images[label], patients[label]
    if n == 0 or (n - 1) / n < target:
        least = next(m for m in range(1, 10**9) if (m - 1) / m >= target)
        raise EvaluationError(
            f"A {policy} of {target:g} cannot be set with {n} {CLASSES[label]} images in the "
            f"hold-out: one error gives {max(0, n - 1) / max(1, n):.3f}, and the threshold would "
            f"be the score of a single image; it needs at least {least}. Enlarge the hold-out, "
            "lower the target or take the policy youden or fixed."
        )
    bound = 0.05 ** (1 / units)
    if bound < target:
        warnings.insert(
            0,
            f"The hold-out's {units} {CLASSES[label]} patients cannot confirm a {policy} of "
            f"{target:g}: even a perfect result would only show {bound:.3f} (one-sided 95%); "
            f"{math.ceil(math.log(0.05) / math.log(target))} patients would be needed.",
        )
    return warnings


def choose_threshold(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: ArrayLike | None = None,
    policy: str = "sensitivity",
    target: float | None = None,
    *,
    quiet: bool = False,
) -> OperatingPoint:
    """Choose the threshold on a hold-out.

    Thresholds are probabilities that the hold-out gave:

    - `sensitivity`: the largest whose sensitivity reaches the target;
    - `specificity`: the smallest whose specificity reaches the target;
    - `youden`: the one of greatest sensitivity + specificity - 1 (Youden, Cancer 3, 1950);
    - `cost`: the one of least (misses * ratio + false alarms), at the hold-out's share of sick;
    - `fixed`: the target itself.

    Where youden or cost find several equal, the smallest, which misses least, is taken.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        probabilities: Shape (n,), in [0, 1], calibrated.
        patients: Shape (n,), text or numbers; without them each image counts as a patient.
        policy: One of `POLICIES`.
        target: As for `check_policy`.
        quiet: Log no warnings, for a point that is only watched.

    Returns:
        The point. What a hold-out supports badly is logged as a warning, with the numbers.

    Raises:
        EvaluationError: If an array is not as said, the target does not suit the policy, or the
            hold-out cannot support it.
    """
    sample = Sample.of(labels, probabilities, patients)
    target = check_policy(policy, target)
    n_positive = int(sample.labels.sum())
    n_negative = len(sample) - n_positive
    n_patients = sample.class_patients
    warnings = check_support(policy, target, (n_negative, n_positive), n_patients)
    threshold = _threshold(sample, policy, target)
    called = sample.probabilities >= threshold
    sensitivity = int((called & sample.labels).sum()) / n_positive
    specificity = int((~called & ~sample.labels).sum()) / n_negative
    if sensitivity + specificity <= 1:
        warnings.append(
            f"At the threshold {threshold:.3g} the hold-out's sensitivity is {sensitivity:.3f} and "
            f"its specificity {specificity:.3f}: no better than chance."
        )
    for warning in () if quiet else warnings:
        log.warning(warning)
    return OperatingPoint(
        threshold=threshold,
        policy=policy,
        target=target,
        n_positive=n_positive,
        n_negative=n_negative,
        n_patients_positive=n_patients[1],
        n_patients_negative=n_patients[0],
        sensitivity=sensitivity,
        specificity=specificity,
    )


def _threshold(sample: Sample, policy: str, target: float | None) -> float:
    n_positive = int(sample.labels.sum())
    n_negative = len(sample) - n_positive
    curve = roc(sample.labels, sample.probabilities)
    thresholds = curve.thresholds[1:]  # falling; the first, infinite, calls no image PNEUMONIA
    tp = np.rint(curve.true_positive_rate[1:] * n_positive)
    tn = n_negative - np.rint(curve.false_positive_rate[1:] * n_negative)
    if target is None:
        return float(thresholds[_last_of_greatest(tp / n_positive + tn / n_negative)])
    if policy == "fixed":
        return float(target)
    if policy == "cost":
        return float(thresholds[_last_of_greatest(target * tp + tn)])
    if policy == "sensitivity":
        return float(thresholds[np.argmax(tp / n_positive >= target)])
    reaching = np.flatnonzero(tn / n_negative >= target)
    if not reaching.size:
        raise EvaluationError(
            f"No threshold reaches a specificity of {target:g} on the hold-out: "
            f"{n_negative - int(tn[0])} of {n_negative} NORMAL images have its highest "
            f"probability, {thresholds[0]:.3g}; look for a diverged or constant model."
        )
    return float(thresholds[reaching[-1]])


def _last_of_greatest(values: NDArray[np.float64]) -> int:
    return int(np.flatnonzero(values >= values.max() - 1e-12)[-1])


def _within(number: float | None, low: float, high: float) -> bool:
    return number is not None and low < number < high
