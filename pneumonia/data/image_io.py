"""Image files, their bytes, PIL images and arrays -> the grey square that the network sees."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pneumonia.data.bit_depth import (
    PHOTOMETRIC,
    PNG,
    TIFF,
    WHITE_IS_ZERO,
    bit_depth,
    open_tiff,
    png_bits,
)
from pneumonia.data.safe_open import (
    AFTER_PREAMBLE,
    MAX_PIXELS,
    Source,
    is_dicom,
    open_bounded,
    quiet,
)
from pneumonia.errors import DataError, ExtraError, check_setting, printable

ResizeMode = Literal["squash", "pad", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM", "GIF")
"""The formats that Pillow may try: others hold no radiographs, and EPS starts Ghostscript."""

DECODER = f"4/{PIL.__version__}"
"""Changes when the same file may decode to other pixels; part of a cache's key."""

_DICOM_SUFFIXES = {".dcm", ".dicom", ".ima"}
_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif"),
    *(".pgm", ".ppm"),
}
_OTHER_SUFFIXES = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".htm", ".md", ".pdf", ".log"),
    *(".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".zip", ".gz", ".tar", ".7z", ".rar"),
    *(".py", ".ipynb", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".db", ".sqlite", ".npy", ".npz"),
    *(".ckpt", ".pth", ".pt", ".onnx", ".safetensors", ".mp4", ".avi", ".mov", ".lnk", ".exe"),
}
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|II[*+]\0|MM\0[*+]|BM.{4}\0{4}|RIFF.{4}WEBP|GIF8[79]a|P[2356]\s",
    re.DOTALL,
)
"""How files of `FORMATS` start."""

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

_CHANNELS = {1, 3, 4}
_MAX_BITS, _HALF = 16, 128
_HEAD = 1 << 16  # bytes of a PNG file in which its bit depth is looked for

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


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Tell whether a folder's file is an image: by its suffix if that is known, else by its start.

    Files with an image suffix count even if they are damaged. DICOM files without pixels, such as
    a DICOMDIR or a report, do not count.

    Args:
        path: An existing file.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _SUFFIXES or suffix in _OTHER_SUFFIXES:
        return suffix in _SUFFIXES
    try:
        with open_bounded(path) as file:
            start = file.read(AFTER_PREAMBLE)
            if not is_dicom(start):
                return suffix in _DICOM_SUFFIXES or _MAGIC.match(start) is not None
            from pneumonia.data.dicom import has_pixels  # noqa: PLC0415  an extra

            return has_pixels(file)
    except (OSError, ValueError):
        return suffix in _DICOM_SUFFIXES
    except ImportError:
        return True


def skipped_line(paths: Sequence[str]) -> str:
    """Say in one line how many files a walk through a folder passed over, with the first names."""
    names = ", ".join(printable(os.path.basename(path)) for path in paths[:3])  # noqa: PTH119
    more = ", ..." if len(paths) > 3 else ""  # noqa: PLR2004
    return f"Skipped {len(paths)} file{'s' * (len(paths) > 1)} without an image: {names}{more}"


def read_grey(source: Source, name: str | None = None) -> Image.Image:
    """Decode an image file as one grey channel of 8 bits, whatever its mode.

    More than 8 bits are scaled by the depth of `pneumonia.data.bit_depth.bit_depth`, transparent
    pixels are black, and images are turned upright by their Exif orientation. Colour, a shortcut
    in this data set, never reaches the network.

    Args:
        source: Path or content of a file in one of `FORMATS`, or DICOM; its name does not matter.
        name: Its name in messages. None: its path; for bytes, "the image".

    Returns:
        The decoded image, mode `L`. `info["warnings"]` lists what a user should know about it.

    Raises:
        DataError: If it cannot be read, is not an image, is damaged or too large, has several
            frames, or is DICOM and pydicom is not installed.
    """
    if name is None and not isinstance(source, bytes):
        name = os.fspath(source)
    try:
        with open_bounded(source) as file, quiet():
            start = file.read(AFTER_PREAMBLE)
            if is_dicom(start):
                from pneumonia.data.dicom import read_dicom  # noqa: PLC0415  an extra

                return read_dicom(start + file.read())
            if start.startswith(TIFF):
                tiff, depth, inverted = open_tiff(start + file.read())
                return _to_grey(tiff, name, depth, inverted)
            bits = png_bits(start + file.read(_HEAD)) if start.startswith(PNG) else None
            with Image.open(file, formats=FORMATS) as image:
                return _to_grey(image, name, bits)
    except DataError:
        raise
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
            return _to_grey(image, name)
    except DataError:
        raise
    except Exception as error:  # as above: lazy images are decoded here
        raise _refusal(error, name) from error


