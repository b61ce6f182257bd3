"""Silence while libraries read a file: what they warn about may quote the file."""

import ctypes
import functools
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import _imaging

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


def hush_dicom() -> None:
    """Make the loggers of DICOM libraries heed `quiet`; elsewhere they log as before."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_logged_elsewhere)


@functools.cache
def hush_libtiff() -> None:
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
