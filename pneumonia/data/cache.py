"""Decoded once: the images of a listing at the network's size, kept between runs.

A cache is named by a fingerprint of all that went in: path, size and times of every file, and
the preprocessing. Whatever changes makes another cache, so the images of a cache are those
that were listed, for as long as a run lasts, even if the files change meanwhile; a run without
a cache reads what is there at that moment.

A cache is written aside and renamed when it is whole: a kill at any moment, two runs at once
or several ranks leave a whole one or none.
"""

import errno
import hashlib
import logging
import mmap
import os
import re
import shutil
import stat
import struct
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pneumonia.data.image_io import DECODER, Preprocessing
from pneumonia.data.parallel import parallel_map
from pneumonia.errors import DataError

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


log = logging.getLogger(__name__)

SUFFIX = ".pixels"
PARTIAL = ".partial"

ABANDONED = 3600
"""Seconds after which a partial file that nobody writes to is of a killed run."""

_WAYS_OUT = "point data.cache_dir elsewhere, or set data.cache=false"


class Cache:
    """The cached images of some files.

    Args:
        paths: The files, sorted; `pixels[i]` is of `paths[i]`.
        pixels: Their images.
    """

    def __init__(self, paths: NDArray[np.str_], pixels: Pixels) -> None:
        self.paths = paths
        self.pixels = pixels

    def rows(self, paths: NDArray[np.str_]) -> NDArray[np.int64]:
        """Where the images of some of the files are, int64 [N].

        Raises:
            KeyError: If one of them is not cached.
        """
        rows = np.searchsorted(self.paths, paths).clip(max=len(self.paths) - 1)
        if (self.paths[rows] != paths).any():
            raise KeyError(str(paths[self.paths[rows] != paths][0]))
        return rows.astype(np.int64)


@dataclass(frozen=True)
class CacheFile:
    """A cache on disk, or what a killed run left of one.

    Attributes:
        file: Where it is.
        size: Bytes.
        images: Their number; 0 for a file that is not whole.
        side: Of the square images, pixels; 0 for a file that is not whole.
    """

    file: Path
    size: int
    images: int = 0
    side: int = 0


def cache_directory(directory: str | Path | None = None) -> Path:
    """The folder of caches.

    Args:
        directory: As set by the user. None: `pneumonia` in the user's cache folder, which is
            `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        DataError: If there is no home to look in.
    """
    try:
        if directory is not None:
            return Path(directory).expanduser()
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # The XDG base directory specification: a relative path is to be ignored.
        return (base if base.is_absolute() else Path.home() / ".cache") / "pneumonia"
    except RuntimeError as error:
        raise DataError(
            f"There is no home folder to cache images in ({error}); {_WAYS_OUT}."
        ) from None


def open_cache(
    paths: NDArray[np.str_],
    preprocessing: Preprocessing,
    directory: str | Path | None = None,
    workers: int | None = None,
) -> Cache:
    """Open the cache of some images, and make it first if there is no sound one.

    Args:
        paths: Image files, at least one, in any order.
        preprocessing: How each becomes a square.
        directory: Folder of caches; see `cache_directory`.
        workers: Threads that decode; see `pneumonia.data.parallel.spread`.

    Raises:
        DataError: If an image cannot be read, changes meanwhile, or the folder cannot be
            written or is full.
    """
    paths = np.unique(paths)
    folder = cache_directory(directory)
    key = _fingerprint(paths, preprocessing)
    file = folder / f"{_label(paths)}-{preprocessing.image_size}-{key.hex()[:32]}{SUFFIX}"
    pixels = _open_sound(file, key)
    if pixels is None:
        _build(file, paths, preprocessing, key, workers)
        pixels = Pixels(file)
    return Cache(paths, pixels)


def list_caches(directory: str | Path | None = None) -> list[CacheFile]:
    """The caches in a folder, and what killed runs left there, by name.

    Args:
        directory: Folder of caches; see `cache_directory`.
    """
    found = []
    for file in sorted(_files(cache_directory(directory))):
        try:
            size = file.stat().st_size
            pixels = Pixels(file) if file.suffix == SUFFIX else None
        except FileNotFoundError:  # cleared meanwhile
            continue
        except (OSError, ValueError):
            pixels = None
        whole = (len(pixels), pixels.side) if pixels else (0, 0)
        found.append(CacheFile(file, size, *whole))
    return found