def from_array(array: NDArray[Any], name: str | None = None) -> Image.Image:
    """Convert an array to one grey channel of 8 bits, as `read_grey` does.

    Args:
        array: Grey [H, W] or [1, H, W], uint8, uint16, or floats from 0 (black) to 1; or RGB
            [H, W, 3] or [3, H, W], or RGBA, uint8 or such floats.
        name: Its name in messages.

    Raises:
        DataError: If it is anything else, such as booleans, or holds NaN.
    """
    shape, kind = array.shape, array.dtype
    if array.ndim == 3 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS:  # noqa: PLR2004
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:  # noqa: PLR2004
        array = array[:, :, 0]
    grey = array.ndim == 2  # noqa: PLR2004  [H, W]
    deep = kind.newbyteorder("=") == np.uint16
    known = grey or (array.ndim == 3 and array.shape[2] in {3, 4} and not deep)  # noqa: PLR2004
    if not (array.size and known and (deep or kind == np.uint8 or kind.kind == "f")):
        raise DataError(
            f"{name or 'The image'} is an array of {kind} and shape {list(shape)}, expected uint8,"
            " uint16 or floats from 0 to 1 of shape [H, W], or uint8 or floats of shape [H, W, 3]."
        )
    if kind.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # NaN fails both
            raise DataError(f"{name or 'The image'} is an array of floats outside of 0 to 1.")
        array = np.rint(255 * array).astype(np.uint8)
    return to_grey(Image.fromarray(array.astype(np.uint16) if deep else array), name)


def _to_grey(
    image: Image.Image, name: str | None, bits: int | None = None, inverted: bool = False
) -> Image.Image:
    """Convert an image of some stated depth, in which 0 may be white."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"it has {image.width:,} x {image.height:,} pixels, more than the limit of"
            f" {MAX_PIXELS:,}"
        )
    # A camera's MPO holds its photograph first, then the same one smaller.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ValueError(f"it has {getattr(image, 'n_frames', 'several')} frames, expected one")
    warning = None
    if image.mode.startswith("I"):  # which `convert` would clip
        pixels = np.asarray(image)
        if pixels.size and not 0 <= pixels.min() <= pixels.max() <= np.iinfo(np.uint16).max:
            raise ValueError("its pixels take more than 16 bits")
        maximum = int(pixels.max(initial=0))
        stated = bits if bits and maximum < 1 << bits else _MAX_BITS
        depth, warning = bit_depth(maximum, stated)
        grey = Image.fromarray((pixels >> (depth - 8)).astype(np.uint8))
        inverted = inverted or getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    elif image.mode == "F":
        grey = from_array(np.asarray(image), name)
    elif image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        black = Image.new("RGBA", image.size, "black")
        grey = Image.alpha_composite(black, straight.convert("RGBA")).convert("L")
    else:
        grey = image.convert("L")
    deep_colour = bits == _MAX_BITS and not image.mode.startswith("I")  # Pillow drops the low bits
    if deep_colour and not any(grey.histogram()[_HALF:]):
        raise ValueError("its colours of 16 bits use less than half of the range; save it as grey")
    if inverted:
        grey = ImageOps.invert(grey)
    try:
        transpose = _TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001  damaged metadata of a sound image
        transpose = None
    upright = grey if transpose is None else grey.transpose(transpose)
    upright.info["warnings"] = [warning] if warning else []
    return upright


def _refusal(error: Exception, name: str | None) -> DataError:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(
        ("pydicom", "imagecodecs")
    ):
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
