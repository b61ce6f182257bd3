"""The vocabulary of the task: classes, subtypes, splits, and what counts as an image file."""

NORMAL, PNEUMONIA = 0, 1

CLASSES: tuple[str, str] = ("NORMAL", "PNEUMONIA")
"""Class names by label: a label is the index into this tuple."""

SUBTYPES: tuple[str, str, str] = ("normal", "bacterial", "viral")
"""Subtypes that Kaggle's file names state."""

UNKNOWN_SUBTYPE = "unknown"
"""Subtype of a PNEUMONIA image whose file name states none."""

SPLITS: tuple[str, str, str] = ("train", "val", "test")

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
    *(".dcm", ".dicom"),
)
"""Suffixes that make a file in a data set an image; the format itself is told by its content."""


def is_image_name(path: str) -> bool:
    """Whether a file is listed as an image, by its name alone."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no part of a data set, by its name alone."""
    return name.startswith(".") or name == "__MACOSX"
