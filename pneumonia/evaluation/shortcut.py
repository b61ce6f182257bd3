"""The shortcut probe's result: what a model still knows when the lungs are gone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pneumonia.evaluation.intervals import Estimate

MEANING = (
    "A high AUROC without the lungs shows that the model can use a shortcut; a low one proves"
    " nothing."
)


@dataclass(frozen=True, eq=False)
class Probe:
    """AUROC on images changed in one way.

    Attributes:
        name: The change, in a few words.
        geometry: Exactly what was done.
        auroc: Of the changed images, with its interval.
        picture: One of them, grey uint8 [H, W]; None for what is no image.
    """

    name: str
    geometry: str
    auroc: Estimate
    picture: NDArray[np.uint8] | None = None
