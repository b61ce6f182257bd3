"""DICOM files -> the grey pixels that a workstation would show; needs the extra `dicom`.

Of the patient's attributes only the age is parsed, and no message of pydicom is passed on, since
it may quote another.
"""

import contextlib
import logging
import re
import struct
import zlib
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from imagecodecs import jpeg8_decode
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.filereader import dcmread, read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from pneumonia.data.bit_depth import bit_depth
from pneumonia.data.safe_open import AFTER_PREAMBLE, MAX_BYTES, MAX_PIXELS, is_quiet, quiet

_KEYWORDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope",
    "VOILUTFunction", "ModalityLUTSequence", "VOILUTSequence", "PresentationLUTShape",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PatientAge",
    "PixelData",
)  # fmt: skip
"""The attributes that are parsed."""

_LOGGERS = (
    "pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.utils", "pylibjpeg",
    "pylibjpeg.utils", "openjpeg", "openjpeg.utils", "jpeg_ls",
)  # fmt: skip
"""Loggers that take part in reading; children do not inherit a filter."""

for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(lambda _: not is_quiet())

_UINT16 = 1 << 16

_BY_IMAGECODECS = (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
"""JPEG with 12 or 16 bits, which pydicom leaves to GDCM: that ends the process on damaged files."""

_AGES = (1, 5)
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 1 / 52.18, "D": 1 / 365.25}


class _UnusableError(ValueError):
    """A message that quotes nothing about the patient."""


def read_dicom(content: bytes) -> Image.Image:
    """Decode a single grey frame and map it to 8 bits as PS3.3 C.11 and PS3.4 N.2 say.

    The steps: modality LUT or rescale; VOI LUT, else the first window; inversion. Padding is
    black. Without window and VOI LUT the range of `pneumonia.data.bit_depth.bit_depth` becomes
    0..255: with the pixels' own range, a marker or a dead pixel would set the contrast.

    Args:
        content: A DICOM file, see `pneumonia.data.safe_open.is_dicom`.

    Returns:
        Mode `L`, 0 black to 255 white. `info["warnings"]` lists what a user should know: a guessed
        bit depth, and a patient older or younger than those of the Kaggle set.

    Raises:
        ValueError: If it holds no pixels, colour, or several frames; is too large, damaged, or
            compressed in a way that no installed decoder reads.
    """
    with quiet():
        try:
            return _read(content)
        except _UnusableError as error:
            reason = str(error)
        except Exception:  # noqa: BLE001  pydicom and its decoders raise anything
            reason = "its DICOM content is damaged"
    raise ValueError(reason)  # outside the handler: a chained error may quote the file


def has_pixels(file: BinaryIO) -> bool:
    """Tell whether a DICOM file describes an image, from its header; True if that is damaged."""
    file.seek(0)
    try:
        with quiet():
            return "Rows" in dcmread(file, stop_before_pixels=True, specific_tags=["Rows"])
    except Exception:  # noqa: BLE001  pydicom raises anything; `read_dicom` will say what is wrong
        return True


def _read(content: bytes) -> Image.Image:
    file = BytesIO(content)
    file.seek(AFTER_PREAMBLE)
    meta = read_dataset(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, *_: tag >> 16 != 2,  # noqa: PLR2004  the file meta group
        specific_tags=[Tag("TransferSyntaxUID")],
    )
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if not re.fullmatch(r"[0-9.]{1,64}", syntax):
        raise _UnusableError("it names no transfer syntax")
    if syntax == DeflatedExplicitVRLittleEndian:
        file = BytesIO(_inflate(file.read()))
    dataset = read_dataset(
        file,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        specific_tags=[Tag(keyword) for keyword in _KEYWORDS],
    )
    dataset.file_meta = FileMetaDataset(meta)
    bits, signed = _check_header(dataset)
    pixels = _decode(dataset, UID(syntax), bits, signed)
    lowest = -(1 << (bits - 1)) if signed else 0
    stored = np.arange(lowest, lowest + (1 << bits))
    rows = pixels.astype(np.int32) - lowest
    if rows.min() < 0 or rows.max() >= len(stored):
        raise _UnusableError(f"its pixels take more than the {bits} bits that its header says")
    levels, warning = _grey_levels(dataset, stored, np.bincount(rows.ravel(), minlength=1 << bits))
    image = Image.fromarray(levels[rows])
    image.info["warnings"] = [text for text in (warning, _age_warning(dataset)) if text]
    return image


def _decode(dataset: Dataset, syntax: UID, bits: int, signed: bool) -> NDArray[np.integer[Any]]:
    """The stored values [H, W]."""
    decoder = None
    if syntax not in _BY_IMAGECODECS:
        with contextlib.suppress(NotImplementedError):
            decoder = get_decoder(syntax)
        if decoder is None or not decoder.is_available:
            raise _UnusableError(
                f"its pixels are encoded as {syntax.name}, which no installed decoder reads;"
                " export it uncompressed"
            )
    _check_pixel_data(dataset, syntax)
    try:
        if decoder is not None:
            pixels, _ = decoder.as_array(dataset, index=0, raw=True)
            return pixels
        values = jpeg8_decode(get_frame(dataset.PixelData, 0, number_of_frames=1))
    except Exception:  # noqa: BLE001  decoders raise anything
        raise _UnusableError(
            f"its pixels cannot be decoded as {syntax.name}; export it uncompressed"
        ) from None
    sign = 1 << (bits - 1) if signed else 0
    return (values.astype(np.int32) ^ sign) - sign


