"""Find image files, load them, and check their quality."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.image_io import Preprocessing, from_array, is_image_file, read_grey, to_grey
from pneumonia.data.parallel import available_cores
from pneumonia.errors import ConfigError, DataError
from pneumonia.inference.types import FailedPrediction, Pixels
from pneumonia.labels import is_hidden

if TYPE_CHECKING:
    from torch import Tensor

Source = Union[str, os.PathLike[str], bytes, BinaryIO, Image.Image, NDArray[Any], "Tensor"]
"""An image: path of a file, content of a file, an open file, a PIL image of any mode, or an array
or tensor as `pneumonia.data.image_io.from_array` takes it."""

_MIN_SIDE = 32
# The limits of the quality warnings lie outside what 68 originals (shape) and 5,216 images (grey
# levels) of the Kaggle set show: aspect ratios of 0.93 to 1.93, at least 68 grey levels between
# the 5th and 95th percentiles, at most 3% pure white and 30% pure black.
_ASPECT_RATIOS = (0.6, 2.6)
_MIN_CONTRAST = 40
_MAX_WHITE, _MAX_BLACK = 0.1, 0.5


@dataclass(frozen=True)
class LoadedImage:
    """Input of the network, uint8 [S, S], with the image's name and quality warnings."""

    name: str
    pixels: Pixels
    warnings: tuple[str, ...]


def display_name(source: Source, number: int = 1) -> str:
    """The name of an image in results: its path, or its number (from 1) if it has none."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else f"image {number}"


def is_image(source: object) -> bool:
    """Whether an argument is one image, not several."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
    return isinstance(source, kinds) or _is_tensor(source) or hasattr(source, "read")


def _is_tensor(source: object) -> bool:
    return type(source).__module__.startswith("torch") and hasattr(source, "detach")


def load_image(
    source: Source, preprocessing: Preprocessing, name: str
) -> LoadedImage | FailedPrediction:
    """Decode and preprocess an image, and check its quality.

    Returns:
        The image under this name, or a failure if it cannot be read, is not an image or has a side
        of less than 32 pixels.
    """
    try:
        image = decode(source, name)
    except DataError as error:
        return FailedPrediction(name, str(error))
    if min(image.size) < _MIN_SIDE:
        return FailedPrediction(
            name,
            f"{name} has {image.width} x {image.height} pixels, expected at least {_MIN_SIDE} on"
            " each side. Use the original image.",
        )
    pixels = preprocessing(image)
    return LoadedImage(name, pixels, (*image.info["warnings"], *_quality_warnings(image, pixels)))


def decode(source: Any, name: str) -> Image.Image:
    """Decode a `Source` in full: mode `L`, in its original size.

    Raises:
        DataError: If it cannot be read or is not an image.
    """
    if isinstance(source, str | os.PathLike):
        return read_grey(source, name=name)
    if isinstance(source, bytes | bytearray | memoryview):
        return read_grey(bytes(source), name=name)
    if isinstance(source, Image.Image):
        return to_grey(source, name)
    if isinstance(source, np.ndarray):
        return from_array(source, name)
    if _is_tensor(source):  # an exported model does without torch
        tensor = source.detach().cpu()
        return from_array((tensor.float() if tensor.is_floating_point() else tensor).numpy(), name)
    if hasattr(source, "read"):
        source.seek(0)
        return decode(source.read(), name)
    raise DataError(
        f"{name} is a {type(source).__name__}; expected a path, bytes, an open binary file, a PIL"
        " image, an array, a tensor, or several of them."
    )


def _quality_warnings(image: Image.Image, pixels: Pixels) -> tuple[str, ...]:
    warnings = []
    side = pixels.shape[0]
    if min(image.size) < side / 2:
        warnings.append(f"only {image.width} x {image.height} pixels, enlarged to {side}")
    if not _ASPECT_RATIOS[0] <= image.width / image.height <= _ASPECT_RATIOS[1]:
        warnings.append(f"unusual shape, {image.width} x {image.height}")
    counts = np.bincount(pixels.ravel(), minlength=256)
    low, high = np.searchsorted(counts.cumsum(), (0.05 * pixels.size, 0.95 * pixels.size))
    if high - low < _MIN_CONTRAST:
        warnings.append(f"low contrast, {high - low} of 255 grey levels")
    for value, name, limit in ((255, "white", _MAX_WHITE), (0, "black", _MAX_BLACK)):
        fraction = counts[value] / pixels.size
        if fraction > limit:
            warnings.append(f"{fraction:.0%} of the pixels are pure {name}")
    return tuple(warnings)


def list_images(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """List the image files that command-line arguments name, each once, in order.

    Args:
        arguments: Files of any name; or folders, for the images in and below them in name order.

    Returns:
        The images; and the files and hidden folders that a folder holds beside them.

    Raises:
        DataError: If an argument does not exist, or is a folder without images. Files that are
            named themselves need not be readable.
    """
    paths: dict[str, None] = {}
    skipped: list[str] = []
    for argument in arguments:
        if not os.path.lexists(argument):
            raise DataError(f"{argument} does not exist. Name files or folders.")
        is_folder = Path(argument).is_dir()
        found = dict.fromkeys(_walk(argument, skipped, set()) if is_folder else [argument])
        if not found:
            raise DataError(f"{argument} contains no images. Name files or folders.")
        paths |= found
    return list(paths), skipped


def _walk(folder: str, skipped: list[str], entered: set[tuple[int, int]]) -> Iterator[str]:
    """Links are followed; a folder that was entered already, as in a loop, is not again."""
    status = Path(folder).stat()
    if (status.st_dev, status.st_ino) in entered:
        return
    entered.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:  # an entry takes ten times the memory of its name
        ordered = sorted((entry.name, entry.is_dir()) for entry in entries)
    for name, is_folder in ordered:
        path = os.path.join(folder, name)  # noqa: PTH118 - keeps the form that was typed
        if is_hidden(name):
            skipped.append(path)
        elif is_folder:
            yield from _walk(path, skipped, entered)
        elif is_image_file(path):
            yield path
        else:
            skipped.append(path)


def take_shard(paths: list[str], shard: str) -> list[str]:
    """Take one part of a list, such as the third of 16 for `3/16`; it may be empty.

    The parts 1/n to n/n concatenate to the list.

    Raises:
        ConfigError: If the shard is not of that form.
    """
    number, _, parts = shard.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise ConfigError(f"--shard {shard}: expected a part and the number of parts, as in 3/16.")
    k, n = int(number), int(parts)
    return paths[len(paths) * (k - 1) // n : len(paths) * k // n]


Task = TypeVar("Task")
Result = TypeVar("Result")
_BATCHES_AHEAD = 2


def read_ahead(
    function: Callable[[Task], Result], tasks: Iterable[Task], size: int
) -> Iterator[list[Result]]:
    """Apply a function to every task on threads, two batches ahead.

    Yields:
        The results of each batch of this size, in order. An exception of the function is raised
        when its batch is due.
    """
    with ThreadPoolExecutor(min(4, available_cores())) as pool:
        waiting: deque[Iterator[Result]] = deque()
        remaining = iter(tasks)
        try:
            while batch := list(islice(remaining, size)):
                waiting.append(pool.map(function, batch))  # starts at once
                if len(waiting) > _BATCHES_AHEAD:
                    yield list(waiting.popleft())
            while waiting:
                yield list(waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
