"""A file -> the grey pixels the network sees. The one way in, for training and after it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pneumonia.errors import ConfigError, DataError

Fit = Literal["squash", "pad", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the square that the network sees.

    Attributes:
        image_size: Side of the square in pixels, at least 16.
        fit: `squash` stretches to the square (the aspect ratio shows as stretch), `pad`
            adds black borders (it shows as border), `crop` keeps the centre (it cuts the
            longer side, lungs included).
        interpolation: `nearest`, or `bilinear` and `bicubic`, which average over all source
            pixels when they shrink.
    """

    image_size: int = 224
    fit: Fit = "squash"
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.image_size < 16:  # noqa: PLR2004  the deepest backbones divide by 32, twice halved
            raise ConfigError(f"data.image_size={self.image_size}: at least 16 pixels are needed.")
        if self.fit not in get_args(Fit):
            raise ConfigError(f"data.fit={self.fit!r} is not one of {', '.join(get_args(Fit))}.")
        if self.interpolation not in _FILTERS:
            raise ConfigError(
                f"data.interpolation={self.interpolation!r} is not one of {', '.join(_FILTERS)}."
            )

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Fit a grey image to the square.

        Args:
            image: Mode `L`, any size.

        Returns:
            Pixels, uint8 [image_size, image_size], 0 black to 255 white.
        """
        size = (self.image_size, self.image_size)
        resample = _FILTERS[self.interpolation]
        if self.fit == "squash":
            fitted = image.resize(size, resample)
        elif self.fit == "pad":
            fitted = ImageOps.pad(image, size, resample, color=0)
        else:
            fitted = ImageOps.fit(image, size, resample)
        return np.asarray(fitted)


def read_grey(path: str | Path) -> Image.Image:
    """Read an image file as one grey channel of 8 bits, whatever its mode.

    Colour is a shortcut in this data set (all RGB files are of one class), so it never
    reaches the network.

    Args:
        path: JPEG, PNG, TIFF, BMP, WebP or PGM.

    Returns:
        The decoded image, mode `L`.

    Raises:
        DataError: If the file is missing, unreadable, truncated, or not an image.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits: `convert` would clip, not scale
                return _from_16_bits(np.asarray(image))
            if image.mode == "F":
                raise ValueError("its pixels are floats, of no known range")
            return image.convert("L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else error
        raise DataError(
            f"{path} cannot be read as an image ({reason}); replace it or remove it."
        ) from error


def _from_16_bits(pixels: NDArray[np.integer[Any]]) -> Image.Image:
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= np.iinfo(np.uint16).max:
        raise ValueError("its pixels take more than 16 bits")
    return Image.fromarray((pixels >> 8).astype(np.uint8))
