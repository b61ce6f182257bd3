"""One look into one file: whether it decodes, and what tells it from others."""

import hashlib
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

from pneumonia.data.audit.fingerprint import fingerprint
from pneumonia.data.content import AFTER_PREAMBLE, is_dicom
from pneumonia.data.image import FORMATS, read_grey
from pneumonia.errors import DataError

Fault = Literal["empty", "not an image", "truncated", "oversized", "unreadable"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that is kept of a file: some 300 bytes, however large it is.

    Attributes:
        fault: What keeps the file from being read as an image; None if it decodes.
        detail: The fault in the words of whoever met it.
        size: Bytes.
        mode: Pillow's colour mode, such as `L` or `RGB`; `L` for DICOM, which is only read grey.
        width: Pixels.
        height: Pixels.
        digest: SHA-256 of the bytes; equal for identical files.
        fingerprint: Of what the image shows; see `pneumonia.data.audit.fingerprint`.
    """

    fault: Fault | None = None
    detail: str = ""
    size: int = 0
    mode: str = ""
    width: int = 0
    height: int = 0
    digest: bytes = b""
    fingerprint: bytes = b""


def inspect(path: str) -> Inspection:
    """Read a file once from end to end, as training would, and decode all of it.

    Args:
        path: Any file.

    Returns:
        What was found; no exception, whatever the file holds.
    """
    try:
        return _look(path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = f"{Image.MAX_IMAGE_PIXELS:,}" if Image.MAX_IMAGE_PIXELS else "the limit of"
        return Inspection("oversized", f"its header promises more than {limit} pixels")
    except UnidentifiedImageError:
        return Inspection("not an image", "its content is of no known image format")
    except OSError as error:
        detail = error.strerror or str(error)
        return Inspection("truncated" if "truncated" in detail.lower() else "unreadable", detail)
    except Exception as error:  # noqa: BLE001  a damaged file raises anything; the next one follows
        return Inspection("unreadable", f"{type(error).__name__}: {error}")


def _look(path: str) -> Inspection:
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited on for ever
        return Inspection("unreadable", "it is not a regular file")
    if not status.st_size:
        return Inspection("empty", "it has 0 bytes")
    with Path(path).open("rb") as file:
        dicom = is_dicom(file.read(AFTER_PREAMBLE))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
    mode, size = "L", (0, 0)
    if not dicom:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:  # the header alone
                mode, size = image.mode, image.size
    try:
        grey = read_grey(path)
    except DataError as error:
        raise error.__cause__ or error from None
    width, height = grey.size if dicom else size
    return Inspection(None, "", status.st_size, mode, width, height, digest, fingerprint(grey))
