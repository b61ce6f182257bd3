"""What a model file froze beside its weights: preprocessing, calibration, operating point."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.data.image_io import Preprocessing
from pneumonia.errors import DAMAGED, CheckpointError, ConfigError, EvaluationError
from pneumonia.evaluation.abstention import Abstention
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.threshold import OperatingPoint


@dataclass(frozen=True)
class Calibration:
    """What makes a logit a probability: sigmoid(logit / temperature + offset).

    Attributes:
        temperature: Above 0; 1 leaves logits as they are.
        offset: Added log odds; 0 unless the model was moved to another prevalence.
    """

    temperature: float = 1.0
    offset: float = 0.0

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Give probabilities of PNEUMONIA.

        Args:
            logits: Any shape, finite.
        """
        return sigmoid(np.asarray(logits, np.float64) / self.temperature + self.offset)


def read_preprocessing(checkpoint: Mapping[str, Any], name: str | Path) -> Preprocessing:
    """Read how an image becomes the model's input.

    Args:
        checkpoint: Content of a model file.
        name: What to call it in a message.

    Raises:
        CheckpointError: If it does not say, or is damaged.
    """
    settings = checkpoint.get("hyper_parameters", {})
    try:
        return Preprocessing(
            settings["image_size"], settings["resize_mode"], settings["interpolation"]
        )
    except (ConfigError, *DAMAGED) as error:
        raise CheckpointError(
            f"{name} does not say how an image becomes the model's input ({error}); name the"
            " best.ckpt of a run."
        ) from error


def read_calibration(checkpoint: Mapping[str, Any], name: str | Path) -> Calibration | None:
    """Read the calibration of a checkpoint.

    Args:
        checkpoint: Its content.
        name: What to call it in a message.

    Returns:
        None if the checkpoint is older than calibration.

    Raises:
        CheckpointError: If it is damaged.
    """
    values = checkpoint.get("calibration")
    if values is None:
        return None
    try:
        found = Calibration(float(values["temperature"]), float(values.get("offset", 0.0)))
    except DAMAGED as error:
        raise CheckpointError(
            f"{name} holds a calibration without a temperature; name the best.ckpt of a run."
        ) from error
    if not (0 < found.temperature < np.inf and np.isfinite(found.offset)):
        raise CheckpointError(
            f"{name} holds the temperature {found.temperature} and offset {found.offset}, expected"
            " finite numbers, the temperature above 0; name the best.ckpt of a run."
        )
    return found


def read_operating_point(checkpoint: Mapping[str, Any], name: str | Path) -> OperatingPoint | None:
    """Read the operating point of a checkpoint.

    Args:
        checkpoint: Its content.
        name: What to call it in a message.

    Returns:
        None if the checkpoint is older than operating points.

    Raises:
        CheckpointError: If it is damaged.
    """
    values = checkpoint.get("operating_point")
    if values is None:
        return None
    try:
        return OperatingPoint.from_dict(values)
    except (EvaluationError, *DAMAGED) as error:
        raise CheckpointError(f"{name} holds a damaged operating point: {error}") from error


def read_abstention(checkpoint: Mapping[str, Any], name: str | Path) -> Abstention | None:
    """Read the band of a checkpoint in which images are left undecided.

    Args:
        checkpoint: Its content.
        name: What to call it in a message.

    Returns:
        None if the checkpoint is older than abstention.

    Raises:
        CheckpointError: If it is damaged.
    """
    values = checkpoint.get("abstention")
    if values is None:
        return None
    try:
        return Abstention.from_dict(values)
    except (EvaluationError, *DAMAGED) as error:
        raise CheckpointError(f"{name} holds a damaged band of abstention: {error}") from error


def read_ood_threshold(checkpoint: Mapping[str, Any], name: str | Path) -> float | None:
    """Read the detector's score above which an image is unlike those of the training.

    Args:
        checkpoint: Content of a model file.
        name: What to call it in a message.

    Returns:
        None if the checkpoint is older than the detector.

    Raises:
        CheckpointError: If it is damaged.
    """
    value = checkpoint.get("ood_threshold")
    if value is None:
        return None
    if not isinstance(value, float) or not np.isfinite(value):
        raise CheckpointError(
            f"{name} has ood_threshold {value!r}, expected a finite number; name the best.ckpt of"
            " a run."
        )
    return value
