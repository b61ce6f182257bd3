"""Downloads Kaggle's data set into kagglehub's cache, and copies it to a folder to train on."""

import errno
import logging
import os
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

from filelock import FileLock

from pneumonia.connectivity import ANSWER_WITHIN, connection_error
from pneumonia.data.audit.scan import PUBLISHED, ImageFile, Inventory
from pneumonia.errors import DataError, first_line
from pneumonia.files import atomic_folder
from pneumonia.labels import CLASSES, SPLITS

log = logging.getLogger(__name__)

HANDLE = "paultimothymooney/chest-xray-pneumonia/versions/2"
"""With its version: the data cannot change, and a cached copy needs no network."""

PAGE = "https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia"

COUNTS = {
    split: (images["normal"], sum(images.values()) - images["normal"])
    for split, images in PUBLISHED.items()
}
"""Images of NORMAL and of PNEUMONIA, by split."""

_SERVER = "https://api.kaggle.com"


def download(root: str | Path) -> None:
    """Download the data set from Kaggle, all of it or nothing; no login is needed.

    A complete data set is left as it is. An interrupted download continues where it stopped. The
    archive (2.3 GB) and its content (2.4 GB) need space in kagglehub's cache, which
    `KAGGLEHUB_CACHE` moves to another disk.

    Args:
        root: Folder to make, with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.

    Raises:
        DataError: If `root` contains something else, Kaggle does not answer within 4 s, the
            download fails or is not as published, or the disk is full.
    """
    root = Path(root).expanduser()
    if not _is_complete(root):
        lay_out(_fetch(root), root)


def lay_out(source: Path, root: Path) -> None:
    """Make a data set's folder of the unpacked archive, which contains each image twice.

    Args:
        source: Folder with `chest_xray` in it, or that folder itself; not changed.
        root: Folder to make. Missing parents are made.

    Raises:
        DataError: If `source` is not as published, or `root` cannot be written.
    """
    copy = source if (source / "train").is_dir() else source / "chest_xray"
    images = _list_images(copy)
    if difference := _difference(images):
        raise DataError(
            f"{source} is not Kaggle's data set as published ({difference}); delete it and"
            " download again."
        )
    try:
        with atomic_folder(root) as target:
            for image in images:
                (target / image.name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(copy / image.name, target / image.name)
    except OSError as error:
        if _is_complete(root):  # made by another run in the meantime
            return
        raise DataError(
            f"{root} cannot be written ({error.strerror or error}); it takes 1.2 GB: make room, or"
            " choose another folder."
        ) from error
    log.info("%s contains the %d images of %s", root, len(images), PAGE)


def _fetch(root: Path) -> Path:
    """Return the folder into which kagglehub has unpacked the archive."""
    import requests  # noqa: PLC0415  only a download needs it
    from kagglehub import cache, config, dataset_download, handle  # noqa: PLC0415  takes 0.4 s

    # kagglehub itself would wait for a silent server for minutes.
    if not cache.Cache().load_from_cache(handle.parse_dataset_handle(HANDLE)):
        ask = partial(requests.head, _SERVER, timeout=ANSWER_WITHIN, allow_redirects=False)
        if reason := connection_error(ask):
            raise _no_download(root, f"{_SERVER} cannot be reached: {reason[:80]}")
    folder = Path(config.get_cache_folder())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "pneumonia.lock"):  # two downloads would corrupt the archive
            return Path(dataset_download(HANDLE))
    except Exception as error:  # kagglehub's own errors derive from nothing narrower
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{folder} is full: the download takes 5 GB in kagglehub's cache; make room or"
                " set KAGGLEHUB_CACHE to a folder on another disk, and run this again."
            ) from error
        raise _no_download(root, first_line(error)) from error


def _no_download(root: Path, reason: str) -> DataError:
    return DataError(
        f"Kaggle's data set cannot be downloaded to {root} ({reason}); try again later, unzip a"
        f" copy of {PAGE} so that {root / 'train'} exists, or use data=synthetic, which needs no"
        " download."
    )


def _is_complete(root: Path) -> bool:
    """Whether the data set exists; anything else at its place is an error."""
    if not os.path.lexists(root):
        return False
    if difference := _difference(_list_images(root)):
        raise DataError(
            f"{root} exists already and is not Kaggle's data set ({difference}); delete it, or"
            " choose another folder."
        )
    log.info("%s exists already, with all its images", root)
    return True


def _list_images(root: Path) -> list[ImageFile]:
    return Inventory(root).images if any((root / split).is_dir() for split in SPLITS) else []


def _difference(images: list[ImageFile]) -> str:
    """Where the numbers of images are not the expected ones; empty if they are."""
    if not images:
        return "no images in train, val or test"
    found = Counter((image.split, image.label) for image in images)
    return ", ".join(
        f"{found[split, label]} images in {split}/{name} instead of {COUNTS[split][label]}"
        for split in COUNTS
        for label, name in enumerate(CLASSES)
        if found[split, label] != COUNTS[split][label]
    )
