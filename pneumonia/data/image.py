"""A file -> the grey pixels the network sees. The one way in, for training and after it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import PIL
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

MOST_PIXELS = 89_478_485
"""Larger images are refused by name before they are decoded: Pillow's own warning limit for
decompression bombs. The largest radiographs (43 cm at 0.1 mm) have 19 million."""

DECODER = f"1/{PIL.__version__}"
"""Changes when the same file may give other pixels than before; part of a cache's name."""

_MARGIN = 2
"""A JPEG is decoded at a reduced size only while that is this many times the target."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the square that the network sees.

    JPEGs are decoded at a half, quarter or eighth of their size (libjpeg's scaled inverse
    cosine transform) where that still leaves twice the target's resolution. Measured on 68
    originals of the Kaggle set, squash to 224, against a full decode and the same antialiased
    resize: 1.4 times the speed for a mean difference of 0.14 grey levels (0.72 in the image
    that differs most; 99.9% of all pixels within 4). Without the factor of two it would be 1.8
    times the speed for 0.59 (1.99). torchvision's decoder and resize took as long as Pillow's
    full decode. At other sizes from 32 to 320 the mean difference was
    0.03 to 0.61. `nearest` picks single pixels, so it always decodes in full.

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

    def read(self, path: str | Path) -> NDArray[np.uint8]:
        """Read an image file as the square: the one way, in training and after it.

        Args:
            path: As for `read_grey`.

        Returns:
            Pixels, uint8 [image_size, image_size], 0 black to 255 white.

        Raises:
            DataError: As `read_grey`.
        """
        exact = self.interpolation == "nearest"
        return self(read_grey(path, at_least=None if exact else _MARGIN * self.image_size))

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Fit a grey image, decoded in full, to the square.

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


def read_grey(path: str | Path, at_least: int | None = None) -> Image.Image:
    """Read an image file as one grey channel of 8 bits, whatever its mode.

    Colour is a shortcut in this data set (all RGB files are of one class), so it never
    reaches the network. 16 bits are scaled down, not clipped; what is transparent is black.

    Args:
        path: JPEG, PNG, TIFF, BMP, WebP or PGM.
        at_least: A JPEG may come at a half, quarter or eighth of its size, as long as neither
            side falls below this many pixels. None: at its own size.

    Returns:
        The decoded image, mode `L`.

    Raises:
        DataError: If the file is missing, unreadable, truncated, too large, or not an image.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(
                    f"its {image.width:,} x {image.height:,} pixels are more than the"
                    f" {MOST_PIXELS:,} of any radiograph"
                )
            if image.mode.startswith("I"):  # 16 bits: `convert` would clip, not scale
                return _from_16_bits(np.asarray(image))
            if image.mode == "F":
                raise ValueError("its pixels are floats, of no known range")
            if image.has_transparency_data:
                opaque = Image.new("RGBA", image.size, "black")
                return Image.alpha_composite(opaque, image.convert("RGBA")).convert("L")
            if at_least is not None:
                image.draft("L", (at_least, at_least))
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
