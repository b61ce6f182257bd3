"""The commands of `pneumonia`, one module each; each imports what it needs when it runs."""

from typing import Annotated, Literal

import typer

Backend = Annotated[
    Literal["auto", "torch", "onnx"],
    typer.Option(
        help="Runtime: torch, or onnx (the .onnx file beside the checkpoint, faster on a CPU)."
    ),
]
"""The option --backend of several commands."""

Patients = Annotated[
    str | None,
    typer.Option(
        help="What a patient is, where names are not Kaggle's: a regular expression with one"
        " group, or 'file' (each file its own patient)."
    ),
]
"""The option --patients of several commands."""
