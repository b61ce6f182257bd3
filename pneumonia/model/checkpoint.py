"""The checkpoint's own format: what marks a file as ours, and how one is opened."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pneumonia import __version__
from pneumonia.errors import CheckpointError
from pneumonia.files import atomic_replace
from pneumonia.labels import CLASSES

FORMAT_VERSION = 1

_KINDS: dict[str, tuple[type, str]] = {
    "hyper_parameters": (dict, "table"),
    "metadata": (dict, "table"),
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


_DEPLOYED = (
    "format_version",
    "pneumonia_version",
    "classes",
    "state_dict",
    "hyper_parameters",
    "epoch",
    "global_step",
    "pytorch-lightning_version",  # without it Lightning would try to migrate the file
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a checkpoint without running any code that it may hold.

    Args:
        path: A `.ckpt` file that training wrote.

    Returns:
        Its content, tensors on the CPU.

    Raises:
        CheckpointError: If the file is missing, is no checkpoint of this project, or comes
            from a newer version of it.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path} does not exist or is no file; name a checkpoint (.ckpt).")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind fails anywhere in torch's unpickler
        raise CheckpointError(
            f"{path} is not a checkpoint ({type(error).__name__} while reading it); name the"
            " best.ckpt or last.ckpt of a run."
        ) from error
    check_format(checkpoint, str(path))
    return dict(checkpoint)


def finalize_checkpoint(
    path: str | Path, content: Mapping[str, Any] | None = None, **additions: Any
) -> dict[str, Any]:
    """Make a checkpoint of training the one to deploy, in place.

    The state of optimiser, loops and callbacks, two thirds of the file, stays with the
    checkpoint to resume from. The file is replaced whole or not at all.

    Args:
        path: A `.ckpt` file that training wrote.
        content: What `read_checkpoint` gave for it; None reads it.
        **additions: Plain values to put beside the weights, such as `calibration`,
            `operating_point` and `metadata`.

    Returns:
        The new content.

    Raises:
        CheckpointError: If it is not one, or cannot be replaced.
    """
    checkpoint = read_checkpoint(path) if content is None else content
    final = {key: checkpoint[key] for key in _DEPLOYED if key in checkpoint} | additions
    write_checkpoint(final, path)
    return final


def write_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint that is whole under its name, or not there at all.

    Args:
        content: What `torch.load(weights_only=True)` can read again.
        path: The file; one that is there is replaced at the last moment.

    Raises:
        CheckpointError: If it cannot be written; one that was there is as it was.
    """
    buffer = io.BytesIO()  # torch's own writer hides what the disk said
    torch.save(dict(content), buffer)
    try:
        with atomic_replace(path) as partial:
            partial.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}); what stood there before is kept."
        ) from error
