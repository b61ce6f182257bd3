"""What a user names on the command line -> a list of image files."""

import glob
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.image_io import Preprocessing, from_array, read_grey, to_grey
from pneumonia.data.parallel import available_cores
from pneumonia.errors import ConfigError, DataError
from pneumonia.inference.types import Pixels

LEAST_SIDE = 32
"""Smaller images are refused: they hold no lung that could be read."""

_SHAPES = (0.6, 2.6)
_CONTRAST = 40
_WHITE, _BLACK = 0.1, 0.5
_TAIL = 5


def check_size(image: Image.Image, name: str) -> None:
    """Refuse an image that is too small to be a radiograph.

    Args:
        image: As decoded.
        name: What to call it.

    Raises:
        DataError: If a side is below 32 pixels.
    """
    if min(image.size) < LEAST_SIDE:
        raise DataError(
            f"{name} has {image.width} x {image.height} pixels, fewer than the {LEAST_SIDE} each"
            " way that a radiograph needs; give the original."
        )


def quality_warnings(image: Image.Image, pixels: Pixels) -> tuple[str, ...]:
    """Say what is wrong with an image.

    Every bound lies outside what 68 originals (shape) and 5,216 images (grey levels) of the Kaggle
    set show: aspect ratios of 0.93 to 1.93, at least 68 grey levels between the 5th and the 95th
    percentile, at most 3% pure white and 30% pure black.

    Args:
        image: As decoded, any size.
        pixels: What the network sees of it, uint8 [S, S].

    Returns:
        A few words each.
    """
    found = []
    side = pixels.shape[0]
    if min(image.size) < side / 2:
        found.append(f"only {image.width} x {image.height} pixels, enlarged to {side}")
    ratio = image.width / image.height
    if not _SHAPES[0] <= ratio <= _SHAPES[1]:
        found.append(f"unusual shape, {image.width} x {image.height}")
    low, high = np.percentile(pixels, (_TAIL, 100 - _TAIL))
    if high - low < _CONTRAST:
        found.append(f"low contrast, {high - low:.0f} of 255 grey levels")
    for value, name, most in ((255, "white", _WHITE), (0, "black", _BLACK)):
        share = float((pixels == value).mean())
        if share > most:
            found.append(f"{share:.0%} of it is pure {name}")
    return tuple(found)


Source = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | NDArray[np.uint16]
"""An image: a file's path, a file's content, a PIL image of any mode, or an array as
`pneumonia.data.image_io.from_array` takes it."""


@dataclass(frozen=True)
class LoadedImage:
    """An image, read.

    Attributes:
        name: What to call it.
        pixels: What the network sees, uint8 [S, S].
        warnings: What is wrong with it, in words.
    """

    name: str
    pixels: Pixels
    warnings: tuple[str, ...]


def display_name(source: Source, number: int = 1) -> str:
    """Say what to call an image: a file by its path, anything else by its number.

    Args:
        source: The image.
        number: Its place among those asked about, from 1.
    """
    return os.fspath(source) if isinstance(source, str | os.PathLike) else f"image {number}"


def load_image(
    source: Source, preprocessing: Preprocessing, name: str | None = None
) -> LoadedImage:
    """Read an image as the network sees it, and keep no more of it than that.

    Args:
        source: The image.
        preprocessing: Of the model.
        name: What to call it; None for its path.

    Raises:
        DataError: If it cannot be read or is no image.
    """
    if name is None:
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the image"
    return preprocess_image(decode(source, name), preprocessing, name)


def preprocess_image(image: Image.Image, preprocessing: Preprocessing, name: str) -> LoadedImage:
    """Fit an image that was decoded to what the network sees.

    Args:
        image: As `decode` gives it.
        preprocessing: Of the model.
        name: What to call it.

    Raises:
        DataError: If it is too small to be a radiograph.
    """
    check_size(image, name)
    pixels = preprocessing(image)
    return LoadedImage(name, pixels, quality_warnings(image, pixels))


def decode(source: Source, name: str) -> Image.Image:
    """Read an image whole.

    Args:
        source: The image.
        name: What to call it.

    Returns:
        Mode `L`, of its own size.

    Raises:
        DataError: If it cannot be read or is no image.
    """
    if isinstance(source, str | os.PathLike | bytes):
        return read_grey(source, name=name)
    if isinstance(source, Image.Image):
        return to_grey(source, name)
    if isinstance(source, np.ndarray):
        return from_array(source, name)
    raise DataError(
        f"{name} is a {type(source).__name__}; give a path, bytes, a PIL image, a numpy array, or"
        " a list of them."
    )


