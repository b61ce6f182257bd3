"""Results of inference, and the interface of the backends that run a network."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pneumonia.errors import CheckpointError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ModelOutput:
    """Output for a batch: raw logits, float64 [N]; OOD scores, float64 [N], or None.

    Raises:
        CheckpointError: If a logit is not finite: NaN would compare as below any threshold.
    """

    logits: NDArray[np.float64]
    ood_score: NDArray[np.float64] | None

    def __post_init__(self) -> None:
        if not np.isfinite(self.logits).all():
            raise CheckpointError(
                "The model's output is not a finite number: its weights are damaged or its"
                " training diverged. Use another checkpoint."
            )


class Backend(Protocol):
    """Runs a network, with torch or with ONNX Runtime."""

    def __call__(self, images: Pixels) -> ModelOutput:
        """Run the network on a batch of preprocessed images, uint8 [N, S, S], N at least 1."""
        ...


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        path: The file; `image 1`, `image 2`, ... for images that were not given by path.
        probability: Of PNEUMONIA, calibrated, in [0, 1].
        predicted_class: `PNEUMONIA` if the probability is at least the threshold, else `NORMAL`.
        uncertain: Whether the probability lies in the abstention interval; None if the model
            has none.
        is_ood: Whether the image is out-of-distribution, so that the prediction should not be
            used; None if the model has no OOD detector.
        ood_score: Score of the OOD detector, higher for images less similar to the validation
            images; None if the model has no OOD detector.
        warnings: Problems with the quality of the image.
    """

    path: str
    probability: float
    predicted_class: str
    uncertain: bool | None
    is_ood: bool | None
    ood_score: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class FailedPrediction:
    """An image that could not be read, and the reason in one sentence."""

    path: str
    error: str
