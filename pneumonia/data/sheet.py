"""A sheet of labelled pictures, drawn with Pillow."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from pneumonia.errors import DataError

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
