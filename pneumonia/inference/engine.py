"""What every way to run a model has in common."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Answers:
    """What a model says of a batch.

    Attributes:
        logits: float64 [N], raw.
        unlikeness: float64 [N], the detector's score, higher for images less like those of the
            training; None if the model has no detector.
    """

    logits: NDArray[np.float64]
    unlikeness: NDArray[np.float64] | None


class Engine(Protocol):
    """A model that can be asked, whatever runs it."""

    def __call__(self, images: Pixels) -> Answers:
        """Ask the model.

        Args:
            images: uint8 [N, S, S], preprocessed; N at least 1.
        """
        ...
