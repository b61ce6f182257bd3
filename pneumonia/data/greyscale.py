"""The stored values of a grey DICOM image -> the grey levels that a workstation would show."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

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
