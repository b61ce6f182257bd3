"""Anyone's predictions: what is known of each image, and no more."""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.files import atomic_write
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA, SUBTYPES, UNKNOWN_SUBTYPE


def check_labels(labels: ArrayLike) -> NDArray[np.bool_]:
    """Check that labels are 0 or 1 and that both classes are there.

    Args:
        labels: Shape (n,), any numeric dtype, values 0 (NORMAL) or 1 (PNEUMONIA).

    Returns:
        Shape (n,), True where the image shows pneumonia.

    Raises:
        EvaluationError: If the array is empty, not of one dimension or not numeric, holds
            another value, or holds one class only.
    """
    array = _column(labels, "labels")
    wrong = (array != NORMAL) & (array != PNEUMONIA)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise EvaluationError(
            f"{wrong.sum()} of {array.size} labels are neither {NORMAL} ({CLASSES[NORMAL]}) nor "
            f"{PNEUMONIA} ({CLASSES[PNEUMONIA]}), the first is {array[first]} at index {first}; "
            "map your classes to these two numbers."
        )
    positive: NDArray[np.bool_] = array == PNEUMONIA
    if positive.all() or not positive.any():
        present, absent = (PNEUMONIA, NORMAL) if positive.all() else (NORMAL, PNEUMONIA)
        raise EvaluationError(
            f"Found {array.size} labels and all are {CLASSES[present]}: sensitivity, specificity "
            f"and AUROC need both classes; evaluate a split that holds {CLASSES[absent]} images "
            "too."
        )
    return positive


def check_scores(scores: ArrayLike, n: int, name: str = "scores") -> NDArray[np.float64]:
    """Check that there is one finite score per label.

    Args:
        scores: Shape (n,), any numeric dtype; higher means more like PNEUMONIA.
        n: The number of labels they stand beside.
        name: What the scores are, in the plural, for the message.

    Returns:
        Shape (n,), float64.

    Raises:
        EvaluationError: If the array is empty, not of one dimension or not numeric, is of another
            length than `n`, or holds NaN or an infinity.
    """
    array = _column(scores, name).astype(np.float64)
    if array.size != n:
        raise EvaluationError(
            f"Found {n} labels but {array.size} {name}; give one of each per image, in the same "
            "order."
        )
    wrong = ~np.isfinite(array)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise EvaluationError(
            f"{wrong.sum()} of {n} {name} are not finite, the first is {array[first]} at index "
            f"{first}; look for a diverged training or a broken image before evaluating."
        )
    return array


def check_probabilities(probabilities: ArrayLike, n: int) -> NDArray[np.float64]:
    """Check that there is one probability within [0, 1] per label.

    Args:
        probabilities: Shape (n,), any numeric dtype; the probability of PNEUMONIA.
        n: The number of labels they stand beside.

    Returns:
        Shape (n,), float64.

    Raises:
        EvaluationError: As `check_scores`, and if a value lies outside [0, 1].
    """
    array = check_scores(probabilities, n, "probabilities")
    wrong = (array < 0) | (array > 1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise EvaluationError(
            f"{wrong.sum()} of {n} probabilities lie outside 0 to 1, the first is {array[first]} "
            f"at index {first}; apply the sigmoid if these are logits."
        )
    return array


def check_threshold(threshold: float) -> float:
    """Check that a threshold on probabilities is within [0, 1].

    Args:
        threshold: PNEUMONIA means probability >= threshold.

    Returns:
        The threshold.

    Raises:
        EvaluationError: If it is NaN or outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise EvaluationError(
            f"The threshold is {threshold}, but it cuts probabilities: give a number from 0 to 1."
        )
    return float(threshold)


def check_patients(patients: ArrayLike, n: int) -> NDArray[np.intp]:
    """Check that there is one patient key per label, and number the patients.

    Args:
        patients: Shape (n,), text or numbers; equal keys are one patient.
        n: The number of labels they stand beside.

    Returns:
        Shape (n,): a number from 0 per image, the same for images of one patient.

    Raises:
        EvaluationError: If the array is not of one dimension or of another length than `n`, holds
            neither text nor numbers, or a key is empty or NaN.
    """
    keys = np.asarray(patients)
    if keys.shape != (n,):
        raise EvaluationError(
            f"Found {n} labels but patients of shape {keys.shape}; give one patient key per image, "
            "in the same order."
        )
    if keys.dtype.kind not in "iufU":
        raise EvaluationError(
            f"The patients are of type {keys.dtype}, the first is {keys[0]!r}; give text or "
            "numbers."
        )
    missing = ~np.isfinite(keys) if keys.dtype.kind == "f" else keys.astype(np.str_) == ""
    if missing.any():
        raise EvaluationError(
            f"{missing.sum()} of {n} images have no patient, the first is at index "
            f"{int(np.argmax(missing))}; give each image a patient key, or none at all."
        )
    numbers: NDArray[np.intp] = np.unique(keys, return_inverse=True)[1]
    return numbers


def _column(values: ArrayLike, name: str) -> NDArray[np.number]:
    """Check for a numeric, non-empty array of one dimension."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise EvaluationError(
            f"The {name} have shape {array.shape}; give one number per image, in one dimension."
        )
    if array.size == 0:
        raise EvaluationError(
            f"There are no {name} to evaluate: the array is empty; give images of both classes."
        )
    if array.dtype.kind not in "biuf":
        raise EvaluationError(
            f"The {name} are of type {array.dtype}, the first is {array[0]!r}; give numbers."
        )
    return array


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """Turn logits into probabilities, in float64 and without overflow.

    Args:
        logits: Any shape, any numeric dtype.

    Returns:
        The same shape, float64, in [0, 1].
    """
    x = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


