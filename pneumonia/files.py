"""Files that are either whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Open a text file for writing that appears under its name only when it is complete.

    The text goes to a hidden sibling that replaces `path` at the end. If writing stops with an
    exception, the sibling is removed and whatever stood at `path` is left as it was. Missing
    folders are made.

    Args:
        path: The file to write; UTF-8, line ends as written. Undecodable bytes of file names
            (Python's surrogate escapes) go back to the bytes they were.

    Yields:
        The open file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    sibling = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with sibling.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
        sibling.replace(target)
    finally:
        sibling.unlink(missing_ok=True)
