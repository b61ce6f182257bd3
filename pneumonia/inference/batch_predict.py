"""Predict many files into a CSV file that grows with every batch and can be resumed."""

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Literal, TextIO

from pneumonia.errors import ConfigError, printable
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.types import FailedPrediction, Prediction
from pneumonia.labels import CLASSES, PNEUMONIA

Result = Prediction | FailedPrediction

COLUMNS = (
    "path",
    "probability",
    "predicted_class",
    "uncertain",
    "is_ood",
    "ood_score",
    "warnings",
    "error",
    "model",
)
"""Columns of the CSV file; `model` is the digest of the checkpoint."""


def as_csv(result: Result | None, model: str) -> str:
    """Format a result as a row of CSV; numbers are read back exactly.

    Args:
        result: Of one image; None for the header.
        model: Digest of the checkpoint.

    Returns:
        One record with its line end. Truth values are `true` and `false`, missing values empty.
    """
    if result is None:
        return _record(COLUMNS)
    values = {"path": result.path, "model": model}
    if isinstance(result, FailedPrediction):
        values["error"] = result.error
    else:
        values |= vars(result) | {"warnings": "; ".join(result.warnings)}
    row = [values.get(column) for column in COLUMNS]
    return _record([str(v).lower() if isinstance(v, bool) else v for v in row])


def _record(values: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)  # \r\n, so that both characters are quoted within a value
    return text.getvalue().removesuffix("\r\n") + "\n"


def as_text(result: Result) -> str:
    """Format a result as a line for a terminal.

    Args:
        result: Of one image.
    """
    if isinstance(result, FailedPrediction):
        return printable(f"     -  unreadable  {result.error}")
    notes = [
        *(["out-of-distribution: do not use"] if result.is_ood else []),
        *(["uncertain"] if result.uncertain else []),
        *result.warnings,
    ]
    note = f"  [{'; '.join(notes)}]" if notes else ""
    return printable(f"{result.probability:6.3f}  {result.predicted_class:10}  {result.path}{note}")


def model_digest(path: str | os.PathLike[str]) -> str:
    """Identify a checkpoint by its content.

    Args:
        path: The file.

    Returns:
        The first 12 hexadecimal digits of its SHA-256.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def check_table_name(path: Path) -> None:
    """Refuse a file that is not a CSV file.

    Args:
        path: The file to write.

    Raises:
        ConfigError: If the name does not end in `.csv`, or is a folder.
    """
    if path.suffix.lower() != ".csv" or path.is_dir():
        raise ConfigError(f"--out {path}: expected a file name that ends in .csv.")


class PredictionWriter:
    """A CSV file of predictions that is complete after every batch and can be resumed.

    Args:
        path: The `.csv` file.
        model: Digest of the checkpoint, written to every row.
        resume: Keep the complete rows of an existing file and append to them.

    Attributes:
        done: Paths that have a row already.
        failed: Those of them whose row is an error.

    Raises:
        ConfigError: If the file exists and `resume` is False, is not a table of predictions, was
            written with another model, or cannot be written.
    """

    def __init__(self, path: Path, model: str, resume: bool = False) -> None:
        self._path, self._model = path, model
        check_table_name(path)
        self.done: set[str] = set()
        self.failed: set[str] = set()
        exists = path.exists() and path.stat().st_size > 0
        if exists and not resume:
            raise ConfigError(f"{path} exists. Continue it with --resume, or name another file.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            end = self._read_rows() if exists else 0
            self._file = _open(path, "a")
            self._file.truncate(end)
            if end == 0:
                self._file.write(as_csv(None, model))
                self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from error

    def write(self, results: Sequence[Result]) -> None:
        """Append rows and flush them to the operating system.

        Args:
            results: Of a batch.

        Raises:
            ConfigError: If they cannot be written; earlier rows stay.
        """
        try:
            self._file.write("".join(as_csv(result, self._model) for result in results))
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Close the file.

        Raises:
            ConfigError: If buffered rows cannot be written.
        """
        try:
            self._file.close()
        except OSError as error:
            raise self._cannot_write(error) from error

    def _read_rows(self) -> int:
        """Register the complete rows and return the position behind them."""
        header, end = as_csv(None, self._model), 0
        with _open(self._path, "r") as file:
            for text, complete in _records(file):
                # Of a header that was cut short, nothing but its beginning may be there.
                if end == 0 and not (text == header or (not complete and header.startswith(text))):
                    raise self._not_a_table("its header is different")
                if not complete:
                    break
                if end > 0:
                    self._register(text)
                end += len(text.encode("utf-8", "surrogateescape"))
        return end

    def _register(self, text: str) -> None:
        try:
            (values,) = csv.reader([text])
            row = dict(zip(COLUMNS, values, strict=True))
            valid = _record(values) == text and bool(row["predicted_class"]) != bool(row["error"])
            if not valid or not (row["error"] or 0 <= float(row["probability"]) <= 1):
                raise ValueError(f"the row of {row['path']} is damaged")
        except (ValueError, csv.Error) as error:
            raise self._not_a_table(str(error)) from error
        if row["model"] != self._model:
            raise ConfigError(
                f"{self._path} was written with another model ({row['model']}, not {self._model})."
                " Name another file."
            )
        self.done.add(row["path"])
        if row["error"]:
            self.failed.add(row["path"])

    def _not_a_table(self, reason: str) -> ConfigError:
        return ConfigError(
            f"{self._path} is not a table of predictions ({reason}). Name another file."
        )

    def _cannot_write(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self._path} cannot be written ({error.strerror or error}). Its rows are kept:"
            " continue with --resume when there is space, or name another file."
        )


