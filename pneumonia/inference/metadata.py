"""Read what a checkpoint holds besides weights: preprocessing, calibration, thresholds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.data.image_io import Preprocessing
from pneumonia.errors import DAMAGED, CheckpointError, ConfigError, EvaluationError
from pneumonia.evaluation.abstention import Abstention
from pneumonia.evaluation.threshold import OperatingPoint

T = TypeVar("T")


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logistic function without overflow; `scipy.special.expit` would slow down start-up.

    Args:
        logits: Any shape.
    """
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1 / (1 + small), small / (1 + small)))


@dataclass(frozen=True)
class Calibration:
    """Turns logits into probabilities: sigmoid(logit / temperature + offset).

    Attributes:
        temperature: Positive and finite; 1 leaves logits unchanged.
        offset: Log odds that are added; not 0 if the model was recalibrated to another prevalence.

    Raises:
        ValueError: If a value is out of its range.
    """

    temperature: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.temperature < np.inf and np.isfinite(self.offset)):
            raise ValueError(f"temperature {self.temperature}, offset {self.offset}")

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Give calibrated probabilities of PNEUMONIA.

        Args:
            logits: Any shape, finite.
        """
        return sigmoid(np.asarray(logits, np.float64) / self.temperature + self.offset)


def read_preprocessing(checkpoint: Mapping[str, Any], name: str | Path) -> Preprocessing:
    """Read how an image becomes the input of the network.

    Args:
        checkpoint: Content of a checkpoint.
        name: The file, for messages.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    return _parse(checkpoint.get("hyper_parameters"), "hyper_parameters", _preprocessing, name)


def read_calibration(checkpoint: Mapping[str, Any], name: str | Path) -> Calibration | None:
    """Read the calibration; None if the checkpoint was not finalized.

    Args:
        checkpoint: Content of a checkpoint.
        name: The file, for messages.

    Raises:
        CheckpointError: If it is damaged.
    """
    return _optional(checkpoint, "calibration", _calibration, name)


def read_operating_point(checkpoint: Mapping[str, Any], name: str | Path) -> OperatingPoint | None:
    """Read the operating point; None if the checkpoint was not finalized.

    Args:
        checkpoint: Content of a checkpoint.
        name: The file, for messages.

    Raises:
        CheckpointError: If it is damaged.
    """
    return _optional(checkpoint, "operating_point", OperatingPoint.from_dict, name)


def read_abstention(checkpoint: Mapping[str, Any], name: str | Path) -> Abstention | None:
    """Read the abstention interval; None if the checkpoint has none.

    Args:
        checkpoint: Content of a checkpoint.
        name: The file, for messages.

    Raises:
        CheckpointError: If it is damaged.
    """
    return _optional(checkpoint, "abstention", Abstention.from_dict, name)


def read_ood_threshold(checkpoint: Mapping[str, Any], name: str | Path) -> float | None:
    """Read the OOD score above which an image is out-of-distribution; None without a detector.

    Args:
        checkpoint: Content of a checkpoint.
        name: The file, for messages.

    Raises:
        CheckpointError: If it is damaged.
    """
    return _optional(checkpoint, "ood_threshold", _finite, name)


def _preprocessing(settings: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(settings["image_size"], settings["resize_mode"], settings["interpolation"])


def _calibration(values: Mapping[str, Any]) -> Calibration:
    return Calibration(float(values["temperature"]), float(values.get("offset", 0.0)))


def _finite(value: Any) -> float:
    if not isinstance(value, float) or not np.isfinite(value):
        raise ValueError(f"found {value!r}, expected a finite number")
    return value


def _optional(
    checkpoint: Mapping[str, Any], key: str, parse: Callable[[Any], T], name: str | Path
) -> T | None:
    values = checkpoint.get(key)
    return None if values is None else _parse(values, key, parse, name)


def _parse(values: Any, key: str, parse: Callable[[Any], T], name: str | Path) -> T:
    try:
        return parse(values)
    except (ConfigError, EvaluationError, *DAMAGED) as error:
        raise CheckpointError(
            f"{name}: the entry '{key}' is missing or damaged ({error}). Use best.ckpt of a run."
        ) from error
