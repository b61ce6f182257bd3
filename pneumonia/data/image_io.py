"""A file, its bytes, a picture or an array -> the grey pixels the network sees.

The one way in, for training and after it.
"""

import os
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pneumonia.data.safe_open import (
    AFTER_PREAMBLE,
    MAX_PIXELS,
    Source,
    is_dicom,
    open_bounded,
    quiet,
    silence_libtiff,
)
from pneumonia.errors import ConfigError, DataError, ExtraError

Fit = Literal["squash", "pad", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM", "GIF")
"""Pillow's names of the formats that are tried, besides DICOM. Its others are never run: EPS
starts Ghostscript, and what holds no radiographs can only do harm."""

DECODER = f"3/{PIL.__version__}"
"""Changes when the same file may give other pixels than before; part of a cache's name."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its orientation (Exif 2.3, tag 0x0112); 1 is upright."""

_MOST_SIDE = 4096
"""Of the square: beyond the detail of a radiograph, and of the memory of most machines."""

_ARRAYS = "uint8 or uint16 of shape [H, W], or uint8 of shape [H, W, 3] or [H, W, 4]"


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the square that the network sees.

    Every image is decoded in full, so that a file, its bytes, a decoded picture, an array and the
    DICOM of the same image give the same pixels. libjpeg's decoding at a reduced size would take
    0.7 of the time and change 0.14 grey levels on average.

    Attributes:
        image_size: Side of the square in pixels, from 16 to 4096.
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
        # The deepest backbones divide by 32, twice halved.
        if not isinstance(self.image_size, int) or not 16 <= self.image_size <= _MOST_SIDE:  # noqa: PLR2004
            raise ConfigError(
                f"data.image_size={self.image_size!r}: expected a whole number, at least 16 pixels"
                f" and at most {_MOST_SIDE}."
            )
        if self.fit not in get_args(Fit):
            raise ConfigError(f"data.fit={self.fit!r} is not one of {', '.join(get_args(Fit))}.")
        if self.interpolation not in _FILTERS:
            raise ConfigError(
                f"data.interpolation={self.interpolation!r} is not one of {', '.join(_FILTERS)}."
            )

    def read(self, source: Source, name: str | None = None) -> NDArray[np.uint8]:
        """Read an image file as the square: the one way, in training and after it.

        Args:
            source: As for `read_grey`.
            name: As for `read_grey`.

        Returns:
            Pixels, uint8 [image_size, image_size], 0 black to 255 white.

        Raises:
            DataError: As `read_grey`.
        """
        return self(read_grey(source, name))

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


def read_grey(source: Source, name: str | None = None) -> Image.Image:
    """Read an image file as one grey channel of 8 bits, whatever its mode.

    Colour is a shortcut in this data set (all RGB files are of one class), so it never
    reaches the network. 16 bits are scaled down, not clipped; what is transparent is black.
    A picture that its Exif orientation says was taken sideways is turned upright, as every
    viewer shows it; no file of the Kaggle set is. Formats are told by content, never by name;
    DICOM is read as `pneumonia.data.dicom.read_dicom` says.

    Args:
        source: Path of a JPEG (of an MPO, the first picture), PNG, TIFF, BMP, WebP, PGM, PPM,
            GIF or DICOM file, or the bytes of one. The pixels are the same either way.
        name: What to call the source in a message. None: its path; for bytes, "the image".

    Returns:
        The decoded image, mode `L`.

    Raises:
        DataError: If the file is missing, unreadable, truncated, too large, not an image or
            more than one, or is DICOM and pydicom is not installed.
    """
    if name is None and not isinstance(source, bytes):
        name = os.fspath(source)
    try:
        with open_bounded(source) as file, quiet():
            start = file.read(AFTER_PREAMBLE)
            if is_dicom(start):
                from pneumonia.data.dicom import read_dicom  # noqa: PLC0415  an extra, and slow

                return read_dicom(start + file.read())
            with Image.open(file, formats=FORMATS) as image:
                return _to_grey(image)
    except Exception as error:  # Pillow raises anything on broken bytes
        raise _refusal(error, name) from error


def to_grey(image: Image.Image, name: str | None = None) -> Image.Image:
    """Turn a picture into one grey channel of 8 bits, by the rules of `read_grey`.

    Args:
        image: Any mode that a file can have. A file that Pillow opened gives what `read_grey`
            gives for it.
        name: What to call it in a message. None: "the image".

    Returns:
        Mode `L`; the picture itself may be decoded by this, but not changed.

    Raises:
        DataError: If it is no picture, has more than one frame, is too large, cannot be
            decoded, or has pixels of unknown range.
    """
    if not isinstance(image, Image.Image):
        raise DataError(f"{_called(name)} is a {type(image).__name__}, expected a PIL image.")
    try:
        with quiet():
            return _to_grey(image)
    except Exception as error:  # as above: it may only now be decoded
        raise _refusal(error, name) from error


def from_array(
    array: NDArray[np.uint8] | NDArray[np.uint16], name: str | None = None
) -> Image.Image:
    """Turn an array into one grey channel of 8 bits, by the rules of `read_grey`.

    Args:
        array: uint8 or uint16 [H, W], grey; or uint8 [H, W, 3] or [H, W, 4], red, green, blue
            and opacity. 0 is black.
        name: What to call it in a message. None: "the image".

    Returns:
        Mode `L`.

    Raises:
        DataError: If it is anything else. Floats and booleans are not guessed at.
    """
    if not isinstance(array, np.ndarray):
        raise DataError(f"{_called(name)} is a {type(array).__name__}, expected a numpy array.")
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.floating):
        why = "no grey levels" if array.dtype == np.bool_ else "a range that cannot be known"
        raise DataError(
            f"{_called(name)} is an array of {array.dtype}, which has {why}; scale it to 0..255 and"
            f" give {_ARRAYS}."
        )
    colour = array.ndim == 3 and array.shape[2] in {3, 4}  # noqa: PLR2004  [H, W, channels]
    known = array.dtype == np.uint8 and (array.ndim == 2 or colour)  # noqa: PLR2004  [H, W]
    deep = array.dtype.newbyteorder("=") == np.uint16 and array.ndim == 2  # noqa: PLR2004
    if not (known or deep) or not array.size:
        raise DataError(
            f"{_called(name)} is an array of {array.dtype} and shape {list(array.shape)}, expected"
            f" {_ARRAYS}."
        )
    return to_grey(Image.fromarray(array.astype(np.uint16) if deep else array), name)


