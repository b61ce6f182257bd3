"""The CSV file of `pneumonia predict`, which grows with every batch and can be resumed."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Literal, TextIO

from pneumonia.errors import ConfigError
from pneumonia.files import file_sha256
from pneumonia.inference.types import FailedPrediction, Prediction

Result = Prediction | FailedPrediction

COLUMNS = (*(field.name for field in fields(Prediction)), "error", "model")
"""Columns of the CSV file; `model` is the digest of the checkpoint."""


def as_csv(results: Sequence[Result], model: str) -> str:
    """Format results as rows of CSV; truth values are `true` and `false`, missing values empty."""
    rows = []
    for result in results:
        values = vars(result) | {"model": model}
        if isinstance(result, Prediction):
            values["warnings"] = "; ".join(result.warnings)
        row = [values.get(column) for column in COLUMNS]
        rows.append(_record([str(v).lower() if isinstance(v, bool) else v for v in row]))
    return "".join(rows)


def _record(values: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)  # \r\n, so that both characters are quoted within a value
    return text.getvalue().removesuffix("\r\n") + "\n"


HEADER = _record(COLUMNS)


def model_digest(path: str | os.PathLike[str]) -> str:
    """Identify a checkpoint by the first 12 hexadecimal digits of its SHA-256."""
    return file_sha256(path)[:12]


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
        ConfigError: If the file cannot be written, or exists and cannot be resumed.
    """

    def __init__(self, path: Path, model: str, resume: bool = False) -> None:
        self._path, self._model = path, model
        self.done: set[str] = set()
        self.failed: set[str] = set()
        if path.suffix.lower() != ".csv" or path.is_dir():
            raise ConfigError(f"--out {path}: expected a file name that ends in .csv.")
        with self._writing():
            exists = path.exists() and path.stat().st_size > 0
            if exists and not resume:
                raise ConfigError(f"{path} exists. Add --resume, or name another file.")
            path.parent.mkdir(parents=True, exist_ok=True)
            end = self._read_rows() if exists else 0
            self._file = _open(path, "a")
            self._file.truncate(end)
            if end == 0:
                self._file.write(HEADER)
                self._file.flush()

    def write(self, results: Sequence[Result]) -> None:
        """Append the rows of a batch; if that raises `ConfigError`, earlier rows stay."""
        with self._writing():
            self._file.write(as_csv(results, self._model))
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with self._writing():
            self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"{self._path} cannot be written ({error.strerror or error}). Its rows are kept:"
                " continue with --resume when there is space, or name another file."
            ) from error

    def _read_rows(self) -> int:
        """Register the complete rows and return the position behind them."""
        end = 0
        with _open(self._path, "r") as file:
            for text, complete in _records(file):
                # A header that was cut short may be nothing but its beginning.
                if end == 0 and not (text == HEADER or (not complete and HEADER.startswith(text))):
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
