"""Writes the phantom: a data set of synthetic radiographs in Kaggle's layout and names.

It stands in for the real one wherever that is not at hand: the tests, the first five
minutes of a new user, a machine without network. It has what the real set teaches: four
streams of names that each count patients on their own, several images of one patient, and
a test split made of contiguous blocks of ids.
"""

import functools
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pneumonia.data.anatomy import chest, expose
from pneumonia.data.pool import cores, spread
from pneumonia.errors import DataError
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

log = logging.getLogger(__name__)

MINIMUM = 60
"""Fewer images than this leave a split without one of the streams."""


@dataclass(frozen=True)
class Stream:
    """One of the four kinds of file name, and its place in the data set.

    Attributes:
        label: Index into `pneumonia.labels.CLASSES`.
        subtype: One of `pneumonia.labels.SUBTYPES`.
        share: Share of all images, 0..1.
        val: Number of images in val, which has 8 of each class.
        before: Share of the train patients whose ids come before the block of test ids, 0..1.
        name: Template of a normal's file name; pneumonias are named by person and subtype.
    """

    label: int
    subtype: str
    share: float
    val: int
    before: float
    name: str


STREAMS = (
    Stream(PNEUMONIA, "bacterial", 0.375, 5, 0.2, "person{patient}_bacteria_{count}"),
    Stream(PNEUMONIA, "viral", 0.25, 3, 0.0, "person{patient}_virus_{count}"),
    Stream(NORMAL, "normal", 0.19, 3, 0.0, "IM-{patient:04d}-{image}"),
    Stream(NORMAL, "normal", 0.185, 5, 0.1, "NORMAL2-IM-{patient:04d}-{image}"),
)

TRAIN = 0.78
"""Share of train in what val leaves; 0.76 of 600 images."""

GROUPS = (0.42, 0.24, 0.14, 0.10, 0.06, 0.04)
"""Probabilities of 1..6 images of one patient."""


@dataclass(frozen=True)
class Patient:
    """The unit of work: one chest, and the files its exposures go to.

    Attributes:
        key: Seed of the patient's random numbers: (seed, stream, patient).
        subtype: One of `pneumonia.labels.SUBTYPES`.
        files: Paths relative to the root of the data set.
    """

    key: tuple[int, int, int]
    subtype: str
    files: tuple[str, ...]


def write_phantom(
    root: str | Path,
    images: int = 600,
    seed: int = 0,
    *,
    workers: int | None = None,
) -> Path:
    """Writes a data set of synthetic chest X-rays, all of it or nothing.

    The files are single-channel JPEGs in `ROOT/{train,val,test}/{NORMAL,PNEUMONIA}`; 5/8 of
    them are pneumonias, 3 in 5 of these bacterial. The same `images` and `seed` give the same
    bytes with any number of workers. A killed run leaves at most a hidden folder
    `.ROOT.<random>.partial` beside the root, which is safe to delete.

    Args:
        root: Folder to make; must not exist. Missing parents are made.
        images: Number of images in all splits together, at least `MINIMUM`.
        seed: Source of all randomness, 0 or more.
        workers: Number of processes; 1 draws in this one. Default: the number of usable cores.

    Returns:
        The root, as an absolute path.

    Raises:
        DataError: If `root` exists or cannot be made, `images`, `seed` or `workers` is too
            small, or a worker process died.
    """
    root = Path(root).expanduser().absolute()
    if images < MINIMUM:
        raise DataError(f"images={images} is too few for three splits: ask for {MINIMUM} or more.")
    if seed < 0:
        raise DataError(f"seed={seed} is negative: give 0 or more.")
    if workers is not None and workers < 1:
        raise DataError(f"workers={workers} cannot draw anything: give 1 or more.")
    if os.path.lexists(root):
        raise _occupied(root)
    # Beside the root, so that moving it into place is one atomic rename.
    partial = root.with_name(f".{root.name}.{uuid.uuid4().hex[:8]}.partial")
    patients = list(plan(images, seed))
    try:
        for folder in {Path(file).parent for patient in patients for file in patient.files}:
            (partial / folder).mkdir(parents=True)
        draw = functools.partial(_draw, partial)
        for _ in spread(draw, patients, "drawing radiographs", workers or cores()):
            pass
        partial.rename(root)
    except OSError as error:
        if os.path.lexists(root):  # made by someone else in the meantime
            raise _occupied(root) from error
        raise DataError(f"{root} cannot be written: {error}. Choose another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("wrote %d synthetic radiographs to %s", images, root)
    return root


def plan(images: int, seed: int) -> Iterator[Patient]:
    """Decides who is in the data set: patients, their subtype, split and file names.

    Args:
        images: Number of images in all splits together, at least `MINIMUM`.
        seed: Source of all randomness, 0 or more.

    Yields:
        The patients, stream by stream in the order of their ids. Ids start at 1 in every
        stream; each split of a stream is one run of ids, except that train may lie on both
        sides of test.
    """
    rng = np.random.default_rng(seed)
    train = round(TRAIN * (images - 16))
    totals = {"train": train, "test": images - 16 - train}
    # Rounding running sums rather than shares makes every split add up to its total.
    edges = np.cumsum([0.0] + [stream.share for stream in STREAMS])
    for number, stream in enumerate(STREAMS):
        sizes = {
            split: round(total * edges[number + 1]) - round(total * edges[number])
            for split, total in totals.items()
        }
        before = round(stream.before * sizes["train"])
        blocks = (
            ("train", before),
            ("test", sizes["test"]),
            ("train", sizes["train"] - before),
            ("val", stream.val),
        )
        patient = count = 0
        for split, size in blocks:
            for group in _groups(size, rng):
                patient += 1
                nested = group > 1 and rng.binomial(1, 0.3)
                files = []
                for k in range(1, group + 1):
                    count += 1
                    image = f"0001-{k:04d}" if nested and k > 1 else f"{1 if nested else k:04d}"
                    name = stream.name.format(patient=patient, count=count, image=image)
                    files.append(f"{split}/{CLASSES[stream.label]}/{name}.jpeg")
                yield Patient((seed, number, patient), stream.subtype, tuple(files))


def _groups(size: int, rng: np.random.Generator) -> Iterator[int]:
    """Cuts a number of images into patients of 1..6 images."""
    while size > 0:
        group = min(size, 1 + int(rng.choice(len(GROUPS), p=GROUPS)))
        size -= group
        yield group


def _draw(root: Path, patient: Patient) -> None:
    """Draws one patient."""
    attenuation = chest(patient.subtype, np.random.default_rng(patient.key))
    for k, file in enumerate(patient.files, start=1):
        rng = np.random.default_rng((*patient.key, k))
        film = Image.fromarray(expose(attenuation, rng))
        film.save(root / file, "JPEG", quality=int(rng.integers(75, 93)))


def _occupied(root: Path) -> DataError:
    return DataError(
        f"{root} exists already and is left as it is: delete it or choose another folder."
    )
