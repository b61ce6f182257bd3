"""The checkpoint's own format: what marks a file as ours, and how one is opened."""

import pickle
from pathlib import Path
from typing import Any

import torch

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
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint ({type(error).__name__} while reading it); name the"
            " best.ckpt or last.ckpt of a run."
        ) from error
    if not isinstance(checkpoint, dict) or "format_version" not in checkpoint:
        raise CheckpointError(
            f"{path} was not written by this project (it has no format_version); name the"
            " best.ckpt or last.ckpt of a run."
        )
    if checkpoint["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {checkpoint['format_version']} and this version reads up to"
            f" {FORMAT_VERSION}; install pneumonia {checkpoint.get('pneumonia_version')} or newer."
        )
    return checkpoint
