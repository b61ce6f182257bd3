"""A DICOM file -> the grey pixels that a workstation would show.

Needs the extra `dicom`, so it is imported when the first such file is read. What a file says
of its patient is never parsed, and never leaves this module: messages name attributes and
technical values, and what pydicom itself would say is dropped, since it quotes what it read.
"""

import re
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from pneumonia.data.safe_open import AFTER_PREAMBLE, MAX_PIXELS, MOST_BYTES, quiet, silence_dicom

_WORD = 1 << 16


class UnusableError(ValueError):
    """A reason in words of our own, which hold no value that could tell of a patient."""


def integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """Read an attribute that is a whole number.

    Args:
        dataset: Any.
        keyword: The attribute's.
        default: For where it is missing or empty. None: it must be there.

    Raises:
        UnusableError: If it is missing or no number.
    """
    found = number(dataset, keyword)
    if found is None:
        if default is None:
            raise UnusableError(f"it lacks {keyword}")
        return default
    return int(found)


def number(dataset: Dataset, keyword: str) -> float | None:
    """Read an attribute that is a number, or the first of several.

    Args:
        dataset: Any.
        keyword: The attribute's.

    Returns:
        Finite; None if it is missing or empty.

    Raises:
        UnusableError: If it is no number.
    """
    try:
        value = dataset.get(keyword)
        if value is None or value == "" or not np.size(value):
            return None
        found = float(np.ravel(value)[0])
    except (TypeError, ValueError):
        found = np.nan
    if not np.isfinite(found):
        raise UnusableError(f"its {keyword} is no number")
    return found


def shown(dataset: Dataset, stored: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Map stored values to grey levels: PS3.3 C.11, in the order of PS3.4 N.2.

    Args:
        dataset: Attributes of the image, with nothing from its pixels.
        stored: Every value that a pixel can have, shape (n,), ascending.

    Returns:
        Shape (n,), 0 black to 255 white.

    Raises:
        UnusableError: If an attribute cannot be applied.
    """
    share = _brightness(dataset, stored)
    levels = np.minimum(256 * share, 255).astype(np.uint8)  # 16 bits become 8 as by a shift
    inverse = str(dataset.get("PresentationLUTShape", "")).strip().upper() == "INVERSE"
    # One inversion, not two: PS3.3 C.8.11.3 asks for both attributes in an inverted image.
    if str(dataset.get("PhotometricInterpretation")) == "MONOCHROME1" or inverse:
        levels = 255 - levels
    first = _stored(dataset, "PixelPaddingValue", stored)
    if first is not None:
        last = _stored(dataset, "PixelPaddingRangeLimit", stored)
        last = first if last is None else last
        levels[(min(first, last) <= stored) & (stored <= max(first, last))] = 0
    return levels


def _brightness(dataset: Dataset, stored: NDArray[np.int64]) -> NDArray[np.float64]:
    """Modality LUT or rescale, then VOI LUT or window; 0 to 1."""
    values = stored.astype(np.float64)
    share: NDArray[np.float64] = (values - values[0]) / len(values)
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if table := dataset.get("ModalityLUTSequence"):
        values, depth = _look_up(dataset, table[0], values)
        share = values / (1 << depth)
    elif slope is not None and intercept is not None:
        if not slope:
            raise UnusableError("its RescaleSlope is 0")
        values = values * slope + intercept
        share = share if slope > 0 else (len(values) - 1) / len(values) - share
    if table := dataset.get("VOILUTSequence"):
        values, depth = _look_up(dataset, table[0], values)
        return values / (1 << depth)
    centre, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    if centre is None or width is None:
        return share
    return _window(values, centre, width, str(dataset.get("VOILUTFunction") or "LINEAR"))


def _window(
    values: NDArray[np.float64], centre: float, width: float, function: str
) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2.1 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT), from 0 to 1."""
    function = function.strip().upper()
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        raise UnusableError("its VOILUTFunction is none of LINEAR, LINEAR_EXACT and SIGMOID")
    if width < 1 if function == "LINEAR" else width <= 0:
        raise UnusableError(f"its WindowWidth of {width:g} is too small")
    if function == "SIGMOID":  # 1 / (1 + exp(-4 x)), which cannot overflow when written so
        return 0.5 + 0.5 * np.tanh(2 * (values - centre) / width)
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if not width:
        return (values > centre).astype(np.float64)
    return ((values - centre) / width + 0.5).clip(0, 1)


def _look_up(
    dataset: Dataset, table: Dataset, values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int]:
    """PS3.3 C.11.1.1 and C.11.2.1.1: entries for the values, and the bits that they take.

    `pydicom.pixels.apply_voi_lut` would do, but that it counts the rows of a table in the type
    of its entries (3.0.2): a table from 12 bits to 8 comes out wrapped.
    """
    try:
        count, first, depth = (int(part) for part in table.LUTDescriptor)
        data = table.LUTData
    except (AttributeError, TypeError, ValueError):
        raise UnusableError("a lookup table of it is damaged") from None
    count = count % _WORD or _WORD
    if first >= _WORD // 2 and values[0] < 0:  # a signed number that was written as unsigned
        first -= _WORD
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        entries = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * count else "u1")
    else:
        entries = np.ravel(data).astype(np.int64) % _WORD
    if len(entries) < count or not 8 <= depth <= 16:  # noqa: PLR2004  bits that PS3.3 allows
        raise UnusableError("a lookup table of it is damaged")
    rows = np.clip(np.rint(values) - first, 0, count - 1).astype(np.int64)
    return np.minimum(entries[rows], (1 << depth) - 1).astype(np.float64), depth


