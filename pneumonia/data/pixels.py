"""The file of a cache: one uint8 array on disk, sealed, that is read by mapping it.

It is an `.npy` file (`numpy.load` opens it) with a seal behind the array: a magic word, the
fingerprint of what the pixels were made from, and a CRC-32 of everything before. Only a whole
file carries one.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Iterable
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_MAGIC = b"PNEUPIX1"
_SEAL = struct.Struct("<8s32sI")
_CHUNK = 1 << 20
_FORGET: int | None = getattr(mmap, "MADV_DONTNEED", None)  # not on Windows


class Pixels:
    """Square images of one size on disk; a row is read when it is asked for.

    Processes that read the same file share its pages, and a copy that is sent to another
    process maps the file there rather than carrying the images along.

    Args:
        file: What `write_pixels` made.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is not such a file, or not a whole one.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with file.open("rb") as stream:
            shape, offset = _read_header(stream)
            whole = offset + int(np.prod(shape)) + _SEAL.size
            if os.fstat(stream.fileno()).st_size != whole:
                raise ValueError("it is not of the length that its header says")
            stream.seek(-_SEAL.size, os.SEEK_END)
            magic, self.fingerprint, self._checksum = _SEAL.unpack(stream.read())
            if magic != _MAGIC:
                raise ValueError("it carries no seal")
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._images = np.ndarray(shape, np.uint8, self._map, offset)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """A copy of one image, uint8 [S, S]."""
        image = np.array(self._images[row])
        if _FORGET is not None:
            # Pages once read count as memory of this process until it lets go of them, in the
            # end the whole file; the system keeps them for whoever reads them next.
            self._map.madvise(_FORGET)
        return image

    def __reduce__(self) -> tuple[type["Pixels"], tuple[Path]]:
        return type(self), (self.file,)

    @property
    def side(self) -> int:
        """S, the side of the images in pixels."""
        return int(self._images.shape[1])

    def check(self, fingerprint: bytes) -> None:
        """Read the whole file, at some 2 GB/s a core, and compare it with its seal.

        Args:
            fingerprint: 32 bytes, of what the pixels should be made from.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is damaged, or made from something else.
        """
        if self.fingerprint != fingerprint:
            raise ValueError("it was made from other images")
        checksum = 0
        with self.file.open("rb") as stream:
            left = os.fstat(stream.fileno()).st_size - _SEAL.size
            while left and (chunk := stream.read(min(left, _CHUNK))):
                checksum = zlib.crc32(chunk, checksum)
                left -= len(chunk)
        if checksum != self._checksum:
            raise ValueError("its content is not what was written")


def write_pixels(
    file: Path, images: Iterable[NDArray[np.uint8]], count: int, side: int, fingerprint: bytes
) -> None:
    """Write a file of images from first to last byte, and onto the disk.

    Args:
        file: To make; it must not exist.
        images: `count` arrays, uint8 [side, side].
        count: N.
        side: S, pixels.
        fingerprint: 32 bytes, of what the pixels are made from.

    Raises:
        OSError: If the disk is full or refuses.
    """
    header = BytesIO()
    what = {"descr": "|u1", "fortran_order": False, "shape": (count, side, side)}
    npy.write_array_header_1_0(header, what)
    checksum = 0
    with file.open("xb") as stream:
        for part in chain([header.getvalue()], (image.tobytes() for image in images)):
            stream.write(part)
            checksum = zlib.crc32(part, checksum)
        stream.write(_SEAL.pack(_MAGIC, fingerprint, checksum))
        stream.flush()
        os.fsync(stream.fileno())


def size_on_disk(count: int, side: int) -> int:
    """Bytes of a file of N images of S x S pixels, to within a kilobyte."""
    return count * side * side + 1024


def _read_header(stream: BinaryIO) -> tuple[tuple[int, ...], int]:
    if npy.read_magic(stream) != (1, 0):
        raise ValueError("it is of another version")
    shape, _, dtype = npy.read_array_header_1_0(stream)
    if dtype != np.uint8 or len(shape) != 3 or shape[1] != shape[2] or not shape[0]:  # noqa: PLR2004
        raise ValueError("it holds no square images of uint8")
    return shape, stream.tell()
