"""Predictions, one row each: CSV or JSON lines written as they come, or text for a terminal."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

from pneumonia.errors import ConfigError, printable
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.types import FailedPrediction, Prediction

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
"""Of every row; `model` is the digest of the model file that made it."""

FORMATS = (".csv", ".jsonl")

_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
"""How a file is opened: names of files come back as the bytes they were."""

_BEGINNING = '{"path": "'
"""Of every line of JSON."""


def as_row(result: Prediction | FailedPrediction, model: str) -> dict[str, Any]:
    """Lay a result out in `COLUMNS`.

    Args:
        result: Of one image.
        model: Digest of the model file.

    Returns:
        Plain values; None for what there is not.
    """
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"path": result.path, "model": model}
    if isinstance(result, FailedPrediction):
        return row | {"error": result.error}
    return row | {
        "probability": result.probability,
        "predicted_class": result.predicted_class,
        "uncertain": result.uncertain,
        "is_ood": result.is_ood,
        "ood_score": result.ood_score,
        "warnings": "; ".join(result.warnings) or None,
    }


def as_csv(row: dict[str, Any] | None = None) -> str:
    """Write a row as CSV, numbers with as many digits as they need to be read back exactly.

    Args:
        row: In `COLUMNS`; None for the header.

    Returns:
        One record with its line end. Truth values are `true` and `false`, what there is not is
        empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # before Python 3.13 it quotes only these two
    if row is None:
        writer.writerow(COLUMNS)
    else:
        writer.writerow(
            str(value).lower() if isinstance(value, bool) else value for value in row.values()
        )
    return text.getvalue().removesuffix("\r\n") + "\n"


def as_json(row: dict[str, Any]) -> str:
    """Write a row as a line of JSON.

    Args:
        row: In `COLUMNS`.
    """
    return json.dumps(row) + "\n"


def as_text(result: Prediction | FailedPrediction) -> str:
    """Write a result as a line for a person: probability, decision, file, doubts.

    Args:
        result: Of one image.
    """
    if isinstance(result, FailedPrediction):
        return printable(f"     -  unreadable  {result.error}")
    doubts = [
        *(["unlike the training data: do not use"] if result.is_ood else []),
        *(["uncertain"] if result.uncertain else []),
        *result.warnings,
    ]
    doubt = f"  [{'; '.join(doubts)}]" if doubts else ""
    return printable(
        f"{result.probability:6.3f}  {result.predicted_class:10}  {result.path}{doubt}"
    )


class PredictionWriter:
    """A file of rows that is complete after every batch, and can be gone on with.

    Args:
        path: `.csv` or `.jsonl`.
        model: Digest of the model file, kept in every row.
        resume: Keep the complete rows that are there, and go on behind them.

    Attributes:
        done: Paths that have a row already.
        failed: Those of them whose row holds an error.

    Raises:
        ConfigError: If the file is of another kind, cannot be written, is there already without
            `resume`, or was written by another model.
    """

    def __init__(self, path: str | Path, model: str, resume: bool = False) -> None:
        self._path, self._model = Path(path), model
        check_format(self._path)
        self._csv = self._path.suffix.lower() == ".csv"
        self.done: set[str] = set()
        self.failed: set[str] = set()
        there = self._path.exists() and self._path.stat().st_size > 0
        if there and not resume:
            raise ConfigError(
                f"{path} exists; --resume goes on with it, or name another file or remove it."
            )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            end = self._take_over() if there else 0
            self._file = self._path.open(
                "a", encoding="utf-8", errors="surrogateescape", newline=""
            )
            self._file.truncate(end)
            if self._csv and end == 0:
                self._file.write(as_csv())
                self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, results: list[Prediction | FailedPrediction]) -> None:
        """Add rows, and hand them to the operating system.

        Args:
            results: In order.

        Raises:
            ConfigError: If they cannot be written; what was written before stays.
        """
        rows = (as_row(result, self._model) for result in results)
        try:
            self._file.write("".join(map(as_csv if self._csv else as_json, rows)))
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:  # what a full disk did not take is tried once more
            raise self._unwritable(error) from error

    def _take_over(self) -> int:
        """Note the complete rows, and give the position behind them."""
        end, rest = 0, ""
        with self._path.open(**_TEXT) as file:
            for number, (text, whole) in enumerate(_records(file, self._csv)):
                header = self._csv and number == 0
                if not whole:
                    rest = text
                    break
                if not header:
                    self._note(text)
                elif text != as_csv():
                    raise ConfigError(f"{self._path} is no table of predictions; name another.")
                end += len(text.encode("utf-8", "surrogateescape"))
        begun = as_csv() if self._csv else _BEGINNING
        if not end and not begun.startswith(rest[: len(begun)]):  # it is not ours to cut off
            raise ConfigError(f"{self._path} is no table of predictions; name another.")
        return end

    def _note(self, text: str) -> None:
        try:
            row: dict[str, Any] = (
                dict(zip(COLUMNS, next(csv.reader([text])), strict=True))
                if self._csv
                else json.loads(text)
            )
            same = text == (as_csv(row) if self._csv else as_json(row))
            path, model, error = str(row["path"]), row["model"], row["error"]
            if not same or tuple(row) != COLUMNS or bool(row["predicted_class"]) == bool(error):
                raise ValueError("a row is not as it was written")
            if not error and not 0 <= float(row["probability"]) <= 1:
                raise ValueError(f"probability {row['probability']}")
        except (ValueError, KeyError, TypeError, RecursionError, csv.Error) as problem:
            raise ConfigError(
                f"{self._path} is no table of predictions ({problem}); name another file."
            ) from problem
        if model != self._model:
            raise ConfigError(
                f"{self._path} was written by another model ({model}, and this one is"
                f" {self._model}); name another file."
            )
        self.done.add(path)
        if error:
            self.failed.add(path)

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"{self._path} cannot be written ({error.strerror or error}); rows already in it stay:"
            " make room and go on with --resume, or name another file."
        )


