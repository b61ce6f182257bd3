"""Options that several commands share."""

from typing import Annotated

import typer

Patients = Annotated[
    str | None,
    typer.Option(
        help="What a patient is, where names are not Kaggle's: a regular expression with one"
        " group, or 'file' (each file its own patient)."
    ),
]
"""The rule that names patients."""
