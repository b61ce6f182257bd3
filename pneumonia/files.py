"""Files that are either whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_PARTIAL = ".partial"


@contextmanager
def atomic_replace(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden sibling to write to, which takes the place of `path` once it is complete.

    What was written reaches the disk before it gets its name, so that neither a kill nor a power
    cut leaves half a file there. If writing stops with an exception, the sibling is removed and
    whatever stood at `path` is left as it was. Missing folders are made.

    Args:
        path: The file to write.

    Yields:
        The sibling; it does not exist yet.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    sibling = target.with_name(f".{target.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield sibling
        with sibling.open("rb") as written:
            os.fsync(written.fileno())
        sibling.replace(target)
    finally:
        sibling.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Open a text file for writing that appears under its name only when it is complete.

    Args:
        path: The file to write, as in `replaced`; UTF-8, line ends as written. Undecodable bytes
            of file names (Python's surrogate escapes) go back to the bytes they were.

    Yields:
        The open file.
    """
    with (
        atomic_replace(path) as sibling,
        sibling.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield file


def remove_partial(directory: str | os.PathLike[str]) -> None:
    """Remove what a killed process left half-written, in a folder and below it.

    Args:
        directory: A folder that no other process writes to.
    """
    for sibling in Path(directory).rglob(f".*{_PARTIAL}"):
        sibling.unlink(missing_ok=True)