def check_format(path: Path) -> None:
    """Refuse a file name that names no kind of table.

    Args:
        path: The file to write.

    Raises:
        ConfigError: If it ends neither in `.csv` nor in `.jsonl`, or is a folder.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path} must end in {' or '.join(FORMATS)}.")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file.")


def _records(file: TextIO, quoted: bool) -> Iterator[tuple[str, bool]]:
    """Give the records, and whether each is whole: a kill may have cut the last one short."""
    lines: list[str] = []
    inside = False
    for line in file:
        lines.append(line)
        if quoted and line.count('"') % 2:  # a file name may hold a line end
            inside = not inside
        if line.endswith("\n") and not inside:
            yield "".join(lines), True
            lines.clear()
    if lines:
        yield "".join(lines), False


def model_digest(path: str | os.PathLike[str]) -> str:
    """Name a file by its content.

    Args:
        path: The file.

    Returns:
        The first 12 digits of its SHA-256, hexadecimal.
    """
    import hashlib  # noqa: PLC0415 - only a file of rows asks for it

    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


Result = Prediction | FailedPrediction


@dataclass
class PredictCounts:
    """What came of a list of files.

    Attributes:
        images: Answered.
        failed: Unreadable.
        pneumonia: Answered PNEUMONIA.
        uncertain: Answered within the band of abstention.
        is_ood: Unlike the training's images.
        warned: With a warning of their quality.
        seconds: From the first file to the last, without loading the model.
    """

    images: int = 0
    failed: int = 0
    pneumonia: int = 0
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
        self.pneumonia += result.predicted_class == "PNEUMONIA"
        self.uncertain += bool(result.uncertain)
        self.is_ood += bool(result.is_ood)
        self.warned += bool(result.warnings)

    def __str__(self) -> str:
        """Give one line for a person."""
        parts = [f"{self.pneumonia} PNEUMONIA, {self.images - self.pneumonia} NORMAL"]
        for count, name in (
            (self.uncertain, "uncertain"),
            (self.is_ood, "unlike the training data"),
            (self.warned, "with a warning"),
            (self.failed, "unreadable"),
        ):
            if count:
                parts.append(f"{count} {name}")
        total = self.images + self.failed
        rate = f", {total / self.seconds:.1f} a second" if self.seconds > 0 else ""
        return f"{total} image{'s' * (total != 1)}{rate}: {'; '.join(parts)}"


def predict_files(
    predictor: Predictor,
    paths: Sequence[str],
    write: Callable[[list[Result]], None],
    batch_size: int,
) -> PredictCounts:
    """Ask about files, and hand every batch of answers on before the next.

    Args:
        predictor: The model.
        paths: Files.
        write: Takes the answers of a batch, in order.
        batch_size: Images at once.
    """
    tally = PredictCounts()
    results = predictor.stream(paths, batch_size)
    while some := list(islice(results, batch_size)):
        for result in some:
            tally.add(result)
        write(some)
    return tally