def _to_grey(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"its {image.width:,} x {image.height:,} pixels are more than the"
            f" {MAX_PIXELS:,} of any radiograph"
        )
    # A camera's MPO holds its photograph first, then the same one smaller.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ValueError(f"it has {getattr(image, 'n_frames', 'several')} frames; give one image")
    if image.format == "TIFF":
        silence_libtiff()
    if image.mode.startswith("I"):  # 16 bits: `convert` would clip, not scale
        plain = _from_16_bits(np.asarray(image))
    elif image.mode == "F":
        raise ValueError("its pixels are floats, of no known range")
    elif image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        opaque = Image.new("RGBA", image.size, "black")
        plain = Image.alpha_composite(opaque, straight.convert("RGBA")).convert("L")
    else:
        plain = image.convert("L")
    turn = _UPRIGHT.get(_orientation(image))
    return plain if turn is None else plain.transpose(turn)


def _from_16_bits(pixels: NDArray[np.integer[Any]]) -> Image.Image:
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= np.iinfo(np.uint16).max:
        raise ValueError("its pixels take more than 16 bits")
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  damaged notes on a picture whose pixels are sound
        return 1


def _refusal(error: Exception, name: str | None) -> DataError:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("pydicom"):
        return DataError(str(ExtraError(f"{_called(name)} is a DICOM file, which", "dicom")))
    reason = _reason(error, name)
    if name is None:
        return DataError(f"The image cannot be read ({reason}); give another one.")
    return DataError(f"{name} cannot be read as an image ({reason}); replace it or remove it.")


def _reason(error: Exception, name: str | None) -> str:
    reason = f"it is damaged: {type(error).__name__}"
    if isinstance(error, FileNotFoundError):
        reason = "it does not exist"
    elif isinstance(error, UnidentifiedImageError):
        reason = f"it is none of {', '.join(FORMATS)} and DICOM"
        if name is not None and name.lower().endswith((".dcm", ".dicom")):
            reason = "it lacks the mark DICM that a DICOM file has at byte 128; export it anew"
    elif isinstance(error, MemoryError):
        reason = "it takes more memory than there is"
    elif isinstance(
        error, OSError | ValueError | SyntaxError | Warning | Image.DecompressionBombError
    ):
        reason = getattr(error, "strerror", None) or str(error) or reason
    return reason


def _called(name: str | None) -> str:
    return name or "The image"
