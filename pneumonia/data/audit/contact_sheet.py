"""A sheet of labelled pictures, drawn with Pillow."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pneumonia.data.audit.checks import Audit
from pneumonia.data.audit.scan import Inventory, inspect
from pneumonia.data.dataset import ChestXrayDataset
from pneumonia.data.image_io import Preprocessing, read_grey
from pneumonia.data.manifest import Manifest
from pneumonia.data.transforms import Augmentation
from pneumonia.errors import DataError
from pneumonia.labels import CLASSES

_GAP, _TITLE, _CAPTION = 6, 18, 12
_PAPER, _INK = 255, 0


@dataclass(frozen=True)
class Row:
    """Pictures side by side.

    Attributes:
        title: Stands above them; may be empty.
        pictures: Grey images of any size and shape; each is shown whole.
        captions: One below each picture; may be empty.
    """

    title: str
    pictures: Sequence[Image.Image]
    captions: Sequence[str] = ()


def draw_sheet(rows: Sequence[Row], tile: int) -> Image.Image:
    """Draw rows of pictures below each other.

    Args:
        rows: What to draw.
        tile: Side of the square that each picture is fitted into, pixels.

    Returns:
        Mode `L`.
    """
    columns = max((len(row.pictures) for row in rows), default=0)
    heights = [_height(row, tile) for row in rows]
    size = (_GAP + columns * (tile + _GAP), _GAP + sum(heights))
    sheet = Image.new("L", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        down = top
        if row.title:
            pen.text((_GAP, down), row.title, _INK, ImageFont.load_default(_TITLE - 4))
            down += _TITLE
        for column, picture in enumerate(row.pictures):
            left = _GAP + column * (tile + _GAP)
            fitted = ImageOps.contain(picture, (tile, tile), Image.Resampling.BILINEAR)
            pen.rectangle((left, down, left + tile - 1, down + tile - 1), fill=128)
            offset = (tile - fitted.width) // 2, (tile - fitted.height) // 2
            sheet.paste(fitted, (left + offset[0], down + offset[1]))
        font = ImageFont.load_default(_CAPTION - 3)
        for column, caption in enumerate(row.captions):
            left, words = _GAP + column * (tile + _GAP), caption
            while words and pen.textlength(words, font) > tile:
                words = words[1:]  # the end of a file name tells more than its start
            pen.text((left, down + tile), words, _INK, font)
        top += height
    return sheet


def check_picture_name(path: str | Path) -> None:
    """Refuse a name that no picture can be saved under, before any work is done.

    Args:
        path: The file to come.

    Raises:
        DataError: If its ending is of no image format, or it is a folder.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}:
        raise DataError(f"{path} ends in no image format; give a name that ends in .png or .jpg.")
    if Path(path).is_dir():
        raise DataError(f"{path} is a folder; give the name of a file.")


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Save a picture so that it appears under its name only when it is complete.

    Args:
        picture: Any image.
        path: The file; missing folders are made.

    Raises:
        DataError: If it cannot be written.
    """
    check_picture_name(path)
    target = Path(path)
    sibling = target.with_name(f".{target.name}.{os.getpid()}")
    encoded = io.BytesIO()
    picture.save(encoded, Image.registered_extensions()[target.suffix.lower()])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            sibling.write_bytes(encoded.getvalue())
            sibling.replace(target)
        finally:
            sibling.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}).") from error


def _height(row: Row, tile: int) -> int:
    return bool(row.title) * _TITLE + tile + bool(row.captions) * (_CAPTION + 2) + _GAP


_COLUMNS, _ROWS, _TILE = 10, 2, 150


def draw_montage(audit: Audit) -> Image.Image:
    """Draw a labelled grid for each split and class, of images spread evenly over its names.

    Args:
        audit: Files that it found unreadable are left out.

    Returns:
        Mode `L`.
    """
    readable = [entry for entry in audit.entries if entry.seen.fault is None]
    rows = []
    for (split, label), group in groupby(readable, lambda e: (e.place.split, e.place.label)):
        names = [entry.place.name for entry in group]
        count = min(len(names), _COLUMNS * _ROWS)
        chosen = [names[i] for i in np.linspace(0, len(names) - 1, count).round().astype(int)]
        title = f"{split} / {CLASSES[label]}: {count} of {len(names)}"
        for start in range(0, count, _COLUMNS):
            some = chosen[start : start + _COLUMNS]
            pictures = [_thumbnail(audit, name) for name in some]
            captions = [name.rsplit("/", 1)[-1] for name in some]
            rows.append(Row(title if start == 0 else "", pictures, captions))
    return draw_sheet(rows, _TILE)


def _thumbnail(audit: Audit, name: str) -> Image.Image:
    picture = read_grey(audit.root / name)
    picture.thumbnail((_TILE, _TILE), Image.Resampling.BILINEAR)
    return picture


_AUGMENTED = 4
_SMALLEST, _LARGEST = 160, 384


def draw_views(
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
    samples = Manifest.from_paths(paths, labels, "file")
    plain = ChestXrayDataset(samples, preprocessing)
    changed = ChestXrayDataset(samples, preprocessing, augmentation, seed)
    heads = ["original", f"validation: {preprocessing.resize_mode}, {preprocessing.image_size} px"]
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
