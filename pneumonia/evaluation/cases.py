"""Anyone's predictions: what is known of each image, and no more."""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.inputs import check_labels, check_probabilities, check_scores
from pneumonia.evaluation.metrics import sigmoid
from pneumonia.evaluation.predictions import COLUMNS, Predictions
from pneumonia.evaluation.sample import Sample
from pneumonia.files import whole_file
from pneumonia.labels import CLASSES

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Cases:
    """Columns of one length n; None for what nobody said.

    Attributes:
        labels: 0 (NORMAL) or 1 (PNEUMONIA), int64.
        probabilities: Of PNEUMONIA, float64, in [0, 1].
        logits: The model's raw output, float64, finite.
        paths: Image files, str, each once.
        patients: Patient keys, str.
        subtypes: Of pneumonia, str; empty where unknown.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    logits: NDArray[np.float64] | None = None
    paths: NDArray[np.str_] | None = None
    patients: NDArray[np.str_] | None = None
    subtypes: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return self.labels.size

    @classmethod
    def of(cls, predictions: Predictions) -> "Cases":
        """Take over the project's own table, which knows everything.

        Args:
            predictions: The table.
        """
        p = predictions
        return cls(p.label, p.probability, p.logit, p.path, p.patient, p.subtype)

    @property
    def scores(self) -> NDArray[np.float64]:
        """What ranks the images: the logits, unless they contradict the probabilities.

        Logits still tell images apart whose probabilities have saturated; but where both columns
        were given and order the images differently, the probabilities win.
        """
        if self.logits is None:
            return self.probabilities
        ordered = self.probabilities[np.argsort(self.logits, kind="stable")]
        return self.logits if (np.diff(ordered) >= 0).all() else self.probabilities

    def sample(self) -> Sample:
        """Give the columns to the statistics.

        Raises:
            EvaluationError: If the labels are of one class.
        """
        return Sample.of(self.labels, self.probabilities, self.patients, self.scores)

    def take(self, rows: NDArray[np.intp]) -> "Cases":
        """The rows at these places, in that order.

        Args:
            rows: Shape (m,).
        """
        columns: dict[str, Any] = {
            name: None if column is None else column[rows] for name, column in vars(self).items()
        }
        return Cases(**columns)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of a `predictions.csv`, whole or not at all; unknown cells are empty.

        Args:
            path: The file.
        """
        columns = [
            self.paths,
            np.asarray(CLASSES)[self.labels],
            self.logits,
            self.probabilities,
            self.patients,
            self.subtypes,
        ]
        rows = zip(
            *([""] * len(self) if column is None else column.tolist() for column in columns),
            strict=True,
        )
        with whole_file(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)


def read_cases(path: str | os.PathLike[str]) -> Cases:
    """Read predictions that any program may have written.

    Args:
        path: A CSV file with a header. `label` is NORMAL or PNEUMONIA, or 0 or 1; `probability`
            of PNEUMONIA, or `logit`, of which the probability wins where both are; `path`,
            `patient` and `subtype` are optional. Other columns, and columns whose cells are all
            empty, do not count; case and spaces around names do not matter.

    Returns:
        The columns.

    Raises:
        EvaluationError: If the file is missing or no such table; the message names file, row (1
            is the first below the header) and column.
    """
    table = _read(path)
    if "label" not in table:
        raise EvaluationError(
            f"{path} has no column label, only {_few(table)}; name the true class of each image"
            f" there, {' or '.join(CLASSES)}."
        )
    if not {"probability", "logit"} & table.keys():
        raise EvaluationError(
            f"{path} has neither a column probability nor logit, only {_few(table)}; give the"
            " probability of PNEUMONIA, from 0 to 1."
        )
    numbers = {
        name: np.array(_parsed(path, name, table[name], float, "a number"), np.float64)
        for name in ("logit", "probability")
        if name in table
    }
    wanted = f"{' or '.join(CLASSES)}, or 0 or 1"
    labels = np.array(_parsed(path, "label", table["label"], _label, wanted), np.int64)
    texts = {
        name: np.array([cell.strip() for cell in table[name]], np.str_)
        for name in ("path", "patient", "subtype")
        if name in table
    }
    try:
        check_labels(labels)
        if "logit" in numbers:
            check_scores(numbers["logit"], labels.size, "logits")
        probabilities = numbers.get("probability", sigmoid(numbers.get("logit", 0.0)))
        check_probabilities(probabilities, labels.size)
        for name in ("path", "patient"):
            if name in texts:
                _check_full(name, texts[name])
        if "path" in texts:
            _check_once(texts["path"])
    except EvaluationError as error:
        raise EvaluationError(f"{path}: {error}") from None
    return Cases(
        labels,
        probabilities,
        numbers.get("logit"),
        texts.get("path"),
        texts.get("patient"),
        texts.get("subtype"),
    )


def _read(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    try:
        with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            header, *rows = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, csv.Error) as error:
        raise EvaluationError(
            f"{path} cannot be read as a table of predictions ({error}); give a CSV file with a"
            " header."
        ) from None
    names = [name.strip().lower() for name in header]
    repeated = [name for name in COLUMNS if names.count(name) > 1]
    if repeated:
        raise EvaluationError(f"{path} has several columns named {repeated[0]}; leave one.")
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise EvaluationError(
                f"{path}, row {number}: found {len(row)} cells, expected {len(names)}; the file was"
                " cut short or its separator is no comma."
            )
    if not rows:
        raise EvaluationError(f"{path} has no row below its header; give one row per image.")
    table = dict(zip(names, map(list, zip(*rows, strict=True)), strict=False))
    return {name: cells for name, cells in table.items() if any(cell.strip() for cell in cells)}


def _parsed(
    path: str | os.PathLike[str],
    name: str,
    cells: list[str],
    parse: Callable[[str], Any],
    expected: str,
) -> list[Any]:
    values = []
    for number, cell in enumerate(cells, start=1):
        try:
            values.append(parse(cell))
        except ValueError:
            raise EvaluationError(
                f"{path}, row {number}, column {name}: found {cell!r}, expected {expected}."
            ) from None
    return values


def _label(cell: str) -> int:
    word = cell.strip().upper()
    if word in CLASSES:
        return CLASSES.index(word)
    number = float(word)
    if number not in range(len(CLASSES)):
        raise ValueError(word)
    return int(number)


def _check_full(name: str, texts: NDArray[np.str_]) -> None:
    empty = texts == ""
    if empty.any():
        raise EvaluationError(
            f"{int(empty.sum())} of {texts.size} rows have no {name}, the first is row"
            f" {int(np.argmax(empty)) + 1}; give each image its {name}, or leave the column out."
        )


def _check_once(paths: NDArray[np.str_]) -> None:
    names, counts = np.unique(paths, return_counts=True)
    if (counts > 1).any():
        raise EvaluationError(
            f"{int((counts > 1).sum())} images stand there more than once"
            f" ({_few(names[counts > 1].tolist())}); give each image once."
        )


def _few(names: Any) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "") or "nothing"
