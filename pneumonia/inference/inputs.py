"""What a user names on the command line -> a list of image files."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pneumonia.errors import ConfigError, DataError

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