def _age_warning(dataset: Dataset) -> str | None:
    age = re.fullmatch(r"(\d{3})([DWMY])", str(dataset.get("PatientAge", "")).strip())
    if age is None:
        return None
    years = int(age[1]) * _YEARS[age[2]]
    if _AGES[0] <= years < _AGES[1] + 1:
        return None
    return (
        f"the patient is {years:.3g} years old; the children of the Kaggle set are {_AGES[0]} to"
        f" {_AGES[1]}"
    )


def _inflate(deflated: bytes) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(deflated, MAX_BYTES + 1)
    if len(inflated) > MAX_BYTES:
        raise _UnusableError(f"it inflates to more than {MAX_BYTES:,} bytes")
    return inflated


def _check_header(dataset: Dataset) -> tuple[int, bool]:
    """Refuse all but a single grey frame; return bits stored and signedness."""
    if "PixelData" not in dataset:
        raise _UnusableError("it holds no pixels")
    frames = _integer(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise _UnusableError(f"it has {frames} frames, expected one")
    meaning = str(dataset.get("PhotometricInterpretation", ""))
    if not meaning.startswith("MONOCHROME") or _integer(dataset, "SamplesPerPixel", 1) != 1:
        raise _UnusableError("its PhotometricInterpretation is not MONOCHROME1 or MONOCHROME2")
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    if not (rows > 0 and columns > 0 and rows * columns <= MAX_PIXELS):
        raise _UnusableError(
            f"its Rows and Columns are {rows:,} and {columns:,}, more than {MAX_PIXELS:,} pixels"
        )
    allocated, bits = _integer(dataset, "BitsAllocated"), _integer(dataset, "BitsStored")
    if allocated not in {8, 16} or not 8 <= bits <= allocated:  # noqa: PLR2004
        raise _UnusableError(f"its BitsStored is {bits} of {allocated}, expected 8 to 16")
    if _integer(dataset, "HighBit", bits - 1) != bits - 1:
        raise _UnusableError("its HighBit is not BitsStored - 1")
    return bits, _integer(dataset, "PixelRepresentation", 0) == 1


def _check_pixel_data(dataset: Dataset, syntax: UID) -> None:
    """Compare the size of the pixels with the header before a decoder allocates memory."""
    expected = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
    if not syntax.is_encapsulated:
        if len(dataset.PixelData) < expected:
            raise _UnusableError("its pixels are truncated")
        return
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if syntax == RLELossless:
        same = len(frame) <= 2 * expected + 1024  # at worst a control byte for each literal
    else:
        same = _frame_size(frame) == (dataset.Columns, dataset.Rows, 1)
    if not same:
        raise _UnusableError("the size of its compressed pixels is not that of its header")
    # Without an end marker, CharLS reads for 8 s, and beyond the stream; JPEG goes on with grey.
    if syntax in (*JPEGLSTransferSyntaxes, *_BY_IMAGECODECS) and b"\xff\xd9" not in frame[-16:]:
        raise _UnusableError("its compressed pixels are truncated")


_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Second bytes of the markers that open a JPEG or JPEG-LS frame (ITU T.81 B.1, T.87 C.1)."""
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


def _frame_size(frame: bytes) -> tuple[int, int, int]:
    """Width, height and channels in the header of a JPEG, JPEG-LS or JPEG 2000 stream."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 1024)  # JPEG 2000, perhaps behind JP2 boxes
    if start >= 0:  # ITU T.800 A.5.1
        x1, y1, x0, y0 = struct.unpack_from(">4I", frame, start + 8)
        return x1 - x0, y1 - y0, struct.unpack_from(">H", frame, start + 40)[0]
    at = 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:  # noqa: PLR2004
        marker = frame[at + 1]
        if marker == 0xFF:  # noqa: PLR2004  a fill byte
            at += 1
        elif marker in _STANDALONE:
            at += 2
        elif marker in _FRAME_HEADERS:  # length, precision, height, width, channels
            height, width, channels = struct.unpack_from(">HHB", frame, at + 5)
            return width, height, channels
        else:
            at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    raise _UnusableError("its compressed pixels are damaged")


def _grey_levels(
    dataset: Dataset, stored: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], str | None]:
    """Grey levels of all possible stored values: PS3.3 C.11, in the order of PS3.4 N.2.

    `counts` are the pixels with each value. The second result is a warning of a guessed depth.
    """
    padding = np.zeros(len(stored), np.bool_)
    first = _stored_value(dataset, "PixelPaddingValue", stored)
    if first is not None:
        last = _stored_value(dataset, "PixelPaddingRangeLimit", stored)
        last = first if last is None else last
        padding = (min(first, last) <= stored) & (stored <= max(first, last))
    brightness, warning = _brightness(dataset, stored, (counts > 0) & ~padding)
    levels = (256 * brightness).clip(0, 255).astype(np.uint8)
    inverse = str(dataset.get("PresentationLUTShape", "")).strip().upper() == "INVERSE"
    # One inversion, not two: PS3.3 C.8.11.3 asks for both attributes in an inverted image.
    if str(dataset.get("PhotometricInterpretation")) == "MONOCHROME1" or inverse:
        levels = 255 - levels
    levels[padding] = 0
    return levels, warning


