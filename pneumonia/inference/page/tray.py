"""Uploads -> files that wait for their answer, under names that nobody can guess."""

import asyncio
import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from pneumonia.data.safe_open import MOST_BYTES
from pneumonia.errors import DataError

MOST_FILES = 20
"""Images that are answered at once."""

MOST_DROPPED = 4 * MOST_BYTES
"""Bytes of one drop: twenty of the largest radiographs (see `MOST_BYTES`) take 760 MB."""

MOST_WAITING = 2 * MOST_DROPPED
"""Bytes of all clients together that may lie on the disk."""

PATIENCE = 60.0
"""Seconds after which an upload that nobody asks about is deleted: its browser went away."""

_LONGEST_NAME = 100


class TooMuchError(DataError):
    """An upload beyond a bound."""


@dataclass(frozen=True)
class Upload:
    """A file that was handed in.

    Attributes:
        path: Where it lies. Nothing of its name is in it but a plain suffix.
        name: What its owner calls it, printable and without folders, to be shown.
    """

    path: Path
    name: str


class Tray:
    """Holds uploads until they are answered. Safe to use from several threads.

    Args:
        folder: An empty folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[Upload, float]] = {}
        self._bytes = 0

    def __contains__(self, path: object) -> bool:
        """Whether an upload lies at a path, to the letter, and waits for its answer."""
        return path in self._waiting

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of an upload as they come.

        Yields:
            To be called with each number of bytes before they are stored; raises `TooMuchError`
            if they are too many.
        """
        mine = 0

        def count(size: int) -> None:
            nonlocal mine
            with self._lock:
                mine, self._bytes = mine + size, self._bytes + size
                everything = self._bytes
            if mine > MOST_DROPPED:
                raise TooMuchError(
                    f"More than {MOST_DROPPED >> 20} MiB at once; drop fewer images."
                )
            if everything > MOST_WAITING:
                raise TooMuchError("Too many images are waiting for an answer; try again later.")

        try:
            yield count
        finally:
            with self._lock:
                self._bytes -= mine

    def keep(self, name: str, content: BinaryIO) -> str:
        """Store an upload.

        Args:
            name: What the client calls it: not to be trusted.
            content: At its first byte.

        Returns:
            Its path.
        """
        shown = shown_name(name)
        suffix = PurePosixPath(shown).suffix
        plain = suffix if suffix[1:].isascii() and suffix[1:].isalnum() else ""
        path = self._folder / f"{secrets.token_hex(16)}{plain[:9]}"
        try:
            with path.open("xb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        with self._lock:
            self._waiting[str(path)] = (Upload(path, shown), time.monotonic())
            self._bytes += path.stat().st_size
        return str(path)

    @contextlib.contextmanager
    def take(self, paths: Sequence[str]) -> Iterator[list[Upload]]:
        """Take uploads off the tray, and delete them in the end, whatever happens.

        Args:
            paths: As `keep` gave them.

        Yields:
            Those that are there, in the order of the paths.
        """
        with self._lock:
            found = [self._waiting.pop(path, None) for path in dict.fromkeys(paths)]
        uploads = [entry[0] for entry in found if entry is not None]
        try:
            yield uploads
        finally:
            self._delete(uploads)

    def sweep(self, patience: float = PATIENCE) -> None:
        """Delete what nobody asked about.

        Args:
            patience: Seconds to have waited for it.
        """
        now = time.monotonic()
        with self._lock:
            left = [path for path, (_, since) in self._waiting.items() if now - since >= patience]
            uploads = [self._waiting.pop(path)[0] for path in left]
        self._delete(uploads)

    def _delete(self, uploads: Sequence[Upload]) -> None:
        for upload in uploads:
            with contextlib.suppress(OSError):
                size = upload.path.stat().st_size
                upload.path.unlink()
                with self._lock:
                    self._bytes -= size


@contextlib.asynccontextmanager
async def swept(tray: Tray, patience: float = PATIENCE) -> AsyncIterator[None]:
    """Sweep a tray, again and again, while the page is served.

    Args:
        tray: Of the page.
        patience: As for `Tray.sweep`.
    """

    async def sweep() -> None:
        while True:
            await asyncio.sleep(patience / 10)
            await asyncio.to_thread(tray.sweep, patience)

    task = asyncio.create_task(sweep())
    try:
        yield
    finally:
        task.cancel()


def shown_name(name: str) -> str:
    """Make a file's name fit to be shown: no folders, printable, not too long.

    Args:
        name: Anything.
    """
    last = PureWindowsPath(PurePosixPath(name).name).name
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in last)
    if len(printable) > _LONGEST_NAME:
        half = _LONGEST_NAME // 2
        printable = f"{printable[:half]}…{printable[-half:]}"
    return printable or "image"
