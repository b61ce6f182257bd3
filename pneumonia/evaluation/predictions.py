"""The table of predictions that every statistic starts from, and its CSV file."""

import csv
import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.files import atomic_write
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA
from pneumonia.tables import parse_label, parse_number, read_csv

COLUMNS = ("path", "label", "logit", "probability", "patient", "subtype")
"""The columns of `predictions.csv`, in its order."""

FEW_PATIENTS = 30
"""With fewer patients than this in a class, bootstrap intervals are too narrow (Cameron, Gelbach
and Miller, Review of Economics and Statistics 90, 2008)."""

_LABELS = f"{CLASSES[NORMAL]} (0) or {CLASSES[PNEUMONIA]} (1)"
_KINDS = {"path": "U", "subtype": "U", "patient": "iuU"}
"""Accepted kinds of numpy types; all other columns are numbers."""
_SHOWN = 3


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """Turn logits of any shape into probabilities, float64, without overflow."""
    x = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def check_number(name: str, value: Any, low: float = 0, high: float = 1) -> None:
    """Raise an EvaluationError that names the value, unless it is a number of a range."""
    if not isinstance(value, int | float) or not low <= value <= high:
        raise EvaluationError(f"{name}: found {value}, expected a number from {low:g} to {high:g}.")


def check_threshold(threshold: float) -> float:
    """Check that a threshold is a number from 0 to 1; raises EvaluationError."""
    check_number("threshold", threshold)
    return float(threshold)


