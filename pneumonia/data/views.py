"""A look through the pipeline: the file, what validation sees, what training sees."""

from pathlib import Path

import numpy as np
from PIL import Image

from pneumonia.data.audit.inspection import inspect
from pneumonia.data.augment import Augmentation
from pneumonia.data.dataset import Radiographs
from pneumonia.data.image import Preprocessing, read_grey
from pneumonia.data.inventory import Inventory
from pneumonia.data.samples import Samples
from pneumonia.data.sheet import Row, draw_sheet
from pneumonia.errors import DataError
from pneumonia.labels import CLASSES

_AUGMENTED = 4
_SMALLEST, _LARGEST = 160, 384


def views(
    root: str | Path,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    images: int = 3,
    seed: int = 0,
) -> Image.Image:
    """Draw, for a few images of each class, the original, the input, and augmented inputs.

    They come from the data set's first split with images, and go through the very classes that
    feed a training.

    Args:
        root: Folder with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.
        preprocessing: How an image becomes the network's square.
        augmentation: The changes of training.
        images: Number for each class, at least 1.
        seed: Of the choice of images and of the changes, 0 or more.

    Returns:
        Mode `L`.

    Raises:
        DataError: If the folder is no data set, or has no readable image.
    """
    inventory = Inventory(Path(root).expanduser())
    first = next((place.split for place in inventory.images), None)
    paths, labels = [], []
    random = np.random.default_rng(seed)
    for label in range(len(CLASSES)):
        places = [p for p in inventory.images if (p.split, p.label) == (first, label)]
        found = 0
        for position in random.permutation(len(places)):
            path = inventory.path(places[position].name)
            if found == images:
                break
            if inspect(path).fault is None:
                found += 1
                paths.append(path)
                labels.append(label)
    if not paths:
        raise DataError(f"{root} holds no readable image; `pneumonia data audit` says why.")
    samples = Samples.identified(paths, labels, "file")
    plain = Radiographs(samples, preprocessing)
    changed = Radiographs(samples, preprocessing, augmentation, seed)
    heads = ["original", f"validation: {preprocessing.fit}, {preprocessing.image_size} px"]
    heads += [f"augmented, epoch {epoch}" for epoch in range(_AUGMENTED)]
    rows = []
    for row, (path, label) in enumerate(zip(paths, labels, strict=True)):
        original = read_grey(path)
        tensors = [plain[row]["image"]]
        tensors += [changed[epoch, row]["image"] for epoch in range(_AUGMENTED)]
        pictures = [original, *(Image.fromarray(tensor[0].numpy()) for tensor in tensors)]
        title = f"{CLASSES[label]}: {Path(path).name}, {original.width} x {original.height} px"
        rows.append(Row(title, pictures, heads))
    return draw_sheet(rows, min(max(preprocessing.image_size, _SMALLEST), _LARGEST))
