"""Decoded images at the network's size, kept on disk between runs."""

import hashlib
import json
import logging
import mmap
import os
from contextlib import closing, suppress
from dataclasses import astuple
from pathlib import Path
from typing import cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pneumonia.data.image_io import DECODER, Preprocessing
from pneumonia.data.parallel import parallel_map
from pneumonia.errors import DataError
from pneumonia.files import atomic_replace, atomic_write

log = logging.getLogger(__name__)

_ARRAY = ".pixels.npy"


class Cache:
    """The cached images of some files, read-only; processes share its memory.

    Args:
        file: An array, uint8 [N, S, S].
        paths: The N image files, sorted.
    """

    def __init__(self, file: Path, paths: NDArray[np.str_]) -> None:
        self.file = file
        self.paths = paths
        self._images = np.load(file, mmap_mode="r")
        if self._images.dtype != np.uint8 or self._images.shape[:1] != paths.shape:
            raise ValueError(f"expected uint8 and {len(paths)} images")

    def rows(self, paths: NDArray[np.str_]) -> NDArray[np.int64]:
        """The rows of some of the files, int64 [N].

        Raises:
            KeyError: If one of them is not cached.
        """
        rows = np.searchsorted(self.paths, paths).clip(max=len(self.paths) - 1)
        if (self.paths[rows] != paths).any():
            raise KeyError(str(paths[self.paths[rows] != paths][0]))
        return rows.astype(np.int64)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """A copy of one image, uint8 [S, S]."""
        image = np.array(self._images[row])
        if hasattr(mmap, "MADV_DONTNEED"):
            # Otherwise every page read so far counts as this process's memory.
            cast(mmap.mmap, self._images.base).madvise(mmap.MADV_DONTNEED)
        return image

    def __reduce__(self) -> tuple[type["Cache"], tuple[Path, NDArray[np.str_]]]:
        return type(self), (self.file, self.paths)  # the other process maps the file again


def cache_directory(directory: str | Path | None = None) -> Path:
    """The folder of caches, by default `pneumonia` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        DataError: If the home folder is unknown.
    """
    try:
        if directory is not None:
            return Path(directory).expanduser()
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))  # by its standard, never relative
        return (base if base.is_absolute() else Path.home() / ".cache") / "pneumonia"
    except RuntimeError as error:
        raise DataError(f"There is no home folder ({error}); set data.cache_dir.") from None


def open_cache(
    paths: NDArray[np.str_], preprocessing: Preprocessing, directory: str | Path | None = None
) -> Cache:
    """Open the cache of some images, decoding them first if it does not exist.

    It is found by the path, size and times of every file, the preprocessing and the decoder.

    Args:
        paths: Image files, at least one, in any order.
        preprocessing: How each becomes a square.
        directory: Folder of caches; see `cache_directory`.

    Raises:
        DataError: If an image cannot be read or changes meanwhile, or the cache cannot be
            written.
    """
    paths = np.unique(paths)
    folder = cache_directory(directory)
    key = _digest(paths, preprocessing)
    file = folder / f"{preprocessing.image_size}-{key[:32]}{_ARRAY}"
    with suppress(OSError, ValueError, EOFError):  # missing or damaged
        if json.loads(file.with_suffix(".json").read_text(encoding="utf-8")) == {"key": key}:
            return Cache(file, paths)
    try:
        _build(file, paths, preprocessing, key)
        return Cache(file, paths)
    except OSError as error:
        needed = len(paths) * preprocessing.image_size**2
        raise DataError(
            f"The image cache ({needed / 1e6:,.1f} MB) cannot be written to {folder}"
            f" ({error.strerror}); make room, set data.cache_dir, or set data.cache=false."
        ) from error


def _digest(paths: NDArray[np.str_], preprocessing: Preprocessing) -> str:
    digest = hashlib.sha256(repr((DECODER, astuple(preprocessing))).encode())
    for path in map(str, paths):
        try:
            status = os.stat(path)  # noqa: PTH116  thousands of them: Path objects double the time
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from error
        # ctime tells a file that was replaced by one of the same size and mtime, as `cp -p` does.
        state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(os.fsencode(os.path.abspath(path)))  # noqa: PTH100  likewise
        digest.update(repr(state).encode())
    return digest.hexdigest()


def _build(file: Path, paths: NDArray[np.str_], preprocessing: Preprocessing, key: str) -> None:
    side, count = preprocessing.image_size, len(paths)
    log.info("Decoding %d images once, at %d pixels, into %s", count, side, file)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, side, side)}
    # Threads: decoding releases the GIL, and two of them beat two processes by 1.3.
    decoded = parallel_map(
        preprocessing.read, list(map(str, paths)), "caching images", threads=True
    )
    # Written as a stream: on a full disk a write to mapped memory kills the process.
    with atomic_replace(file) as partial, closing(decoded) as images:
        with partial.open("xb") as stream:
            npy.write_array_header_1_0(stream, header)
            for image in images:
                stream.write(image.tobytes())
        if _digest(paths, preprocessing) != key:
            raise DataError(
                f"Images changed while they were cached (first image: {paths[0]}); start again"
                " when no other program writes there."
            )
        with atomic_write(file.with_suffix(".json")) as text:
            json.dump({"key": key}, text)
