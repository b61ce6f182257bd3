"""What marks a model file as one of this project, whatever wrote it."""

from typing import Any

from pneumonia import __version__
from pneumonia.errors import CheckpointError
from pneumonia.labels import CLASSES

FORMAT_VERSION = 1

_KINDS: dict[str, tuple[type, str]] = {
    "hyper_parameters": (dict, "table"),
    "facts": (dict, "table"),
    "recalibration": (list, "list of tables"),
}
"""Of entries that may be missing, and that are taken apart further on."""


def describe() -> dict[str, Any]:
    """What every checkpoint says of itself: plain values only."""
    return {
        "format_version": FORMAT_VERSION,
        "pneumonia_version": __version__,
        "classes": list(CLASSES),
    }


def check_format(checkpoint: object, name: str) -> None:
    """Refuse a checkpoint that this version of the project does not understand.

    Args:
        checkpoint: What a checkpoint file holds.
        name: What it is called, for the message.

    Raises:
        CheckpointError: If it is not of this project, comes from a newer version of it, has other
            classes or has them in another order, or is damaged.
    """
    found = checkpoint.get("format_version") if isinstance(checkpoint, dict) else None
    if not isinstance(checkpoint, dict) or type(found) is not int:
        raise CheckpointError(
            f"{name} was not written by this project (it has no format_version); name the"
            " best.ckpt or last.ckpt of a run."
        )
    if found > FORMAT_VERSION:
        raise CheckpointError(
            f"{name} has format {found} and this version reads up to {FORMAT_VERSION};"
            f" install pneumonia {checkpoint.get('pneumonia_version')} or newer."
        )
    classes = checkpoint.get("classes")
    if not isinstance(classes, list) or classes != list(CLASSES):
        said = isinstance(classes, list) and all(isinstance(one, str) for one in classes)
        raise CheckpointError(
            f"{name} gives the probability of another class: expected were the classes"
            f" {list(CLASSES)} in this order, and found {str(classes)[:80] if said else 'none'};"
            " name the best.ckpt of a run."
        )
    for key, (kind, described) in _KINDS.items():
        value = checkpoint.get(key, kind())
        if not isinstance(value, kind) or (
            isinstance(value, list) and not all(isinstance(one, dict) for one in value)
        ):
            raise CheckpointError(
                f"{name} is damaged: its {key} are not the {described} that they should be;"
                " name the best.ckpt of a run."
            )
