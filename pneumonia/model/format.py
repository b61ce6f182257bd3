"""What marks a model file as one of this project, whatever wrote it."""

from typing import Any

from pneumonia import __version__
from pneumonia.errors import CheckpointError
from pneumonia.labels import CLASSES

FORMAT_VERSION = 1


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
        CheckpointError: If it is not of this project, or comes from a newer version of it.
    """
    found = checkpoint.get("format_version") if isinstance(checkpoint, dict) else None
    if not isinstance(checkpoint, dict) or not isinstance(found, int):
        raise CheckpointError(
            f"{name} was not written by this project (it has no format_version); name the"
            " best.ckpt or last.ckpt of a run."
        )
    if found > FORMAT_VERSION:
        raise CheckpointError(
            f"{name} has format {found} and this version reads up to {FORMAT_VERSION};"
            f" install pneumonia {checkpoint.get('pneumonia_version')} or newer."
        )