def clear_caches(directory: str | Path | None = None) -> list[CacheFile]:
    """Remove the caches in a folder; a run that reads one keeps it until it ends.

    Args:
        directory: Folder of caches; see `cache_directory`.

    Returns:
        What was removed.

    Raises:
        DataError: If a file cannot be removed.
    """
    caches = list_caches(directory)
    for cache in caches:
        try:
            cache.file.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{cache.file} cannot be removed ({error.strerror}).") from error
    return caches


def _files(folder: Path) -> Iterator[Path]:
    yield from folder.glob(f"*{SUFFIX}")
    yield from folder.glob(f".*{SUFFIX}.*{PARTIAL}")


def _fingerprint(paths: NDArray[np.str_], preprocessing: Preprocessing) -> bytes:
    digest = hashlib.sha256(repr((DECODER, astuple(preprocessing))).encode())
    for path in map(str, paths):
        try:
            status = os.stat(path)  # noqa: PTH116  thousands of them: Path objects double the time
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from error
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a regular file; replace it or remove it.")
        # The time of the last change of the inode tells a file that was replaced by one of the
        # same size and time of modification, as `rsync --times` and `cp -p` do.
        what = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(os.fsencode(os.path.abspath(path)))  # noqa: PTH100  likewise
        digest.update(repr(what).encode())
    return digest.digest()


def _label(paths: NDArray[np.str_]) -> str:
    """What a person recognises the cache by: the last two folders that all files share."""
    name = "_".join(_shared(paths).parts[1:][-2:])
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._")[:60] or "images"


def _shared(paths: NDArray[np.str_]) -> Path:
    """The folder that holds all files; what the first and last of a sorted list share, all do."""
    return Path(os.path.commonpath([Path(str(path)).absolute().parent for path in paths[[0, -1]]]))


def _open_sound(file: Path, key: bytes) -> Pixels | None:
    try:
        pixels = Pixels(file)
        pixels.check(key)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None  # the writing will say so
    except PermissionError as error:
        raise _unusable(file.parent, error) from error
    except (OSError, ValueError) as error:
        log.warning("The cache %s is damaged (%s) and is made anew.", file, error)
        return None
    return pixels


def _build(
    file: Path,
    paths: NDArray[np.str_],
    preprocessing: Preprocessing,
    key: bytes,
    workers: int | None,
) -> None:
    side, count = preprocessing.image_size, len(paths)
    needed = size_on_disk(count, side)
    partial = file.with_name(f".{file.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{PARTIAL}")
    with _room(file.parent, needed):
        file.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(file.parent)
        if _free(file.parent) < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        log.info(
            "Decoding %d images once, at %d pixels, into %s (%s)", count, side, file, _mega(needed)
        )
        # Two threads read 1.8 times what one does, and 1.4 times what two processes do.
        files = [str(path) for path in paths]
        images = parallel_map(preprocessing.read, files, "caching images", workers, threads=True)
        try:
            with closing(images):
                write_pixels(partial, images, count, side, key)
            if _fingerprint(paths, preprocessing) != key:
                raise DataError(
                    f"Images in {_shared(paths)} changed while they were cached; start again when"
                    " nothing writes there."
                )
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _room(folder: Path, needed: int) -> Iterator[None]:
    """Put what the disk has to say into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise _unusable(folder, error) from error
        raise DataError(
            f"The cache of decoded images needs {_mega(needed)} in {folder}, which has"
            f" {_mega(_free(folder))} free; make room, {_WAYS_OUT}."
        ) from error


def _free(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _unusable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"The folder for decoded images {folder} cannot be used ({error.strerror}); {_WAYS_OUT}."
    )


def _remove_abandoned(folder: Path) -> None:
    for file in _files(folder):
        try:
            if file.suffix == PARTIAL and time.time() - file.stat().st_mtime > ABANDONED:
                file.unlink()
        except FileNotFoundError:  # another run was faster
            continue


def _mega(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