def _open(path: Path, mode: Literal["r", "a"]) -> TextIO:
    """Open a table; file names keep their bytes."""
    return path.open(mode, encoding="utf-8", errors="surrogateescape", newline="")


def _records(file: TextIO) -> Iterator[tuple[str, bool]]:
    """Split a table into records, and tell whether each is complete: the last may be cut short."""
    lines: list[str] = []
    quoted = False
    for line in file:
        lines.append(line)
        quoted ^= line.count('"') % 2 == 1  # a file name may contain a line end
        if line.endswith("\n") and not quoted:
            yield "".join(lines), True
            lines.clear()
    if lines:
        yield "".join(lines), False


@dataclass
class PredictCounts:
    """Counts of the results.

    Attributes:
        images: Predicted images.
        failed: Unreadable files.
        positive: Images predicted as PNEUMONIA.
        uncertain: Images with an uncertain prediction.
        is_ood: Out-of-distribution images.
        warned: Images with a quality warning.
        seconds: From the first file to the last, without loading the model.
    """

    images: int = 0
    failed: int = 0
    positive: int = 0
    uncertain: int = 0
    is_ood: int = 0
    warned: int = 0
    seconds: float = 0.0
    _start: float = field(default_factory=perf_counter, repr=False)

    def add(self, result: Result) -> None:
        """Count a result."""
        self.seconds = perf_counter() - self._start
        if isinstance(result, FailedPrediction):
            self.failed += 1
            return
        self.images += 1
        self.positive += result.predicted_class == CLASSES[PNEUMONIA]
        self.uncertain += bool(result.uncertain)
        self.is_ood += bool(result.is_ood)
        self.warned += bool(result.warnings)

    def __str__(self) -> str:
        """Format the counts as one line."""
        total = self.images + self.failed
        counts = {
            "uncertain": self.uncertain,
            "out-of-distribution": self.is_ood,
            "with a warning": self.warned,
            "unreadable": self.failed,
        }
        parts = [f"{self.positive} PNEUMONIA, {self.images - self.positive} NORMAL"]
        parts += [f"{count} {name}" for name, count in counts.items() if count]
        rate = f", {total / self.seconds:.1f} images/s" if self.seconds > 0 else ""
        return f"{total} image{'s' * (total != 1)}{rate}: {'; '.join(parts)}"


def predict_files(
    predictor: Predictor,
    paths: Sequence[str],
    write: Callable[[list[Result]], None],
    batch_size: int,
) -> PredictCounts:
    """Predict files, and pass every batch of results on before the next.

    Args:
        predictor: The model.
        paths: Image files.
        write: Takes the results of a batch, in order.
        batch_size: Images per batch.
    """
    counts = PredictCounts()
    results = predictor.stream(paths, batch_size)
    while batch := list(islice(results, batch_size)):
        for result in batch:
            counts.add(result)
        write(batch)
    return counts
