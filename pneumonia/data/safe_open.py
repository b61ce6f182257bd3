"""Size and type checks before a file is decoded, and silence while it is.

Pillow and pydicom warn in words that may quote the file, and so a patient.
"""

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO

Source = str | os.PathLike[str] | bytes
"""An image file's path, or its content."""

MAX_PIXELS = 89_478_485
"""Larger images are refused before decoding: Pillow's own warning limit for decompression bombs.
The largest radiographs (43 cm at 0.1 mm) have 19 million pixels."""

MAX_BYTES = 256 << 20
"""Larger files are refused before opening: `MAX_PIXELS` at three bytes a pixel, uncompressed."""

AFTER_PREAMBLE = 132
"""Offset of a DICOM file's content: 128 bytes of preamble and the letters DICM."""


def open_bounded(source: Source) -> BinaryIO:
    """Open a regular file of acceptable size.

    Args:
        source: A path, or a file's content.

    Returns:
        An open file at its first byte; the caller closes it.

    Raises:
        ValueError: If it is no regular file, empty or too large. Pipes and devices, which could
            block for ever, are not opened.
        OSError: If the file is missing or cannot be opened.
    """
    if isinstance(source, bytes):
        _check_size(len(source))
        return BytesIO(source)
    status = os.stat(source)  # noqa: PTH116  called for every image of an epoch
    if stat.S_ISDIR(status.st_mode):
        raise ValueError("it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    _check_size(status.st_size)
    return open(source, "rb")  # noqa: PTH123  as above


def is_dicom(start: bytes) -> bool:
    """Whether a file starts as DICOM files do (PS3.10, 7.1); files without the mark are not.

    Args:
        start: At least the first `AFTER_PREAMBLE` bytes.
    """
    return start[AFTER_PREAMBLE - 4 : AFTER_PREAMBLE] == b"DICM"


def _check_size(size: int) -> None:
    if not size:
        raise ValueError("it is empty")
    if size > MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than the limit of {MAX_BYTES:,}")


_decoding = threading.local()
_show_warning = warnings.showwarning


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the warnings that this thread would print.

    `warnings.catch_warnings` swaps state of the whole process, which is not safe in decoding
    threads; here other threads keep their warnings.
    """
    global _show_warning
    shown_by = warnings.showwarning
    if shown_by is not _show_unless_decoding:
        _show_warning, warnings.showwarning = shown_by, _show_unless_decoding
    before = is_quiet()
    _decoding.now = True
    try:
        yield
    finally:
        _decoding.now = before


def is_quiet() -> bool:
    """Whether this thread is inside `quiet`."""
    return getattr(_decoding, "now", False)


def _show_unless_decoding(*args: Any, **kwargs: Any) -> None:
    if not is_quiet():
        _show_warning(*args, **kwargs)
