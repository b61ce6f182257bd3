"""The vocabulary of the task: classes, subtypes and splits."""

NORMAL, PNEUMONIA = 0, 1

CLASSES: tuple[str, str] = ("NORMAL", "PNEUMONIA")
"""Class names by label: a label is the index into this tuple."""

SUBTYPES: tuple[str, str, str] = ("normal", "bacterial", "viral")
"""Subtypes that Kaggle's file names state."""

UNKNOWN_SUBTYPE = "unknown"
"""Subtype of a PNEUMONIA image whose file name states none."""

SPLITS: tuple[str, str, str] = ("train", "val", "test")

VAL_SETS: tuple[str, str, str] = ("val", "val_shift", "val_shift_b")
"""The validation set, clean and under two fixed simulated shifts; prefixes of metrics."""

SPLIT_NAMES = {name: name for name in SPLITS} | {
    **dict.fromkeys(("valid", "validation", "dev"), "val"),
    "training": "train",
    "testing": "test",
}
"""The split by the names, in lower case, that other data sets give it."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder does not belong to a data set, by its name alone."""
    return name.startswith(".") or name == "__MACOSX"
