"""What a model says of one image: a probability, a decision, and what to doubt."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pneumonia.errors import CheckpointError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ModelOutput:
    """What a model says of a batch.

    Attributes:
        logits: float64 [N], raw, finite.
        unlikeness: float64 [N], the detector's score, higher for images less like those of the
            training; None if the model has no detector.
    """

    logits: NDArray[np.float64]
    unlikeness: NDArray[np.float64] | None

    def __post_init__(self) -> None:
        """Refuse what is no answer, since NaN is below any threshold.

        Raises:
            CheckpointError: If a logit is not finite.
        """
        if not np.isfinite(self.logits).all():
            raise CheckpointError(
                "The model gives no number for an image: its weights are damaged or come from a"
                " training that diverged; name another model."
            )


class Backend(Protocol):
    """A model that can be asked, whatever runs it."""

    def __call__(self, images: Pixels) -> ModelOutput:
        """Ask the model.

        Args:
            images: uint8 [N, S, S], preprocessed; N at least 1.
        """
        ...


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        path: The file; `image 1`, `image 2`, ... for what came without a name.
        probability: Of PNEUMONIA, calibrated, in [0, 1].
        decision: `PNEUMONIA` from the model's threshold up, or else `NORMAL`.
        uncertain: Whether the probability lies in the band in which the model abstains; None if
            the model has no such band.
        unlike: Whether the image is unlike those of the training, so that the rest is not to be
            used; None if the model has no detector.
        unlikeness: The detector's score, higher for images less alike; None likewise.
        warnings: What is wrong with the image, in words.
    """

    path: str
    probability: float
    decision: str
    uncertain: bool | None
    unlike: bool | None
    unlikeness: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class FailedPrediction:
    """An image for which there is no answer.

    Attributes:
        path: The file.
        error: Why, in a sentence.
    """

    path: str
    error: str
