"""The table of predictions: one row per image, as columns in memory and as CSV on disk."""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumonia.errors import EvaluationError
from pneumonia.files import whole_file
from pneumonia.labels import CLASSES, NORMAL, SUBTYPES, UNKNOWN_SUBTYPE


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said of each image, beside what is true of it.

    Columns of one length n > 0, copied; anything that `numpy.asarray` takes may be given.

    Attributes:
        path: Image files, str, each once.
        label: 0 (NORMAL) or 1 (PNEUMONIA), int64.
        logit: The model's raw output, float64, finite.
        probability: The probability of PNEUMONIA, float64, in [0, 1].
        patient: Patient keys, str.
        subtype: `normal` for NORMAL; `bacterial`, `viral` or `unknown` for PNEUMONIA; str.

    Raises:
        EvaluationError: If the columns are empty or of different lengths, or a value is none of
            the above; the message names row (1 is the first image) and column.
    """

    path: NDArray[np.str_]
    label: NDArray[np.int64]
    logit: NDArray[np.float64]
    probability: NDArray[np.float64]
    patient: NDArray[np.str_]
    subtype: NDArray[np.str_]

    def __post_init__(self) -> None:
        given = {name: np.asarray(getattr(self, name)) for name in COLUMNS}
        shapes = {name: column.shape for name, column in given.items()}
        if len(set(shapes.values())) > 1 or len(shapes["path"]) != 1 or shapes["path"] == (0,):
            raise EvaluationError(
                f"Predictions need columns of one length, at least 1, and found {shapes}; give "
                "one value per image in each."
            )
        for name, column in given.items():
            dtype = _DTYPES[name]
            if not np.can_cast(column.dtype, dtype, "same_kind"):  # 0.7 is no label
                raise EvaluationError(
                    f"column {name}: found type {column.dtype}, expected {dtype.__name__}."
                )
            object.__setattr__(self, name, column.astype(dtype))
        _, first_use = np.unique(self.path, return_index=True)
        repeated = np.ones(len(self), dtype=np.bool_)
        repeated[first_use] = False
        normal = self.label == NORMAL
        self._expect("path", ~_unwritable(self.path), "a name without a carriage return")
        self._expect("path", ~repeated, "each image once")
        self._expect("label", (self.label >= 0) & (self.label < len(CLASSES)), "0 or 1")
        self._expect("logit", np.isfinite(self.logit), "a finite number")
        within = (self.probability >= 0) & (self.probability <= 1)
        self._expect("probability", within, "a number from 0 to 1")
        self._expect("patient", ~_unwritable(self.patient), "a name without a carriage return")
        known = (*SUBTYPES, UNKNOWN_SUBTYPE)
        self._expect("subtype", np.isin(self.subtype, known), f"one of {', '.join(known)}")
        agrees = (self.subtype == SUBTYPES[NORMAL]) == normal
        self._expect("subtype", agrees, "normal for NORMAL images and for no other")

    def __len__(self) -> int:
        return len(self.path)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV, whole or not at all.

        UTF-8, one header line, columns in the order of the attributes, labels as class names,
        numbers with as many digits as they need to be read back exactly.

        Args:
            path: The file, by custom `predictions.csv` in the run directory.
        """
        columns = {name: getattr(self, name).tolist() for name in COLUMNS}
        columns["label"] = [CLASSES[label] for label in columns["label"]]
        with whole_file(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(zip(*columns.values(), strict=True))  # csv writes repr(float): exact

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Predictions":
        """Read a table that `write` wrote.

        Args:
            path: The CSV file.

        Returns:
            The table, equal in every value to the one written.

        Raises:
            EvaluationError: If the file is missing or differs in any way from what `write`
                writes; the message names file, row (1 is the first below the header) and column.
        """
        try:
            with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                header, *rows = list(csv.reader(file, strict=True)) or [[]]
        except (OSError, csv.Error) as error:
            raise EvaluationError(
                f"{path} cannot be read as a table of predictions ({error}); give the "
                "predictions.csv of a run directory."
            ) from None
        if header != list(COLUMNS):
            raise EvaluationError(
                f"{path} begins with the columns {','.join(header)!r}, expected "
                f"{','.join(COLUMNS)!r}; give the predictions.csv of a run directory."
            )
        columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for number, row in enumerate(rows, start=1):
            if len(row) != len(COLUMNS):
                raise EvaluationError(
                    f"{path}, row {number}: found {len(row)} cells, expected {len(COLUMNS)}; the "
                    "file was cut short or edited, write it anew."
                )
            for name, cell in zip(COLUMNS, row, strict=True):
                try:
                    columns[name].append(_PARSERS[name](cell))
                except ValueError:
                    expected = " or ".join(CLASSES) if name == "label" else "a number"
                    raise EvaluationError(
                        f"{path}, row {number}, column {name}: found {cell!r}, expected {expected}."
                    ) from None
        try:
            return cls(**{name: np.asarray(columns[name], _DTYPES[name]) for name in COLUMNS})
        except EvaluationError as error:
            raise EvaluationError(f"{path}: {error}") from None

    def _expect(self, column: str, right: NDArray[np.bool_], expected: str) -> None:
        if not right.all():
            row = int(np.argmin(right))
            found = getattr(self, column)[row].item()
            raise EvaluationError(
                f"row {row + 1}, column {column}: found {found!r}, expected {expected}."
            )


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Predictions))
"""The columns of the CSV file, in its order."""

_DTYPES: dict[str, type] = {
    "path": np.str_,
    "label": np.int64,
    "logit": np.float64,
    "probability": np.float64,
    "patient": np.str_,
    "subtype": np.str_,
}

_PARSERS: dict[str, Callable[[str], Any]] = {
    "path": str,
    "label": CLASSES.index,
    "logit": float,
    "probability": float,
    "patient": str,
    "subtype": str,
}


def _unwritable(texts: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Find empty texts, and carriage returns, which Python's csv leaves unquoted before 3.13."""
    unwritable: NDArray[np.bool_] = (texts == "") | (np.strings.find(texts, "\r") >= 0)
    return unwritable
