"""Fetches Kaggle's data set, and lays its one true copy out as a folder to train on.

The archive holds everything twice (`chest_xray/chest_xray/`), beside a Macintosh's debris.
kagglehub unpacks it into its own cache, from where the images are linked, not copied, if
the data set's folder lies on the same disk: the two share the bytes. So change no image in
place; delete either folder at will, the other keeps its images.
"""

import errno
import logging
import os
import queue
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import shorten

from filelock import FileLock, Timeout

from pneumonia.data.audit.checks import PUBLISHED
from pneumonia.data.audit.scan import SPLITS, Inventory, Place
from pneumonia.data.parallel import parallel_map
from pneumonia.errors import DataError
from pneumonia.labels import CLASSES

log = logging.getLogger(__name__)

HANDLE = "paultimothymooney/chest-xray-pneumonia/versions/2"
"""With its version: the data cannot change underfoot, and a cached copy needs no network."""

PAGE = "https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia"

Counts = Mapping[str, tuple[int, int]]
"""Images of NORMAL and of PNEUMONIA, by split."""

COUNTS: Counts = {
    split: (images["normal"], sum(images.values()) - images["normal"])
    for split, images in PUBLISHED.items()
}

_SERVER = "https://api.kaggle.com"
_ANSWERS_WITHIN = 4.0  # seconds
_REASON = 160  # characters of someone else's message that still leave ours readable


def download(root: str | Path, counts: Counts = COUNTS) -> None:
    """Fetch the data set from Kaggle, all of it or nothing; no login is needed.

    What is there already is left alone. After an interruption, run it again: the download goes
    on where it stopped. The archive (2.3 GB) and its content (2.4 GB) need room in kagglehub's
    cache, which `KAGGLEHUB_CACHE` moves to another disk; a progress bar is drawn on standard
    error.

    Args:
        root: Folder to make, with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.
        counts: How many images it must hold.

    Raises:
        DataError: If `root` holds something else, Kaggle does not answer within 4 s, the
            download fails or is not as published, or the disk is full.
    """
    root = Path(root).expanduser()
    if _is_there(root, counts):
        return
    lay_out(_fetch(root), root, counts)


def lay_out(source: str | Path, root: str | Path, counts: Counts = COUNTS) -> None:
    """Make a data set's folder of the unpacked archive: each image once, and nothing else.

    The folder appears whole or not at all. A killed run leaves at most a hidden folder
    `.ROOT.<random>.partial` beside it, which is safe to delete.

    Args:
        source: Folder with `chest_xray` in it, or that folder itself; not changed.
        root: Folder to make. Missing parents are made.
        counts: How many images it must hold.

    Raises:
        DataError: If `source` is not as published, or `root` holds something else or cannot
            be written.
    """
    source, root = Path(source), Path(root).expanduser()
    if _is_there(root, counts):
        return
    copy = next((f for f in (source, source / "chest_xray") if (f / "train").is_dir()), source)
    images = _images(copy)
    if odd := _differences(images, counts):
        raise DataError(
            f"{copy} is not Kaggle's data set as published ({odd}); delete {source} and download"
            " it again."
        )
    # Beside the root, so that moving it into place is one atomic rename.
    aside = root.absolute().with_name(f".{root.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        for folder in {Path(image.name).parent for image in images}:
            (aside / folder).mkdir(parents=True)
        place = partial(_place, copy, aside)
        for _ in parallel_map(place, images, "laying out the images", workers=1):
            pass
        aside.rename(root)
    except OSError as error:
        if _is_there(root, counts):  # made by another run in the meantime
            return
        raise DataError(
            f"{root} cannot be written ({error.strerror or error}); it needs 1.2 GB where it"
            " cannot share them with kagglehub's cache: make room, or choose another folder."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    log.info("%s holds the %d images of %s", root, len(images), PAGE)


def _fetch(root: Path) -> Path:
    """The folder into which kagglehub has unpacked the archive."""
    # Here, since importing it takes 0.4 s and sets up its logging.
    from kagglehub import cache, config, dataset_download, handle  # noqa: PLC0415

    # kagglehub itself would wait for a silent server for minutes.
    if not cache.Cache().load_from_cache(handle.parse_dataset_handle(HANDLE)):
        reason = _problem()
        if reason:
            raise _no_download(root, reason)
    folder = Path(config.get_cache_folder())
    try:
        with _alone(folder):
            return Path(dataset_download(HANDLE))
    except Exception as error:  # kagglehub's own errors derive from nothing narrower
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of kagglehub's cache {folder} is full, and the download takes 5 GB while"
                " it is unpacked; make room or set KAGGLEHUB_CACHE to a folder on another disk, and"
                " run this again."
            ) from error
        reason = shorten(str(error), _REASON) or type(error).__name__
        raise _no_download(root, reason) from error


def _no_download(root: Path, reason: str) -> DataError:
    return DataError(
        f"Kaggle's chest-xray-pneumonia cannot be downloaded to {root} ({reason}); run this again"
        f" once the network is there, or unzip a copy of {PAGE} so that {root / 'train'} exists,"
        " or go on now with data=synthetic, which needs no download."
    )


def _problem() -> str | None:
    """Why Kaggle cannot be reached, asked once; None if it answers, whatever it says."""
    # What kagglehub downloads with: the same proxies and certificates.
    import requests  # noqa: PLC0415

    # In a thread, since a name look-up honours no timeout.
    answer: queue.Queue[str | None] = queue.Queue()

    def ask() -> None:
        try:
            requests.head(_SERVER, timeout=_ANSWERS_WITHIN, allow_redirects=False)
            answer.put(None)
        except Exception as error:  # whatever the reason, it is the answer
            log.debug("%s does not answer", _SERVER, exc_info=error)
            answer.put(f"{_SERVER} cannot be reached")

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=_ANSWERS_WITHIN)
    except queue.Empty:
        return f"{_SERVER} does not answer within {_ANSWERS_WITHIN:.0f} s"


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Wait for other downloads: two that write one archive would spoil it for both."""
    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / "pneumonia.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another run, which is downloading to %s", cache)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _place(source: Path, target: Path, image: Place) -> None:
    try:
        (target / image.name).hardlink_to(source / image.name)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source / image.name, target / image.name)


def _is_there(root: Path, counts: Counts) -> bool:
    """Whether the data set is there; whatever else is there is an error."""
    if not os.path.lexists(root):
        return False
    if odd := _differences(_images(root), counts):
        raise DataError(
            f"{root} exists already and is something else ({odd}); it is left as it is: delete it,"
            " or choose another folder."
        )
    log.info("%s is there already, with all its images", root)
    return True


def _images(root: Path) -> list[Place]:
    if not any((root / split).is_dir() for split in SPLITS):
        return []
    return Inventory(root).images


def _differences(images: list[Place], counts: Counts) -> str:
    """Where the numbers of images are not the expected ones; empty if they are."""
    if not images:
        return "it holds no images in train, val or test"
    found = Counter((image.split, image.label) for image in images)
    return ", ".join(
        f"{found[split, label]} images in {split}/{name} instead of {counts[split][label]}"
        for split in counts
        for label, name in enumerate(CLASSES)
        if found[split, label] != counts[split][label]
    )
