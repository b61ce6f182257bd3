"""Whatever a caller has of an image -> what the network sees of it, and what is wrong with it."""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.image import Preprocessing, from_array, grey, read_grey
from pneumonia.errors import DataError
from pneumonia.inference.engine import Pixels
from pneumonia.inference.quality import check_size, warnings

Source = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | NDArray[np.uint16]
"""An image: a file's path, a file's content, a PIL image of any mode, or an array as
`pneumonia.data.image.from_array` takes it."""


@dataclass(frozen=True)
class Seen:
    """An image, read.

    Attributes:
        name: What to call it.
        pixels: What the network sees, uint8 [S, S].
        warnings: What is wrong with it, in words.
    """

    name: str
    pixels: Pixels
    warnings: tuple[str, ...]


def called(source: Source, number: int = 1) -> str:
    """Say what to call an image: a file by its path, anything else by its number.

    Args:
        source: The image.
        number: Its place among those asked about, from 1.
    """
    return os.fspath(source) if isinstance(source, str | os.PathLike) else f"image {number}"


def see(source: Source, preprocessing: Preprocessing, name: str | None = None) -> Seen:
    """Read an image as the network sees it, and keep no more of it than that.

    Args:
        source: The image.
        preprocessing: Of the model.
        name: What to call it; None for its path.

    Raises:
        DataError: If it cannot be read or is no image.
    """
    if name is None:
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the image"
    return fit(decode(source, name), preprocessing, name)


def fit(image: Image.Image, preprocessing: Preprocessing, name: str) -> Seen:
    """Fit an image that was decoded to what the network sees.

    Args:
        image: As `decode` gives it.
        preprocessing: Of the model.
        name: What to call it.

    Raises:
        DataError: If it is too small to be a radiograph.
    """
    check_size(image, name)
    pixels = preprocessing(image)
    return Seen(name, pixels, warnings(image, pixels))


def decode(source: Source, name: str) -> Image.Image:
    """Read an image whole.

    Args:
        source: The image.
        name: What to call it.

    Returns:
        Mode `L`, of its own size.

    Raises:
        DataError: If it cannot be read or is no image.
    """
    if isinstance(source, str | os.PathLike | bytes):
        return read_grey(source, name=name)
    if isinstance(source, Image.Image):
        return grey(source, name)
    if isinstance(source, np.ndarray):
        return from_array(source, name)
    raise DataError(
        f"{name} is a {type(source).__name__}; give a path, bytes, a PIL image, a numpy array, or"
        " a list of them."
    )
