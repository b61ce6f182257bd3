"""Image files, their bytes, PIL images and arrays -> the grey square that the network sees."""

import os
from dataclasses import dataclass
from typing import Literal, get_args

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
)
from pneumonia.errors import DataError, ExtraError, check_setting

ResizeMode = Literal["squash", "pad", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM", "GIF")
"""The formats that Pillow may try: others hold no radiographs, and EPS starts Ghostscript."""

DECODER = f"3/{PIL.__version__}"
"""Changes when the same file may decode to other pixels; part of a cache's key."""

_TRANSPOSE: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its Exif orientation (Exif 2.3, tag 0x0112)."""

_MIN_SIZE, _MAX_SIZE = 16, 4096  # the deepest backbones divide by 32, twice halved


@dataclass(frozen=True)
class Preprocessing:
    """Resizing to the square that the network sees, for training, prediction and export alike.

    Attributes:
        image_size: Side of the square in pixels, 16 to 4096.
        resize_mode: `squash` stretches to the square, `pad` adds black borders, `crop` keeps the
            centre, which may cut off lungs.
        interpolation: `nearest`, or `bilinear` and `bicubic`, both antialiased.

    Raises:
        ConfigError: If a value is out of range.
    """

    image_size: int = 224
    resize_mode: ResizeMode = "squash"
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        size = self.image_size
        in_range = isinstance(size, int) and _MIN_SIZE <= size <= _MAX_SIZE
        expected = f"an integer from {_MIN_SIZE} to {_MAX_SIZE}"
        check_setting(in_range, "data.image_size", size, expected)
        for key, kind in (("resize_mode", ResizeMode), ("interpolation", Interpolation)):
            value, words = getattr(self, key), get_args(kind)
            check_setting(value in words, f"data.{key}", value, f"one of {', '.join(words)}")

    def read(self, source: Source, name: str | None = None) -> NDArray[np.uint8]:
        """Decode an image file with `read_grey`, and resize it."""
        return self(read_grey(source, name))

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize an image of mode `L`.

        Returns:
            Pixels, uint8 [image_size, image_size], 0 black to 255 white.
        """
        size = (self.image_size, self.image_size)
        resample = Image.Resampling[self.interpolation.upper()]
        if self.resize_mode == "squash":
            return np.asarray(image.resize(size, resample))
        if self.resize_mode == "pad":
            return np.asarray(ImageOps.pad(image, size, resample, color=0))
        return np.asarray(ImageOps.fit(image, size, resample))


def read_grey(source: Source, name: str | None = None) -> Image.Image:
    """Decode an image file as one grey channel of 8 bits, whatever its mode.

    16 bits are scaled, transparent pixels are black, and images are turned upright by their Exif
    orientation. Colour, a shortcut in this data set, never reaches the network.

    Args:
        source: Path or content of a file in one of `FORMATS`, or DICOM; its name does not matter.
        name: Its name in messages. None: its path; for bytes, "the image".

    Returns:
        The decoded image, mode `L`.

    Raises:
        DataError: If it cannot be read, is no image, is damaged or too large, has several frames,
            or is DICOM and pydicom is not installed.
    """
    if name is None and not isinstance(source, bytes):
        name = os.fspath(source)
    try:
        with open_bounded(source) as file, quiet():
            start = file.read(AFTER_PREAMBLE)
            if is_dicom(start):
                from pneumonia.data.dicom import read_dicom  # noqa: PLC0415  an extra

                return read_dicom(start + file.read())
            with Image.open(file, formats=FORMATS) as image:
                return _to_grey(image)
    except Exception as error:  # Pillow raises anything on damaged bytes
        raise _refusal(error, name) from error


def to_grey(image: Image.Image, name: str | None = None) -> Image.Image:
    """Convert a PIL image to one grey channel of 8 bits, as `read_grey` does.

    Args:
        image: Any mode that a file can have; it is not changed.
        name: Its name in messages.

    Raises:
        DataError: As `read_grey`.
    """
    try:
        with quiet():
            return _to_grey(image)
    except Exception as error:  # as above: lazy images are decoded here
        raise _refusal(error, name) from error


def from_array(
    array: NDArray[np.uint8] | NDArray[np.uint16], name: str | None = None
) -> Image.Image:
    """Convert an array to one grey channel of 8 bits, as `read_grey` does.

    Args:
        array: uint8 or uint16 [H, W]; or uint8 [H, W, 3] or [H, W, 4], RGB or RGBA. 0 is black.
        name: Its name in messages.

    Raises:
        DataError: If it is anything else, such as floats or booleans.
    """
    grey = array.ndim == 2  # noqa: PLR2004  [H, W]
    colour = array.ndim == 3 and array.shape[2] in {3, 4}  # noqa: PLR2004  [H, W, channels]
    deep = array.dtype.newbyteorder("=") == np.uint16 and grey
    if not array.size or not (deep or (array.dtype == np.uint8 and (grey or colour))):
        raise DataError(
            f"{name or 'The image'} is an array of {array.dtype} and shape {list(array.shape)},"
            " expected uint8 or uint16 of shape [H, W], or uint8 of shape [H, W, 3] or [H, W, 4];"
            " scale floats to 0..255 first."
        )
    return to_grey(Image.fromarray(array.astype(np.uint16) if deep else array), name)


def _to_grey(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"it has {image.width:,} x {image.height:,} pixels, more than the limit of"
            f" {MAX_PIXELS:,}"
        )
    # A camera's MPO holds its photograph first, then the same one smaller.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ValueError(f"it has {getattr(image, 'n_frames', 'several')} frames, expected one")
    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip
        pixels = np.asarray(image)
        if pixels.size and not 0 <= pixels.min() <= pixels.max() <= np.iinfo(np.uint16).max:
            raise ValueError("its pixels take more than 16 bits")
        grey = Image.fromarray((pixels >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floats, of unknown range")
    elif image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        black = Image.new("RGBA", image.size, "black")
        grey = Image.alpha_composite(black, straight.convert("RGBA")).convert("L")
    else:
        grey = image.convert("L")
    try:
        transpose = _TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001  damaged metadata of a sound image
        transpose = None
    return grey if transpose is None else grey.transpose(transpose)


def _refusal(error: Exception, name: str | None) -> DataError:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("pydicom"):
        return DataError(str(ExtraError(f"{name or 'The image'} is a DICOM file, which", "dicom")))
    if name is None:
        return DataError(f"The image cannot be read ({_reason(error, '')}); use another one.")
    reason = _reason(error, name)
    return DataError(f"{name} cannot be read as an image ({reason}); replace it or remove it.")


def _reason(error: Exception, name: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, UnidentifiedImageError):
        if name.lower().endswith((".dcm", ".dicom")):
            return "it lacks the letters DICM at byte 128 of a DICOM file; export it again"
        return f"its format is not {', '.join(FORMATS)} or DICOM"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    own_words = (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError)
    words = (getattr(error, "strerror", None) or str(error)) if isinstance(error, own_words) else ""
    return words or f"it is damaged: {type(error).__name__}"
