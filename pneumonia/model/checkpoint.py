"""The format of a checkpoint: how one is marked, opened, finalized and written."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumonia import __version__
from pneumonia.errors import CheckpointError
from pneumonia.files import atomic_replace
from pneumonia.labels import CLASSES

FORMAT_VERSION = 2
"""Raised whenever a stored value changes its key or meaning; 1 was that of pneumonia 0.1."""

_HINT = "name the best.ckpt or last.ckpt of a run"


def describe() -> dict[str, Any]:
    """Entries that mark every checkpoint of this project: plain values only."""
    return {
        "format_version": FORMAT_VERSION,
        "pneumonia_version": __version__,
        "classes": list(CLASSES),
    }


def check_format(checkpoint: object, name: str) -> None:
    """Refuse the content of a model file that this version does not understand.

    Args:
        checkpoint: The content.
        name: The name of the file, for the message.

    Raises:
        CheckpointError: If it is of another project, format version or classes, or damaged.
    """
    found = checkpoint.get("format_version") if isinstance(checkpoint, dict) else None
    if not isinstance(checkpoint, dict) or type(found) is not int:
        raise CheckpointError(
            f"{name} was not written by this project (it has no format_version); {_HINT}."
        )
    if found != FORMAT_VERSION:
        writer = str(checkpoint.get("pneumonia_version"))[:20]
        advice = "train again" if found < FORMAT_VERSION else f"install pneumonia {writer} or newer"
        raise CheckpointError(
            f"{name} has format_version {found} (pneumonia {writer}), expected {FORMAT_VERSION}"
            f" (pneumonia {__version__}); {advice}."
        )
    classes = checkpoint.get("classes")
    if classes != list(CLASSES):
        raise CheckpointError(
            f"{name} has the classes {str(classes)[:80]}, expected {list(CLASSES)}; {_HINT}."
        )
    runs = checkpoint.get("recalibration", [])
    for key, valid in (
        ("hyper_parameters", isinstance(checkpoint.get("hyper_parameters", {}), dict)),
        ("metadata", isinstance(checkpoint.get("metadata", {}), dict)),
        ("recalibration", isinstance(runs, list) and all(isinstance(run, dict) for run in runs)),
    ):
        if not valid:
            raise CheckpointError(f"{name} is damaged: {key} has the wrong type; {_HINT}.")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a checkpoint without running any code that it may contain.

    Args:
        path: A `.ckpt` file that training wrote.

    Returns:
        Its content, tensors on the CPU.

    Raises:
        CheckpointError: If the file is missing or `check_format` refuses it.
    """
    import torch  # noqa: PLC0415  an exported model needs `check_format`, but not torch

    if not Path(path).is_file():
        raise CheckpointError(f"{path} does not exist or is not a file; {_HINT}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind fails anywhere in torch's unpickler
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}); {_HINT}."
        ) from error
    check_format(checkpoint, str(path))
    return dict(checkpoint)


_DEPLOYED = (
    *describe(),
    "state_dict",
    "hyper_parameters",
    "epoch",
    "global_step",
    "pytorch-lightning_version",  # without it Lightning would try to migrate the file
)


def finalize_checkpoint(
    path: str | Path, content: Mapping[str, Any], **additions: Any
) -> dict[str, Any]:
    """Turn a training checkpoint into the one to deploy, in place.

    The states of optimizer, loops and callbacks, two thirds of the file, are left out.

    Args:
        path: A `.ckpt` file that training wrote.
        content: What `read_checkpoint` returned for it.
        **additions: Plain values and tensors to store beside the weights: `calibration`,
            `operating_point`, `abstention`, `ood_detector`, `ood_threshold`, `metadata`.

    Returns:
        The new content.

    Raises:
        CheckpointError: If the file cannot be replaced.
    """
    final = {key: content[key] for key in _DEPLOYED if key in content} | additions
    write_checkpoint(final, path)
    return final


def write_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        content: What `torch.load(weights_only=True)` can read again.
        path: The file; an existing one is replaced once the new one is complete.

    Raises:
        CheckpointError: If it cannot be written; an existing file is unchanged.
    """
    import torch  # noqa: PLC0415  see `read_checkpoint`

    buffer = io.BytesIO()  # torch's own writer hides the operating system's error
    torch.save(dict(content), buffer)
    try:
        with atomic_replace(path) as partial:
            partial.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({error.strerror}).") from error