FEW_PATIENTS = 30
"""Below this number in a class, intervals by resampling patients are too narrow.

Cameron, Gelbach and Miller, Review of Economics and Statistics 90 (2008): inference from fewer
than about 30 clusters over-rejects.
"""


@dataclass(frozen=True, eq=False)
class Sample:
    """Checked columns of one length n, with images of both classes. Made by `Sample.of`.

    Attributes:
        labels: Shape (n,), True where the image shows pneumonia.
        probabilities: Shape (n,), float64, in [0, 1].
        scores: Shape (n,), float64, finite: what ranks the images.
        patients: Shape (n,): the number of the image's patient, from 0 without gaps.
        known_patients: Whether patients were given; if not, each image is its own.
    """

    labels: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    scores: NDArray[np.float64]
    patients: NDArray[np.intp]
    known_patients: bool

    @classmethod
    def of(
        cls,
        labels: ArrayLike,
        probabilities: ArrayLike,
        patients: ArrayLike | None = None,
        scores: ArrayLike | None = None,
    ) -> "Sample":
        """Check and keep what a model said.

        Args:
            labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
            probabilities: Shape (n,), in [0, 1]; calibrated, if calibration exists.
            patients: Shape (n,), text or numbers. Without them each image counts as a patient of
                its own, and every interval says so.
            scores: Shape (n,), finite; raw logits, which rank where probabilities saturate. By
                default the probabilities.

        Raises:
            EvaluationError: If a column is not as said or the labels are of one class.
        """
        truth = check_labels(labels)
        values = check_probabilities(probabilities, truth.size)
        return cls(
            truth,
            values,
            values if scores is None else check_scores(scores, truth.size),
            np.arange(truth.size) if patients is None else check_patients(patients, truth.size),
            patients is not None,
        )

    def __len__(self) -> int:
        return self.labels.size

    @property
    def n_patients(self) -> int:
        """The number of patients."""
        return int(self.patients.max()) + 1

    @property
    def unit(self) -> str:
        """What is resampled and counted as one: `patient`, or `image` where none are known."""
        return "patient" if self.known_patients else "image"

    @property
    def assumption(self) -> str:
        """What to add to the name of a method where no patients are known."""
        return "" if self.known_patients else ", assumes independent images"

    def patients_with(self, images: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Name the patients who have an image among these.

        Args:
            images: Shape (n,), bool.

        Returns:
            Their numbers, ascending.
        """
        return np.unique(self.patients[images])

    @property
    def class_patients(self) -> tuple[int, int]:
        """Patients with a NORMAL image, and patients with a PNEUMONIA image."""
        return self.patients_with(~self.labels).size, self.patients_with(self.labels).size

    @property
    def mixed_patients(self) -> NDArray[np.intp]:
        """Patients with images of both classes; none in the Kaggle set."""
        return np.intersect1d(self.patients_with(self.labels), self.patients_with(~self.labels))

    def subset(self, images: NDArray[np.bool_]) -> "Sample":
        """Keep some images, of both classes.

        Args:
            images: Shape (n,), bool.

        Raises:
            EvaluationError: If what is left is of one class.
        """
        return Sample(
            check_labels(self.labels[images]),
            self.probabilities[images],
            self.scores[images],
            np.unique(self.patients[images], return_inverse=True)[1],
            self.known_patients,
        )

    def patient_sums(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add the rows of each patient's images.

        Args:
            columns: Shape (n, k).

        Returns:
            Shape (n_patients, k).
        """
        sums = np.zeros((self.n_patients, columns.shape[1]))
        np.add.at(sums, self.patients, columns)
        return sums


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
        with atomic_write(path) as file:
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
        with atomic_write(path) as file:
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
