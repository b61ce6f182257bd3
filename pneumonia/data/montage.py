"""A look at the data set: some images of every split and class on one sheet."""

from itertools import groupby

import numpy as np
from PIL import Image

from pneumonia.data.audit.audit import Audit
from pneumonia.data.image import read_grey
from pneumonia.data.sheet import Row, draw_sheet
from pneumonia.labels import CLASSES

_COLUMNS, _ROWS, _TILE = 10, 2, 150


def montage(audit: Audit) -> Image.Image:
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
