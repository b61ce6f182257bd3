"""How well the classes can still be told apart without the lungs, or without the image.

A classifier that reads lungs must lose its way when they are gone. If it does not, it leans on
something else: borders, positioning, the stretch of the frame, the compression of the file.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.manifest import Manifest
from pneumonia.errors import DataError
from pneumonia.evaluation.confidence import Estimate, auroc_estimate
from pneumonia.evaluation.evaluate import ShortcutProbe
from pneumonia.evaluation.predictions import PredictionTable, sigmoid
from pneumonia.inference.predictor import InferenceModel
from pneumonia.inference.types import Pixels

BORDER = 0.1
"""The lung field is taken to begin this share of the side from every edge: the middle 80% of width
and height, 64% of the area. On the Kaggle images that holds both lungs of nearly all children."""

BLUR = 8
FOLDS = 5
_RIDGE = 1.0
_STEPS = 50


def centre(side: int) -> slice:
    """Where the lung field is taken to lie, along either axis.

    Args:
        side: Of the square, pixels.
    """
    edge = round(BORDER * side)
    return slice(edge, side - edge)


def black_centre(pixels: Pixels) -> Pixels:
    """Black out the lung field.

    Args:
        pixels: uint8 [S, S].
    """
    inside = centre(pixels.shape[0])
    changed = pixels.copy()
    changed[inside, inside] = 0
    return changed


def only_centre(pixels: Pixels) -> Pixels:
    """Black out all but the lung field.

    Args:
        pixels: uint8 [S, S].
    """
    inside = centre(pixels.shape[0])
    changed = np.zeros_like(pixels)
    changed[inside, inside] = pixels[inside, inside]
    return changed


def blurred(pixels: Pixels) -> Pixels:
    """Keep 1/8 of the resolution: shrink by averaging, and enlarge again.

    Args:
        pixels: uint8 [S, S].
    """
    side = pixels.shape[0]
    small = Image.fromarray(pixels).resize((-(-side // BLUR),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.BILINEAR))


_MIDDLE = f"the middle {1 - 2 * BORDER:.0%} of width and height"
CHANGES: tuple[tuple[str, str, Callable[[Pixels], Pixels]], ...] = (
    ("lung field blacked out", f"{_MIDDLE} set to 0, the frame kept", black_centre),
    ("only the lung field", f"all but {_MIDDLE} set to 0", only_centre),
    ("blurred", f"1/{BLUR} of the resolution each way, then enlarged again", blurred),
)


def probe_shortcuts(
    classifier: InferenceModel, samples: Manifest, real: NDArray[np.float64]
) -> list[ShortcutProbe]:
    """Measure AUROC on changed images, and of the files' attributes alone.

    Args:
        classifier: The model.
        samples: Images of both classes.
        real: Its logits of them as they are, shape (n,).

    Returns:
        The unchanged images first, then each change, the attributes last.

    Raises:
        DataError: If a file cannot be read.
    """
    paths = [str(path) for path in samples.paths]
    shown = classifier.pixels(paths[0])
    size = f"{shown.shape[1]} x {shown.shape[0]}"
    rows = [
        ShortcutProbe("the real images", f"as tested, {size} pixels", _area(samples, real), shown)
    ]
    for name, geometry, change in CHANGES:
        found = _area(samples, classifier.logits(paths, change))
        rows.append(ShortcutProbe(name, geometry, found, change(shown)))
    scores = attribute_scores(samples)
    method = (
        "width, height, aspect ratio, bytes, bytes per pixel and colour mode: logistic regression,"
        f" {FOLDS}-fold cross-validated by patient"
    )
    if scores is not None:
        rows.append(
            ShortcutProbe("no image, the file's attributes", method, _area(samples, scores))
        )
    return rows


def attribute_scores(samples: Manifest) -> NDArray[np.float64] | None:
    """Predict each image's class from its file, with the images of other patients.

    Logistic regression with a ridge on standardised attributes, by Newton's method.

    Args:
        samples: Images of both classes.

    Returns:
        Shape (n,): log odds. None where a class has too few patients to leave some out.

    Raises:
        DataError: If a file cannot be read.
    """
    columns = np.array([_attributes(str(path)) for path in samples.paths])
    labels = samples.labels == 1
    fold = np.empty(len(samples), np.int64)
    for label in (False, True):  # within class, so that every fold has both
        patients = np.unique(samples.patients[labels == label])
        if patients.size < FOLDS:
            return None
        drawn = np.random.default_rng(0).permutation(patients)
        place = {patient: n % FOLDS for n, patient in enumerate(drawn)}
        members = np.flatnonzero(labels == label)
        fold[members] = [place[patient] for patient in samples.patients[members]]
    mixed = np.intersect1d(samples.patients[labels], samples.patients[~labels])
    for patient in mixed:
        fold[samples.patients == patient] = 0
    scores = np.empty(len(samples))
    for number in range(FOLDS):
        out = fold == number
        seen = columns[~out]
        spread = seen.std(axis=0)
        standard = (columns - seen.mean(axis=0)) / np.where(spread > 0, spread, 1)
        x = np.column_stack([np.ones(len(samples)), standard])
        scores[out] = x[out] @ _regress(x[~out], labels[~out])
    return scores


def _attributes(path: str) -> tuple[float, ...]:
    try:
        with Image.open(path) as image:  # the header alone
            width, height, mode = image.width, image.height, image.mode
        size = Path(path).stat().st_size
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); remove it.") from error
    pixels = width * height
    return (
        np.log(width),
        np.log(height),
        np.log(width / height),
        np.log(size),
        np.log(size / pixels),
        float(mode != "L"),
    )


def _regress(x: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    ridge = _RIDGE * np.eye(x.shape[1])
    ridge[0, 0] = 1e-9  # the intercept is free
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = sigmoid(x @ weights)
        gradient = x.T @ (labels - p) - ridge @ weights
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-9:  # noqa: PLR2004 - far below any digit shown
            break
    return weights


def _area(samples: Manifest, scores: NDArray[np.float64]) -> Estimate:
    return auroc_estimate(
        PredictionTable(label=samples.labels, logit=scores, patient=samples.patients)
    )
