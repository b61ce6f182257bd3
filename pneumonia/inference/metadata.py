"""What a checkpoint holds besides weights: preprocessing, calibration, thresholds."""

from collections.abc import Callable, Mapping
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

SETTINGS = ("backbone", "image_size", "resize_mode", "interpolation", "tta")
"""Hyperparameters of preprocessing and network; checkpoints of earlier versions lack `tta`."""


@dataclass(frozen=True)
class Calibration:
    """Turns logits into probabilities: sigmoid(logit / temperature).

    Attributes:
        temperature: Positive and finite; 1 leaves logits unchanged.

    Raises:
        ValueError: If the temperature is not positive and finite.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < np.inf:
            raise ValueError(f"temperature {self.temperature}")

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Give calibrated probabilities of PNEUMONIA.

        Args:
            logits: Any shape, finite.
        """
        return sigmoid(np.asarray(logits, np.float64) / self.temperature)


@dataclass(frozen=True, eq=False)
class ModelMetadata:
    """The content of a checkpoint without its weights, checked.

    Attributes:
        checkpoint: The content itself: plain values.
        preprocessing: How an image becomes the input of the network.
        calibration: None if the checkpoint was not finalized.
        operating_point: None if the checkpoint was not finalized.
        abstention: The interval of uncertain probabilities; None if the checkpoint has none.
        ood_threshold: OOD score above which an image is out-of-distribution; None if the
            checkpoint has no OOD detector.
    """

    checkpoint: Mapping[str, Any]
    preprocessing: Preprocessing
    calibration: Calibration | None
    operating_point: OperatingPoint | None
    abstention: Abstention | None
    ood_threshold: float | None

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any], name: str | Path) -> "ModelMetadata":
        """Read the metadata of a checkpoint.

        Args:
            checkpoint: Its content.
            name: The file, for messages.

        Raises:
            CheckpointError: If an entry is damaged; the message names it.
        """

        def parse(key: str, parser: Callable[[Any], Any], required: bool = False) -> Any:
            value = checkpoint.get(key)
            if value is None and not required:
                return None
            try:
                return parser(value)
            except (ConfigError, EvaluationError, *DAMAGED) as error:
                raise CheckpointError(
                    f"{name}: the entry '{key}' is missing or damaged ({error}). Use best.ckpt of"
                    " a run."
                ) from error

        return ModelMetadata(
            checkpoint,
            preprocessing=parse("hyper_parameters", _preprocessing, required=True),
            calibration=parse("calibration", lambda values: Calibration(**values)),
            operating_point=parse("operating_point", OperatingPoint.from_dict),
            abstention=parse("abstention", Abstention.from_dict),
            ood_threshold=parse("ood_threshold", _finite),
        )


def _preprocessing(settings: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(settings["image_size"], settings["resize_mode"], settings["interpolation"])


def _finite(value: Any) -> float:
    if not isinstance(value, float) or not np.isfinite(value):
        raise ValueError(f"found {value!r}, expected a finite number")
    return value