def _stored(dataset: Dataset, keyword: str, stored: NDArray[np.int64]) -> int | None:
    """A value of pixels, signed as they are; without a VR in the file it comes as bytes."""
    value: Any = dataset.get(keyword)
    if isinstance(value, bytes) and len(value) == 2:  # noqa: PLR2004  one US or SS
        value = struct.unpack("<H", value)[0]
    if not isinstance(value, int):
        return None
    if stored[0] < 0:
        return (value + _WORD // 2) % _WORD - _WORD // 2
    return value % _WORD


_KEYWORDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope",
    "VOILUTFunction", "ModalityLUTSequence", "VOILUTSequence", "PresentationLUTShape",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
)  # fmt: skip
"""All that is parsed; everything else in a file is skipped."""

_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Second bytes of the markers that open a JPEG or JPEG-LS frame (ITU T.81 B.1, T.87 C.1)."""
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_J2K_START = b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"
_SLACK = 16
"""Bytes that may pad a stream behind its end."""


def read_dicom(content: bytes) -> Image.Image:
    """Decode a single grey frame and map it to 8 bits as PS3.3 C.11 and PS3.4 N.2 say.

    The steps: stored value; modality LUT or rescale; VOI LUT, else the first window; inversion
    for MONOCHROME1 or an inverse presentation. Pixels that pad the image are black.

    Without window and VOI LUT the full range of the stored bits (of the modality LUT's, if
    there is one) becomes 0..255, as the 16 bits of a PNG do. The smallest and largest pixel
    are not used: a marker or a dead pixel would then set the contrast, and an 8-bit image
    would not stay what it is. So a DICOM file made from a JPEG gives the JPEG's pixels. Raw
    exports of 12 bits or more without a window come out dark or flat: export them with one.

    Args:
        content: A DICOM file with its preamble, as `pneumonia.data.safe_open.is_dicom` tells.

    Returns:
        Mode `L`, 0 black to 255 white.

    Raises:
        ValueError: If it holds no pixels, colour, or several frames; is too large, damaged, or
            compressed in a way that the installed decoders cannot read. The message and its
            context hold no value of the file but technical ones.
    """
    silence_dicom()
    with quiet():
        try:
            return _read(content)
        except UnusableError as error:
            reason = str(error)
        except Exception:  # noqa: BLE001  anything, and in words that may quote the file
            reason = "its DICOM content is damaged"
    raise ValueError(reason)  # outside of the handler, or the traceback would carry those words


def _read(content: bytes) -> Image.Image:
    file = BytesIO(content)
    file.seek(AFTER_PREAMBLE)
    meta = read_dataset(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, *_: tag >> 16 != 2,  # noqa: PLR2004  the group of the file itself
        specific_tags=[Tag("TransferSyntaxUID")],
    )
    syntax = str(meta.get("TransferSyntaxUID", ""))
    decoder = _decoder(syntax)
    if syntax == DeflatedExplicitVRLittleEndian:
        file = BytesIO(_inflate(file.read()))
    dataset = read_dataset(
        file,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        specific_tags=[Tag(keyword) for keyword in _KEYWORDS],
    )
    dataset.file_meta = FileMetaDataset(meta)
    bits, signed = _check(dataset)
    _check_length(dataset, decoder, syntax)
    try:
        pixels, _ = decoder.as_array(dataset, index=0, raw=True)
    except Exception:  # noqa: BLE001  decoders raise anything
        raise UnusableError(
            f"its pixels cannot be decoded as {UID(syntax).name}; export it uncompressed"
        ) from None
    lowest = -(1 << (bits - 1)) if signed else 0
    stored = np.arange(lowest, lowest + (1 << bits))
    rows = pixels.astype(np.int32) - lowest
    if rows.min() < 0 or rows.max() >= len(stored):
        raise UnusableError(f"its pixels take more than the {bits} bits that its header says")
    # Every step is a function of the stored value: 65,536 of them at most, and not of millions.
    return Image.fromarray(shown(dataset, stored)[rows])


def _decoder(syntax: str) -> Decoder:
    if not re.fullmatch(r"[0-9.]{1,64}", syntax):
        raise UnusableError("it names no transfer syntax")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        raise UnusableError(
            f"its pixels are encoded as {UID(syntax).name}, which no installed decoder reads;"
            " export it uncompressed"
        )
    return decoder


def _inflate(deflated: bytes) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(deflated, MOST_BYTES + 1)
    if len(inflated) > MOST_BYTES:
        raise UnusableError(f"it inflates to more than {MOST_BYTES:,} bytes")
    return inflated


def _check(dataset: Dataset) -> tuple[int, bool]:
    """Refuse what is no single grey frame of a sane size; return bits stored and signedness."""
    if "PixelData" not in dataset:
        raise UnusableError("it holds no pixels")
    frames = integer(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise UnusableError(f"it has {frames} frames; give one image")
    meaning = str(dataset.get("PhotometricInterpretation", ""))
    if not meaning.startswith("MONOCHROME") or integer(dataset, "SamplesPerPixel", 1) != 1:
        known = re.fullmatch(r"RGB|YBR_[A-Z_0-9]{3,12}|PALETTE COLOR", meaning)
        raise UnusableError(
            f"its pixels are {meaning if known else 'of no known kind'}, expected MONOCHROME1 or"
            " MONOCHROME2"
        )
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    if not (rows > 0 and columns > 0 and rows * columns <= MAX_PIXELS):
        raise UnusableError(
            f"its {columns:,} x {rows:,} pixels are none, or more than the {MAX_PIXELS:,} of any"
            " radiograph"
        )
    allocated, bits = integer(dataset, "BitsAllocated"), integer(dataset, "BitsStored")
    if allocated not in {8, 16} or not 8 <= bits <= allocated:  # noqa: PLR2004
        raise UnusableError(
            f"its pixels store {bits} of {allocated} bits, expected 8 to 16 of 8 or 16"
        )
    if integer(dataset, "HighBit", bits - 1) != bits - 1:
        raise UnusableError("its pixels are not stored in the lowest bits")
    return bits, integer(dataset, "PixelRepresentation", 0) == 1


def _check_length(dataset: Dataset, decoder: Decoder, syntax: str) -> None:
    """Refuse pixels that are not as many as the header says, before a decoder makes them."""
    size = dataset.Columns, dataset.Rows
    expected = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
    if decoder.is_native:
        if len(dataset.PixelData) < expected:
            raise UnusableError("its pixels are truncated")
        return
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if syntax == RLELossless:
        if len(frame) > 2 * expected + 1024:  # literal bytes take a control byte each at worst
            raise UnusableError("its pixels are more than its header says")
        return
    # CharLS searches for 8 s, and beyond the stream, for an end that is not there.
    if syntax in JPEGLSTransferSyntaxes and _END not in frame[-_SLACK:]:
        raise UnusableError("its compressed pixels are truncated")
    found = _frame_size(frame)
    if found != (*size, 1):
        raise UnusableError(
            f"its compressed pixels are {found[0]:,} x {found[1]:,} of {found[2]} channels, its"
            f" header says {size[0]:,} x {size[1]:,} of 1"
        )


def _frame_size(frame: bytes) -> tuple[int, int, int]:
    """Width, height and channels that a JPEG, JPEG-LS or JPEG 2000 stream says it has."""
    start = frame.find(_J2K_START, 0, 1024)  # some writers leave the boxes of a JP2 file before it
    if start >= 0:  # ITU T.800 A.5.1
        x1, y1, x0, y0 = struct.unpack_from(">4I", frame, start + 8)
        return x1 - x0, y1 - y0, struct.unpack_from(">H", frame, start + 40)[0]
    at = 2
    while at + 10 <= len(frame):
        marker = frame[at + 1]
        if frame[at] != 0xFF:  # noqa: PLR2004
            break
        if marker == 0xFF or marker in _STANDALONE:  # noqa: PLR2004  fill bytes
            at += 1 if marker == 0xFF else 2  # noqa: PLR2004
            continue
        if marker in _FRAME_HEADERS:  # length, precision, height, width, channels
            height, width, channels = struct.unpack_from(">HHB", frame, at + 5)
            return width, height, channels
        at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    raise UnusableError("its compressed pixels are damaged")
