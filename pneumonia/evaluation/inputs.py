"""What every figure is computed from, checked once: labels of two classes, finite scores."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA


def check_labels(labels: ArrayLike) -> NDArray[np.bool_]:
    """Check that labels are 0 or 1 and that both classes are there.

    Args:
        labels: Shape (n,), any numeric dtype, values 0 (NORMAL) or 1 (PNEUMONIA).

    Returns:
        Shape (n,), True where the image shows pneumonia.

    Raises:
        EvaluationError: If the array is empty, not of one dimension or not numeric, holds
            another value, or holds one class only.
    """
    array = _column(labels, "labels")
    wrong = (array != NORMAL) & (array != PNEUMONIA)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise EvaluationError(
            f"{wrong.sum()} of {array.size} labels are neither {NORMAL} ({CLASSES[NORMAL]}) nor "
            f"{PNEUMONIA} ({CLASSES[PNEUMONIA]}), the first is {array[first]} at index {first}; "
            "map your classes to these two numbers."
        )
    positive: NDArray[np.bool_] = array == PNEUMONIA
    if positive.all() or not positive.any():
        present, absent = (PNEUMONIA, NORMAL) if positive.all() else (NORMAL, PNEUMONIA)
        raise EvaluationError(
            f"Found {array.size} labels and all are {CLASSES[present]}: sensitivity, specificity "
            f"and AUROC need both classes; evaluate a split that holds {CLASSES[absent]} images "
            "too."
        )
    return positive


def check_scores(scores: ArrayLike, n: int, name: str = "scores") -> NDArray[np.float64]:
    """Check that there is one finite score per label.

    Args:
        scores: Shape (n,), any numeric dtype; higher means more like PNEUMONIA.
        n: The number of labels they stand beside.
        name: What the scores are, in the plural, for the message.

    Returns:
        Shape (n,), float64.

    Raises:
        EvaluationError: If the array is empty, not of one dimension or not numeric, is of another
            length than `n`, or holds NaN or an infinity.
    """
    array = _column(scores, name).astype(np.float64)
    if array.size != n:
        raise EvaluationError(
            f"Found {n} labels but {array.size} {name}; give one of each per image, in the same "
            "order."
        )
    wrong = ~np.isfinite(array)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise EvaluationError(
            f"{wrong.sum()} of {n} {name} are not finite, the first is {array[first]} at index "
            f"{first}; look for a diverged training or a broken image before evaluating."
        )
    return array


def check_probabilities(probabilities: ArrayLike, n: int) -> NDArray[np.float64]:
    """Check that there is one probability within [0, 1] per label.

    Args:
        probabilities: Shape (n,), any numeric dtype; the probability of PNEUMONIA.
        n: The number of labels they stand beside.

    Returns:
        Shape (n,), float64.

    Raises:
        EvaluationError: As `check_scores`, and if a value lies outside [0, 1].
    """
    array = check_scores(probabilities, n, "probabilities")
    wrong = (array < 0) | (array > 1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise EvaluationError(
            f"{wrong.sum()} of {n} probabilities lie outside 0 to 1, the first is {array[first]} "
            f"at index {first}; apply the sigmoid if these are logits."
        )
    return array


def check_threshold(threshold: float) -> float:
    """Check that a threshold on probabilities is within [0, 1].

    Args:
        threshold: PNEUMONIA means probability >= threshold.

    Returns:
        The threshold.

    Raises:
        EvaluationError: If it is NaN or outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise EvaluationError(
            f"The threshold is {threshold}, but it cuts probabilities: give a number from 0 to 1."
        )
    return float(threshold)


def check_patients(patients: ArrayLike, n: int) -> NDArray[np.intp]:
    """Check that there is one patient key per label, and number the patients.

    Args:
        patients: Shape (n,), text or numbers; equal keys are one patient.
        n: The number of labels they stand beside.

    Returns:
        Shape (n,): a number from 0 per image, the same for images of one patient.

    Raises:
        EvaluationError: If the array is not of one dimension or of another length than `n`, holds
            neither text nor numbers, or a key is empty or NaN.
    """
    keys = np.asarray(patients)
    if keys.shape != (n,):
        raise EvaluationError(
            f"Found {n} labels but patients of shape {keys.shape}; give one patient key per image, "
            "in the same order."
        )
    if keys.dtype.kind not in "iufU":
        raise EvaluationError(
            f"The patients are of type {keys.dtype}, the first is {keys[0]!r}; give text or "
            "numbers."
        )
    missing = ~np.isfinite(keys) if keys.dtype.kind == "f" else keys.astype(np.str_) == ""
    if missing.any():
        raise EvaluationError(
            f"{missing.sum()} of {n} images have no patient, the first is at index "
            f"{int(np.argmax(missing))}; give each image a patient key, or none at all."
        )
    numbers: NDArray[np.intp] = np.unique(keys, return_inverse=True)[1]
    return numbers


def _column(values: ArrayLike, name: str) -> NDArray[np.number]:
    """Check for a numeric, non-empty array of one dimension."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise EvaluationError(
            f"The {name} have shape {array.shape}; give one number per image, in one dimension."
        )
    if array.size == 0:
        raise EvaluationError(
            f"There are no {name} to evaluate: the array is empty; give images of both classes."
        )
    if array.dtype.kind not in "biuf":
        raise EvaluationError(
            f"The {name} are of type {array.dtype}, the first is {array[0]!r}; give numbers."
        )
    return array
