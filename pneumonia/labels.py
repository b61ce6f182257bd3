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
"""Names that are listed as images: those of torchvision's `ImageFolder`, and DICOM. The format
itself is read from the content."""
