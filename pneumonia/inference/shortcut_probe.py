"""Shortcut probe: AUROC with the lungs masked.

A classifier that keeps its AUROC without the lungs relies on borders or positioning.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.manifest import Manifest
from pneumonia.evaluation.confidence import Estimate, auroc_estimate
from pneumonia.evaluation.evaluate import ShortcutProbe
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.types import Pixels

BORDER = 0.1
"""Fraction of the side at every edge that is outside the lungs on nearly all Kaggle images."""

BLUR = 8


def mask_lungs(pixels: Pixels) -> Pixels:
    """Set the lung field to 0: uint8 [S, S] to the same."""
    edge = round(BORDER * len(pixels))
    changed = pixels.copy()
    changed[edge:-edge, edge:-edge] = 0
    return changed


def keep_lungs(pixels: Pixels) -> Pixels:
    """Set everything outside the lung field to 0: uint8 [S, S] to the same."""
    return pixels - mask_lungs(pixels)


def blur(pixels: Pixels) -> Pixels:
    """Keep 1/8 of the resolution: uint8 [S, S] to the same."""
    side = len(pixels)
    small = Image.fromarray(pixels).resize((-(-side // BLUR),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.BILINEAR))


_MIDDLE = f"the middle {1 - 2 * BORDER:.0%} of width and height"
TRANSFORMS: dict[str, tuple[str, Callable[[Pixels], Pixels]]] = {
    "lung field masked": (f"{_MIDDLE} set to 0", mask_lungs),
    "lung field only": (f"everything but {_MIDDLE} set to 0", keep_lungs),
    "blurred": (f"reduced to 1/{BLUR} of the resolution and enlarged again", blur),
}
"""Name -> what exactly is done, and the function that does it."""


def probe_shortcuts(
    model: Predictor, samples: Manifest, logits: NDArray[np.float64]
) -> list[ShortcutProbe]:
    """Measure the AUROC on transformed images.

    Args:
        model: The model.
        samples: n images of both classes.
        logits: Of the unchanged images, shape (n,).

    Returns:
        That of the unchanged images, then one for each of `TRANSFORMS`.
    """
    paths = [str(path) for path in samples.paths]
    example = model.preprocessing.read(paths[0])
    size = f"{len(example)} x {len(example)} pixels"
    rows = [ShortcutProbe("original images", size, _auroc(samples, logits), example)]
    for name, (description, transform) in TRANSFORMS.items():
        auroc = _auroc(samples, model.logits(paths, transform))
        rows.append(ShortcutProbe(name, description, auroc, transform(example)))
    return rows


def _auroc(samples: Manifest, scores: NDArray[np.float64]) -> Estimate:
    table = PredictionTable(label=samples.labels, logit=scores, patient=samples.patients)
    return auroc_estimate(table)
