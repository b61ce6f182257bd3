"""A picture of a data set as validation and training see it."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pneumonia.data.audit.scan import Inventory
from pneumonia.data.dataset import ChestXrayDataset
from pneumonia.data.image_io import Preprocessing, read_grey
from pneumonia.data.manifest import Manifest
from pneumonia.data.transforms import Augmentation
from pneumonia.errors import DataError
from pneumonia.files import atomic_replace
from pneumonia.labels import CLASSES

_EPOCHS = 4
_BORDER = 2  # white pixels around each view


def draw_views(
    root: Path,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    images: int,
    seed: int,
    out: Path,
) -> list[str]:
    """Draw some images of the first split, a row each: original, validation, four times augmented.

    `images` of each class are chosen with `seed`, which also seeds the augmentation.

    Returns:
        The files, in the order of the rows.

    Raises:
        DataError: If the folder is not a data set, has no images, or one cannot be read; or if
            `out` is no `.png`.
    """
    if out.suffix.lower() != ".png":
        raise DataError(f"{out} must end in .png.")
    inventory = Inventory(root.expanduser())
    if not inventory.images:
        raise DataError(f"{root} contains no image; see `pneumonia data audit`.")
    random, split = np.random.default_rng(seed), inventory.images[0].split
    paths: list[str] = []
    labels: list[int] = []
    for label in range(len(CLASSES)):
        found = [f.name for f in inventory.images if (f.split, f.label) == (split, label)]
        chosen = random.permutation(found)[:images]
        paths += [str(inventory.root / name) for name in chosen]
        labels += [label] * len(chosen)
    manifest = Manifest.from_paths(paths, labels, "file")
    plain = ChestXrayDataset(manifest, preprocessing)
    augmented = ChestXrayDataset(manifest, preprocessing, augmentation, seed)
    rows = []
    for row, path in enumerate(paths):
        original = ImageOps.pad(read_grey(path), (preprocessing.image_size,) * 2)
        items = [plain[row], *(augmented[epoch, row, 0] for epoch in range(_EPOCHS))]
        views = [np.asarray(original), *(item["image"][0].numpy() for item in items)]
        rows.append(np.hstack([np.pad(view, _BORDER, constant_values=255) for view in views]))
    with atomic_replace(out) as partial:
        Image.fromarray(np.vstack(rows)).save(partial, "PNG")
    return paths
