"""Silence while libraries read a file: what they warn about may quote the file."""

import ctypes
import functools
import logging
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO

from PIL import _imaging

Source = str | os.PathLike[str] | bytes
"""Where an image comes from: a file's path, or what is in the file."""

MAX_PIXELS = 89_478_485
"""Larger images are refused by name before they are decoded: Pillow's own warning limit for
decompression bombs. The largest radiographs (43 cm at 0.1 mm) have 19 million."""

MOST_BYTES = 256 << 20
"""Larger files are refused by name before they are opened: `MAX_PIXELS` take as much at three
bytes a pixel, uncompressed. A radiograph of 19 million pixels at 16 bits takes 38 MB."""

_MARK = b"DICM"
AFTER_PREAMBLE = 128 + len(_MARK)
"""Where the content of a DICOM file begins."""


def open_bounded(source: Source) -> BinaryIO:
    """Open what a source holds, once it is known to be in bounds.

    Args:
        source: A path, or a file's content.

    Returns:
        At its first byte; for the caller to close.

    Raises:
        ValueError: If it is no regular file, is empty, or is too large. A pipe or a device,
            which could be waited on for ever, is not opened.
        OSError: If the file is missing or cannot be opened.
    """
    if isinstance(source, bytes):
        _check_size(len(source))
        return BytesIO(source)
    status = os.stat(source)  # noqa: PTH116  a Path takes longer, for every image of an epoch
    if stat.S_ISDIR(status.st_mode):
        raise ValueError("it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    _check_size(status.st_size)
    return open(source, "rb")  # noqa: PTH123  likewise


def is_dicom(start: bytes) -> bool:
    """Whether a file has the mark of DICOM: `DICM` after 128 bytes (PS3.10, 7.1).

    A file without it is not guessed at: its encoding could only be tried out, and anything
    parses as something. `dcmconv` or an export from the archive writes the mark.

    Args:
        start: At least the first `AFTER_PREAMBLE` bytes.
    """
    return start[AFTER_PREAMBLE - len(_MARK) : AFTER_PREAMBLE] == _MARK


def _check_size(size: int) -> None:
    if not size:
        raise ValueError("it is empty")
    if size > MOST_BYTES:
        raise ValueError(f"its {size:,} bytes are more than the {MOST_BYTES:,} of any radiograph")


_LOGGERS = (
    "pydicom",
    "pydicom.pixels.decoders.base",
    "pydicom.pixels.utils",
    "pylibjpeg",
    "pylibjpeg.utils",
    "openjpeg",
    "openjpeg.utils",
    "jpeg_ls",
)
"""Every logger that takes part in reading DICOM; a filter is not handed down to a child."""

_reading = threading.local()
_lock = threading.Lock()
_readers = 0
_show = warnings.showwarning


def silence_dicom() -> None:
    """Make the loggers of DICOM libraries heed `quiet`; elsewhere they log as before."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_logged_elsewhere)


@functools.cache
def silence_libtiff() -> None:
    """Make the libtiff inside Pillow keep its messages; they go to standard error, past Python.

    They cannot be told apart by thread, and Pillow reports the failure itself, so this lasts
    as long as the process. Where libtiff is linked into Pillow (Windows), it stays as it is.
    """
    library = ctypes.CDLL(_imaging.__file__)
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        handler = getattr(library, name, None)
        if handler is not None:
            handler.restype = ctypes.c_void_p
            handler(None)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the warnings that this thread would print, and what its DICOM libraries log.

    `warnings.catch_warnings` would swap state of the whole process, which decoding threads may
    leave swapped for good, and would make every other warning of the process show anew. Here
    the process keeps its filters, and other threads their warnings.
    """
    nested = getattr(_reading, "now", False)
    _reading.now = True
    _enter()
    try:
        yield
    finally:
        _reading.now = nested
        _leave()


def _enter() -> None:
    global _readers, _show  # noqa: PLW0603  `warnings` has one such hook for the whole process
    with _lock:
        _readers += 1
        if warnings.showwarning is not _show_elsewhere:
            _show = warnings.showwarning
            warnings.showwarning = _show_elsewhere


def _leave() -> None:
    global _readers  # noqa: PLW0603
    with _lock:
        _readers -= 1
        if _readers == 0 and warnings.showwarning is _show_elsewhere:
            warnings.showwarning = _show


def _show_elsewhere(*args: Any, **kwargs: Any) -> None:
    if not getattr(_reading, "now", False):
        _show(*args, **kwargs)


def _logged_elsewhere(_: logging.LogRecord) -> bool:
    return not getattr(_reading, "now", False)
