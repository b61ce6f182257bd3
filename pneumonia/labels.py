"""The words of the task: classes, their order, and the subtypes of pneumonia."""

NORMAL, PNEUMONIA = 0, 1

CLASSES: tuple[str, str] = ("NORMAL", "PNEUMONIA")
"""Class names by label: a label is the index into this tuple."""

SUBTYPES: tuple[str, str, str] = ("normal", "bacterial", "viral")
"""What the data set's own file names tell of each image."""

UNKNOWN_SUBTYPE = "unknown"
"""For a PNEUMONIA image whose name does not tell."""
