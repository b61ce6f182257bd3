"""Size and type checks before a file is decoded, and no warnings while it is."""

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
"""Pillow's warning limit for decompression bombs; the largest radiographs have 19 million."""

MAX_BYTES = 256 << 20
"""Size of an uncompressed file of `MAX_PIXELS` at three bytes each."""

AFTER_PREAMBLE = 132
"""Offset of a DICOM file's content: 128 bytes of preamble and the letters DICM."""


def open_bounded(source: Source) -> BinaryIO:
    """Open a path or a file's content; the caller closes it.

    Raises:
        ValueError: If it is not a regular file, empty or too large. Pipes and devices, which could
            block for ever, are not opened.
        OSError: If the file is missing or cannot be opened.
    """
    if isinstance(source, bytes):
        size = len(source)
    else:
        status = os.stat(source)  # noqa: PTH116  called for every image of an epoch
        if not stat.S_ISREG(status.st_mode):
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "pipe or device"
            raise ValueError(f"it is a {kind}")
        size = status.st_size
    if not size:
        raise ValueError("it is empty")
    if size > MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than the limit of {MAX_BYTES:,}")
    return BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: PTH123


def is_dicom(start: bytes) -> bool:
    """Whether a file starts as DICOM files do (PS3.10, 7.1), given `AFTER_PREAMBLE` bytes."""
    return start[AFTER_PREAMBLE - 4 : AFTER_PREAMBLE] == b"DICM"


_decoding = threading.local()
_show_warning = warnings.showwarning


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the warnings of this thread, since those of a decoder may quote a patient's name.

    `warnings.catch_warnings` would drop those of all threads.
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
