"""Atomic file writes, and SHA-256 digests."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_PARTIAL = ".partial"


@contextmanager
def atomic_replace(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the name of a hidden file in the same folder, which replaces `path` at the end.

    Neither a kill nor a power cut leaves half a file. On an exception the hidden file is removed
    and `path` is unchanged. Missing folders are made.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Open a UTF-8 text file that replaces `path` when it is complete; see `atomic_replace`.

    Undecodable bytes of file names (surrogate escapes) are written as the bytes they were.
    """
    with (
        atomic_replace(path) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield file


@contextmanager
def atomic_folder(root: Path) -> Iterator[Path]:
    """Yield the name of a hidden folder to make and fill, which becomes `root` at the end.

    A killed process leaves at most the hidden folder. `root` must not exist.
    """
    partial = root.absolute().with_name(f".{root.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
    try:
        yield partial
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_partial(directory: str | os.PathLike[str]) -> None:
    """Remove the hidden files that killed processes left in a folder and below it."""
    for partial in Path(directory).rglob(f".*{_PARTIAL}"):
        partial.unlink(missing_ok=True)
