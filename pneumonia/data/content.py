"""A path or bytes -> the open content of one image file, within bounds."""

import os
import stat
from io import BytesIO
from typing import BinaryIO

Source = str | os.PathLike[str] | bytes
"""Where an image comes from: a file's path, or what is in the file."""

MOST_PIXELS = 89_478_485
"""Larger images are refused by name before they are decoded: Pillow's own warning limit for
decompression bombs. The largest radiographs (43 cm at 0.1 mm) have 19 million."""

MOST_BYTES = 256 << 20
"""Larger files are refused by name before they are opened: `MOST_PIXELS` take as much at three
bytes a pixel, uncompressed. A radiograph of 19 million pixels at 16 bits takes 38 MB."""

_MARK = b"DICM"
AFTER_PREAMBLE = 128 + len(_MARK)
"""Where the content of a DICOM file begins."""


def open_content(source: Source) -> BinaryIO:
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