@dataclass(frozen=True, eq=False, kw_only=True)
class PredictionTable:
    """Predictions of one model for n labelled images of both classes, validated.

    Columns may be anything that `numpy.asarray` takes; an unknown column is None.

    Attributes:
        label: The true class, int64: 0 (NORMAL) or 1 (PNEUMONIA).
        probability: The probability of PNEUMONIA, float64, in [0, 1]; by default the sigmoid of
            the logits.
        logit: The raw output of the model, float64, finite.
        path: Image files, str, each once.
        patient: Patient keys, str or int; equal keys are one patient.
        subtype: Subtypes of pneumonia, str; empty where unknown.

    Raises:
        EvaluationError: If a column has another length, type or value, or all images have the same
            label. The message names the column, and the row (1 is the first image).
    """

    label: NDArray[np.int64]
    probability: NDArray[np.float64] = None  # type: ignore[assignment]
    logit: NDArray[np.float64] | None = None
    path: NDArray[np.str_] | None = None
    patient: NDArray[np.str_] | NDArray[np.int64] | None = None
    subtype: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        for name in ("label", *COLUMNS):
            if getattr(self, name) is not None:
                self._convert(name)
        self._check("label", (self.label == NORMAL) | (self.label == PNEUMONIA), _LABELS)
        self._set("label", self.label.astype(np.int64))
        if self.positive.all() or not self.positive.any():
            raise EvaluationError(
                f"column label: found {CLASSES[self.label[0]]} in all {len(self)} rows, expected"
                " images of both classes."
            )
        if self.logit is not None:
            self._check("logit", np.isfinite(self.logit), "a finite number")
        given: Any = self.probability
        if given is None:
            if self.logit is None:
                raise EvaluationError("column probability: found none, and no column logit either.")
            self._set("probability", sigmoid(self.logit))
        p = self.probability
        self._check("probability", (p >= 0) & (p <= 1), "a number from 0 to 1")
        self._check_text()

    def __len__(self) -> int:
        return self.label.size

    @cached_property
    def positive(self) -> NDArray[np.bool_]:
        """Shape (n,): True where the label is PNEUMONIA."""
        positive: NDArray[np.bool_] = self.label == PNEUMONIA
        return positive

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Shape (n,): the logits, or the probabilities where the two contradict each other."""
        if self.logit is None:
            return self.probability
        ordered = self.probability[np.argsort(self.logit, kind="stable")]
        rounding = 1e-12  # the sigmoid of two adjacent floats may be out of order
        return self.logit if (np.diff(ordered) >= -rounding).all() else self.probability

    @cached_property
    def patient_ids(self) -> NDArray[np.intp]:
        """Shape (n,): patients numbered from 0; without patients, each image has its own number."""
        if self.patient is None:
            return np.arange(len(self))
        ids: NDArray[np.intp] = np.unique(self.patient, return_inverse=True)[1]
        return ids

    @property
    def n_patients(self) -> int:
        """The number of patients."""
        return int(self.patient_ids.max()) + 1

    @property
    def unit(self) -> str:
        """The resampling unit of the bootstrap: `patient`, or `image` if patients are unknown."""
        return "image" if self.patient is None else "patient"

    @property
    def assumption(self) -> str:
        """Suffix of a method's name if patients are unknown."""
        return ", assumes independent images" if self.patient is None else ""

    @cached_property
    def class_patients(self) -> tuple[int, int]:
        """The number of patients with a NORMAL image, and with a PNEUMONIA image."""
        return self.patients_with(~self.positive).size, self.patients_with(self.positive).size

    @cached_property
    def mixed_patients(self) -> NDArray[np.intp]:
        """Numbers of the patients with images of both classes; none in the Kaggle set."""
        return np.intersect1d(self.patients_with(self.positive), self.patients_with(~self.positive))

    def patients_with(self, images: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Find the numbers of the patients with an image in a mask of shape (n,)."""
        return np.unique(self.patient_ids[images])

    def sum_by_patient(self, columns: NDArray[Any]) -> NDArray[np.float64]:
        """Add up the rows of each patient's images: shape (n, k) to (n_patients, k)."""
        sums = np.zeros((self.n_patients, columns.shape[1]))
        np.add.at(sums, self.patient_ids, columns)
        return sums

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "PredictionTable":
        """Select rows of both classes, by indices or by a mask of shape (n,)."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        return replace(
            self, **{name: col[rows] for name, col in columns.items() if col is not None}
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV (UTF-8) that `read` reads back exactly.

        Labels are written as class names, unknown columns as empty cells.
        """
        columns = {name: getattr(self, name) for name in COLUMNS}
        columns["label"] = np.asarray(CLASSES)[self.label]
        cells = [[""] * len(self) if col is None else col.tolist() for col in columns.values()]
        with atomic_write(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(zip(*cells, strict=True))  # csv writes repr(float), which is exact

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "PredictionTable":
        """Read predictions of any program from a CSV file with a header.

        Args:
            path: As for `pneumonia.tables.read_csv`. Column `label` is NORMAL or PNEUMONIA, or 0 or
                1; `probability` (of PNEUMONIA) or `logit` is required; `path`, `patient` and
                `subtype` are optional. Other columns and empty columns are ignored.

        Raises:
            EvaluationError: If the file cannot be read or a value is invalid; the message names
                file, column and row (1 is the first below the header).
        """
        cells = _read_cells(path)
        if "label" not in cells:
            hint = (
                "this is the output of `pneumonia predict`, add the true classes"
                if "predicted_class" in cells
                else f"found {_first_few(cells)}"
            )
            raise EvaluationError(
                f"{path} has no column label, expected the true class of each image there,"
                f" {' or '.join(CLASSES)}; {hint}."
            )
        if not {"probability", "logit"} & cells.keys():
            raise EvaluationError(
                f"{path} has neither a column probability nor a column logit, found"
                f" {_first_few(cells)}; add the probability of PNEUMONIA, from 0 to 1."
            )
        columns: dict[str, Any] = {}
        for name in cells.keys() & set(COLUMNS):
            if name in _KINDS:
                texts = cells[name] if name == "path" else [cell.strip() for cell in cells[name]]
                columns[name] = np.array(texts, np.str_)
            else:
                numbered = enumerate(cells[name], start=1)
                columns[name] = [_number(path, name, row, cell) for row, cell in numbered]
        try:
            return cls(**columns)
        except EvaluationError as error:
            raise EvaluationError(f"{path}, {error}") from None

    def _set(self, name: str, column: NDArray[Any]) -> None:
        object.__setattr__(self, name, column)

    def _convert(self, name: str) -> None:
        """Check length and type of a column, and convert it to an array."""
        n, column = np.size(self.label), np.asarray(getattr(self, name))
        if column.shape != (n,) or n == 0:
            raise EvaluationError(
                f"column {name}: found shape {column.shape}, expected one value per image for"
                f" {n or 'at least 1'} images."
            )
        if column.dtype.kind not in _KINDS.get(name, "biuf"):
            raise EvaluationError(
                f"column {name}: found {column[0]!r} of type {column.dtype}, expected"
                f" {'text' if name in _KINDS else 'numbers'}."
            )
        numeric = name in {"logit", "probability"}
        self._set(name, column.astype(np.float64) if numeric else column)

    def _check_text(self) -> None:
        if self.path is not None:
            repeated = np.ones(len(self), dtype=np.bool_)
            repeated[np.unique(self.path, return_index=True)[1]] = False
            self._check("path", self.path != "", "a path in each row, or no such column")
            self._check("path", ~repeated, "each image once")
        if self.patient is not None:
            filled = self.patient.astype(np.str_) != ""
            self._check("patient", filled, "a patient in each row, or no such column")
        for name in _KINDS:
            text = getattr(self, name)
            if text is not None and text.dtype.kind == "U":  # csv leaves these unquoted before 3.13
                self._check(name, np.strings.find(text, "\r") < 0, "text without carriage return")

    def _check(self, name: str, valid: NDArray[np.bool_], expected: str) -> None:
        if not valid.all():
            row = int(np.argmin(valid))
            found = getattr(self, name)[row].item()
            raise EvaluationError(
                f"row {row + 1}, column {name}: found {found!r}, expected {expected}."
            )


def _read_cells(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read the cells of a CSV file by lower-case column name, without empty columns."""
    try:
        table = read_csv(path)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{path} cannot be read as a table of predictions ({error}); expected a CSV file with a"
            " header."
        ) from None
    repeated = [name for name in COLUMNS if table.columns.count(name) > 1]
    if repeated:
        raise EvaluationError(
            f"{path} has several columns named {repeated[0]}; remove all but one."
        )
    if not table.rows:
        raise EvaluationError(f"{path} has no rows below its header; expected one row per image.")
    columns = zip(table.columns, map(list, zip(*table.rows, strict=True)), strict=True)
    return {name: cells for name, cells in columns if any(cell.strip() for cell in cells)}


def _number(path: str | os.PathLike[str], name: str, row: int, cell: str) -> float:
    try:
        return parse_label(cell) if name == "label" else parse_number(cell)
    except ValueError:
        expected = _LABELS if name == "label" else "a number"
        raise EvaluationError(
            f"{path}, row {row}, column {name}: found {cell!r}, expected {expected}."
        ) from None


def _first_few(names: Any) -> str:
    shown = ", ".join(list(names)[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown or "no columns"