def _brightness(
    dataset: Dataset, stored: NDArray[np.int64], used: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], str | None]:
    """Modality LUT or rescale, then VOI LUT or window; 0 to 1."""
    values = stored.astype(np.float64)
    stated = len(values).bit_length() - 1
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if table := dataset.get("ModalityLUTSequence"):
        values, stated = _look_up(dataset, table[0], values)
        slope = None
    full_range, warning = _full_range(values, stated, used, (slope or 0) < 0)
    if slope is not None and intercept is not None:
        if not slope:
            raise _UnusableError("its RescaleSlope is 0")
        values = values * slope + intercept
    if table := dataset.get("VOILUTSequence"):
        values, depth = _look_up(dataset, table[0], values)
        return values / (1 << depth), None
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if centre is None or width is None:
        return full_range, warning
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    return _window(values, centre, width, function), None


def _full_range(
    values: NDArray[np.float64], stated: int, used: NDArray[np.bool_], descending: bool
) -> tuple[NDArray[np.float64], str | None]:
    """The values from 0 to below 1 by the depth of those that occur."""
    found = values[used] if used.any() else values[-1:]
    low, high = int(found.min()), int(found.max())
    if low >= 0:
        depth, warning = bit_depth(high, stated - int(values[0] < 0))
        levels = values
    else:
        depth, warning = bit_depth(2 * max(high, -1 - low) + 1, stated)
        levels = values + (1 << (depth - 1))
    return (((1 << depth) - 1 - levels) if descending else levels) / (1 << depth), warning


def _window(
    values: NDArray[np.float64], centre: float, width: float, function: str
) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2.1 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT), from 0 to 1."""
    function = function.strip().upper()
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        raise _UnusableError("its VOILUTFunction is not LINEAR, LINEAR_EXACT or SIGMOID")
    if width < 1 if function == "LINEAR" else width <= 0:
        raise _UnusableError(f"its WindowWidth of {width:g} is too small")
    if function == "SIGMOID":  # 1 / (1 + exp(-4 x)), without overflow
        return 0.5 + 0.5 * np.tanh(2 * (values - centre) / width)
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if not width:
        return (values > centre).astype(np.float64)
    return ((values - centre) / width + 0.5).clip(0, 1)


def _look_up(
    dataset: Dataset, table: Dataset, values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int]:
    """PS3.3 C.11.1.1 and C.11.2.1.1: entries for the values, and their bits.

    In pydicom 3.0.2, `apply_voi_lut` wraps a table from 12 bits to 8.
    """
    try:
        count, first, depth = (int(part) for part in table.LUTDescriptor)
        data = table.LUTData
    except (AttributeError, TypeError, ValueError):
        raise _UnusableError("one of its lookup tables is damaged") from None
    count = count % _UINT16 or _UINT16  # 0 stands for 65,536
    if first >= _UINT16 // 2 and values[0] < 0:  # a signed number written as unsigned
        first -= _UINT16
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        entries = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * count else "u1")
    else:
        entries = np.ravel(data).astype(np.int64) % _UINT16
    if len(entries) < count or not 8 <= depth <= 16:  # noqa: PLR2004  bits that PS3.3 allows
        raise _UnusableError("one of its lookup tables is damaged")
    rows = np.clip(np.rint(values) - first, 0, count - 1).astype(np.int64)
    return np.minimum(entries[rows], (1 << depth) - 1).astype(np.float64), depth


def _stored_value(dataset: Dataset, keyword: str, stored: NDArray[np.int64]) -> int | None:
    """An attribute in the pixels' own representation; bytes where the file states no VR."""
    value = dataset.get(keyword)
    if isinstance(value, bytes) and len(value) == 2:  # noqa: PLR2004  one US or SS
        value = struct.unpack("<H", value)[0]
    if not isinstance(value, int):
        return None
    if stored[0] < 0:
        return (value + _UINT16 // 2) % _UINT16 - _UINT16 // 2
    return value % _UINT16


def _integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    found = _number(dataset, keyword)
    found = default if found is None else found
    if found is None:
        raise _UnusableError(f"it lacks {keyword}")
    return int(found)


def _number(dataset: Dataset, keyword: str) -> float | None:
    """A finite number, the first of several; None if missing or empty."""
    try:
        value = dataset.get(keyword)
        if value is None or value == "" or not np.size(value):
            return None
        found = float(np.ravel(value)[0])
    except (TypeError, ValueError):
        found = np.nan
    if not np.isfinite(found):
        raise _UnusableError(f"its {keyword} is not a number")
    return found
