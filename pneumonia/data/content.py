"""A path or bytes -> the bytes of one image file, within bounds."""

import os
import stat
from pathlib import Path

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


def read_content(source: Source) -> bytes:
    """Read a file from end to end, in bounds; bytes are checked and handed back.

    Args:
        source: A path, or a file's content.

    Returns:
        Between 1 and `MOST_BYTES` bytes.

    Raises:
        ValueError: If it is no regular file, is empty, or is too large. A pipe or a device,
            which could be waited on for ever, is not opened.
        OSError: If the file is missing or cannot be read.
    """
    if isinstance(source, bytes):
        _check_size(len(source))
        return source
    status = os.stat(source)  # noqa: PTH116  for every image of an epoch: a Path takes longer
    if stat.S_ISDIR(status.st_mode):
        raise ValueError("it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    _check_size(status.st_size)
    with Path(source).open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    _check_size(len(content))  # it may have grown or shrunk
    return content


def is_dicom(content: bytes) -> bool:
    """Whether a file's content has the mark of DICOM: `DICM` after 128 bytes (PS3.10, 7.1).

    A file without it is not guessed at: its encoding could only be tried out, and anything
    parses as something. `dcmconv` or an export from the archive writes the mark.

    Args:
        content: The file, or its first 132 bytes.
    """
    return content[AFTER_PREAMBLE - len(_MARK) : AFTER_PREAMBLE] == _MARK


def _check_size(size: int) -> None:
    if not size:
        raise ValueError("it is empty")
    if size > MOST_BYTES:
        raise ValueError(f"its {size:,} bytes are more than the {MOST_BYTES:,} of any radiograph")