SUFFIXES = (
    *(".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".pgm"),
    *(".dcm", ".dicom"),
)
_DEBRIS = "__MACOSX"
_DICOM = (b"DICM", 128)


def list_images(arguments: Iterable[str], standard_input: Iterable[str] = ()) -> list[str]:
    """List the files that arguments stand for, each once, in order.

    A file stands for itself, whatever its name. A folder stands for the images below it, in name
    order: files with an image's suffix, and files without any that are DICOM; nothing hidden. An
    argument that is neither is a pattern with `*`, `?`, `[...]` or `**`. `-` stands for the lines
    of standard input, each a file's path.

    Args:
        arguments: As typed.
        standard_input: Lines.

    Returns:
        Paths, at least one. What is listed need not be readable.

    Raises:
        DataError: If an argument stands for nothing.
    """
    found: dict[str, None] = {}
    for argument in arguments:
        some = dict.fromkeys(_expand(argument, standard_input))
        if not some:
            raise DataError(
                f"{'Standard input' if argument == '-' else argument} holds no images"
                f" ({', '.join(SUFFIXES)}); name files, folders or patterns."
            )
        found |= some
    return list(found)


def take_shard(paths: list[str], shard: str) -> list[str]:
    """Take one fixed part of a list: the parts 1/n to n/n, one behind the other, are the list.

    Args:
        paths: The whole list.
        shard: `3/16` for the third of 16 parts.

    Returns:
        The part; empty if there are more parts than paths.

    Raises:
        ConfigError: If it is not of that form.
    """
    number, _, parts = shard.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise ConfigError(f"--shard {shard}: give the part and their number, such as 3/16.")
    k, n = int(number), int(parts)
    return paths[len(paths) * (k - 1) // n : len(paths) * k // n]


def _expand(argument: str, standard_input: Iterable[str]) -> Iterator[str]:
    if argument == "-":
        yield from filter(None, (line.rstrip("\r\n") for line in standard_input))
    elif Path(argument).is_dir():
        yield from _walk(argument)
    elif os.path.lexists(argument):
        yield argument
    elif glob.has_magic(argument):
        for match in sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207 - keeps its form
            if not Path(match).is_dir() or match.lower().endswith(SUFFIXES):
                yield match
    else:
        raise DataError(f"{argument} does not exist; name files, folders or patterns.")


def _walk(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:  # which of a large folder take ten times a name's memory
        ordered = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in ordered:
        path = os.path.join(folder, name)  # noqa: PTH118 - keeps the form that was typed
        if name.startswith(".") or name == _DEBRIS:
            continue
        if is_folder:
            if name.lower().endswith(SUFFIXES):
                yield path  # a folder by an image's name: an error to be shown
            else:
                yield from _walk(path)
        elif name.lower().endswith(SUFFIXES) or (
            "." not in name and Path(path).is_file() and _is_dicom(path)
        ):
            yield path


def _is_dicom(path: str) -> bool:
    magic, offset = _DICOM
    try:
        with Path(path).open("rb") as file:
            file.seek(offset)
            return file.read(len(magic)) == magic
    except OSError:
        return False


Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 2
"""Batches that are read while the network works on another."""


def read_ahead(
    function: Callable[[Task], Result], tasks: Iterable[Task], size: int
) -> Iterator[list[Result]]:
    """Apply a function to every task on threads, a few batches ahead.

    At most three batches of results are held at once, however many tasks there are.

    Args:
        function: Spends its time outside Python's lock, as Pillow's decoding does.
        tasks: Its arguments.
        size: Tasks of a batch.

    Yields:
        The results in the order of the tasks, `size` of them at a time, the last batch less.

    Raises:
        Exception: What the function raised, when its batch is due.
    """
    with ThreadPoolExecutor(min(4, available_cores())) as pool:
        waiting: deque[list[Future[Result]]] = deque()
        rest = iter(tasks)
        try:
            while some := list(islice(rest, size)):
                waiting.append([pool.submit(function, task) for task in some])
                if len(waiting) > _AHEAD:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
