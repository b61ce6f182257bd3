"""What can be wrong with an image before any model looks at it."""

import numpy as np
from PIL import Image

from pneumonia.errors import DataError
from pneumonia.inference.engine import Pixels

LEAST_SIDE = 32
"""Smaller images are refused: they hold no lung that could be read."""

_SHAPES = (0.6, 2.6)
_CONTRAST = 40
_WHITE, _BLACK = 0.1, 0.5
_TAIL = 5


def check_size(image: Image.Image, name: str) -> None:
    """Refuse an image that is too small to be a radiograph.

    Args:
        image: As decoded.
        name: What to call it.

    Raises:
        DataError: If a side is below 32 pixels.
    """
    if min(image.size) < LEAST_SIDE:
        raise DataError(
            f"{name} has {image.width} x {image.height} pixels, fewer than the {LEAST_SIDE} each"
            " way that a radiograph needs; give the original."
        )


def warnings(image: Image.Image, pixels: Pixels) -> tuple[str, ...]:
    """Say what is wrong with an image.

    Every bound lies outside what 68 originals (shape) and 5,216 images (grey levels) of the Kaggle
    set show: aspect ratios of 0.93 to 1.93, at least 68 grey levels between the 5th and the 95th
    percentile, at most 3% pure white and 30% pure black.

    Args:
        image: As decoded, any size.
        pixels: What the network sees of it, uint8 [S, S].

    Returns:
        A few words each.
    """
    found = []
    side = pixels.shape[0]
    if min(image.size) < side / 2:
        found.append(f"only {image.width} x {image.height} pixels, enlarged to {side}")
    ratio = image.width / image.height
    if not _SHAPES[0] <= ratio <= _SHAPES[1]:
        found.append(f"unusual shape, {image.width} x {image.height}")
    low, high = np.percentile(pixels, (_TAIL, 100 - _TAIL))
    if high - low < _CONTRAST:
        found.append(f"low contrast, {high - low:.0f} of 255 grey levels")
    for value, name, most in ((255, "white", _WHITE), (0, "black", _BLACK)):
        share = float((pixels == value).mean())
        if share > most:
            found.append(f"{share:.0%} of it is pure {name}")
    return tuple(found)
