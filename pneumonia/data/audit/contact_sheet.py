"""Contact sheets of a data set, drawn with matplotlib."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from pneumonia.data.audit.scan import Inventory, inspect
from pneumonia.data.dataset import ChestXrayDataset
from pneumonia.data.image_io import Preprocessing, read_grey
from pneumonia.data.manifest import Manifest
from pneumonia.data.transforms import Augmentation
from pneumonia.errors import DataError
from pneumonia.files import atomic_replace
from pneumonia.labels import CLASSES

_DPI = 100
_EPOCHS = 4
_MIN_TILE, _MAX_TILE = 160, 384
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def check_picture_name(path: Path) -> None:
    """Refuse a name that no picture can be saved under, before any work is done.

    Raises:
        DataError: If its suffix is not that of an image format, or it is a folder.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise DataError(f"{path} must end in {', '.join(_SUFFIXES)}.")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the name of a file.")


def draw_views(
    root: Path,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    images: int,
    seed: int,
    out: Path,
) -> None:
    """Draw what validation and training see of some images of the first split.

    Args:
        root: Folder with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.
        preprocessing: How an image becomes the network's square.
        augmentation: The augmentation of training.
        images: Number for each class, at least 1.
        seed: Seed of the choice of images and of the augmentation, 0 or more.
        out: The picture to write.

    Raises:
        DataError: If the folder is not a data set or contains no readable image, or the picture
            cannot be written.
    """
    inventory = Inventory(root.expanduser())
    paths: list[str] = []
    labels: list[int] = []
    random = np.random.default_rng(seed)
    for label in range(len(CLASSES)):
        files = [
            str(inventory.root / file.name)
            for file in inventory.images
            if (file.split, file.label) == (inventory.images[0].split, label)
        ]
        shuffled = (files[position] for position in random.permutation(len(files)))
        paths += islice((path for path in shuffled if inspect(path).problem is None), images)
        labels += [label] * (len(paths) - len(labels))
    if not paths:
        raise DataError(f"{root} contains no readable image; see `pneumonia data audit`.")
    manifest = Manifest.from_paths(paths, labels, "file")
    plain = ChestXrayDataset(manifest, preprocessing)
    augmented = ChestXrayDataset(manifest, preprocessing, augmentation, seed)
    captions = ["original", f"validation: {preprocessing.resize_mode}"]
    captions += [f"augmented, epoch {epoch}" for epoch in range(_EPOCHS)]
    rows = {}
    for row, (path, label) in enumerate(zip(paths, labels, strict=True)):
        original = read_grey(path)
        items = [plain[row], *(augmented[epoch, row, 0] for epoch in range(_EPOCHS))]
        title = f"{CLASSES[label]}: {Path(path).name}, {original.width} x {original.height} px"
        rows[title] = [original, *(Image.fromarray(item["image"][0].numpy()) for item in items)]
    _draw_sheet(rows, captions, min(max(preprocessing.image_size, _MIN_TILE), _MAX_TILE), out)


def _draw_sheet(
    rows: dict[str, list[Image.Image]], captions: Sequence[str], tile: int, out: Path
) -> None:
    """Draw titled rows of images, each image fitted into a square of `tile` pixels."""
    size = (1.05 * len(captions) * tile / _DPI, (1.1 * tile + 30) * len(rows) / _DPI)
    figure = Figure(figsize=size, dpi=_DPI)
    grid = figure.subplots(len(rows), len(captions), squeeze=False)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.35 / size[1], 0.05, 0.3)
    for (title, images), axes in zip(rows.items(), grid, strict=True):
        place = {"xy": (0, 1), "xytext": (0, 16), "textcoords": "offset points"}
        axes[0].annotate(title, xycoords="axes fraction", **place)
        for axis, image, caption in zip(axes, images, captions, strict=True):
            square = ImageOps.pad(image, (tile, tile), color=255)
            axis.imshow(np.asarray(square), cmap="gray", vmin=0, vmax=255)
            axis.axis("off")
            axis.set_title(caption, loc="left", fontsize=6)
    try:
        with atomic_replace(out) as partial:
            figure.savefig(partial, format=out.suffix.lower().removeprefix("."))
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}).") from error
