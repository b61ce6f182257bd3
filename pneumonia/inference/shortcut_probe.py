"""Shortcut probe: AUROC with the lungs masked, and of the files' attributes alone.

A classifier that keeps its AUROC without the lungs relies on borders, positioning or the file.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumonia.data.manifest import Manifest
from pneumonia.errors import DataError
from pneumonia.evaluation.confidence import Estimate, auroc_estimate
from pneumonia.evaluation.evaluate import ShortcutProbe
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.types import Pixels

BORDER = 0.1
"""Fraction of the side at every edge that is outside the lungs on nearly all Kaggle images."""

BLUR = 8
FOLDS = 5


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
    """Measure the AUROC on transformed images, and of the files' attributes alone.

    Args:
        model: The model.
        samples: n images of both classes.
        logits: Of the unchanged images, shape (n,).

    Returns:
        Unchanged images, each of `TRANSFORMS`, and the attributes if the patients suffice.
    """
    paths = [str(path) for path in samples.paths]
    example = model.preprocessing.read(paths[0])
    size = f"{len(example)} x {len(example)} pixels"
    rows = [ShortcutProbe("original images", size, _auroc(samples, logits), example)]
    for name, (description, transform) in TRANSFORMS.items():
        auroc = _auroc(samples, model.logits(paths, transform))
        rows.append(ShortcutProbe(name, description, auroc, transform(example)))
    scores = attribute_scores(samples)
    if scores is not None:
        description = (
            "width, height, aspect ratio, bytes, bytes per pixel and colour mode: logistic"
            f" regression, {FOLDS}-fold cross-validated by patient"
        )
        name = "file attributes without the image"
        rows.append(ShortcutProbe(name, description, _auroc(samples, scores)))
    return rows


def attribute_scores(samples: Manifest) -> NDArray[np.float64] | None:
    """Predict the class of each file from its attributes, fitted to other patients' files.

    Returns:
        Log odds, shape (n,). None where a class has fewer than `FOLDS` patients.
    """
    for label in (0, 1):
        if np.unique(samples.patients[samples.labels == label]).size < FOLDS:
            return None
    scores: NDArray[np.float64] = cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression()),
        np.array([_attributes(str(path)) for path in samples.paths]),
        samples.labels,
        groups=samples.patients,
        cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0),
        method="decision_function",
    )
    return scores


def _attributes(path: str) -> Sequence[float]:
    try:
        with Image.open(path) as image:  # reads the header only
            width, height, mode = image.width, image.height, image.mode
        size = Path(path).stat().st_size
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); remove it.") from error
    pixels = width * height
    logs = np.log([width, height, width / height, size, size / pixels])
    return [*logs.tolist(), float(mode != "L")]


def _auroc(samples: Manifest, scores: NDArray[np.float64]) -> Estimate:
    table = PredictionTable(label=samples.labels, logit=scores, patient=samples.patients)
    return auroc_estimate(table)
