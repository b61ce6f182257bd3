"""What every way to run a model has in common."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pneumonia.errors import CheckpointError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Answers:
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


class Engine(Protocol):
    """A model that can be asked, whatever runs it."""

    def __call__(self, images: Pixels) -> Answers:
        """Ask the model.

        Args:
            images: uint8 [N, S, S], preprocessed; N at least 1.
        """
        ...
