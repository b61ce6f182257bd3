"""A table instead of folders: a CSV file that says where images lie and what they show.

Columns `path` and `label` (NORMAL or 0, PNEUMONIA or 1), and, if wanted, `split` (train, val
or test; without it every row is train), `patient`, and `subtype` (normal, bacterial, viral,
unknown or empty). Other columns are passed over, so a `predictions.csv` is such a table.
A patient may have images of both classes: children fall ill, and recover.
"""

import csv
import hashlib
import logging
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.audit.scan import SPLITS
from pneumonia.data.patients import identify_patients
from pneumonia.errors import ConfigError, DataError
from pneumonia.labels import CLASSES, NORMAL, SUBTYPES, UNKNOWN_SUBTYPE


@dataclass(frozen=True)
class Manifest:
    """Columns of equal length N, one row for each image.

    Attributes:
        paths: Files, str.
        labels: 0 (NORMAL) or 1 (PNEUMONIA), int64.
        patients: Patient keys, str, unique across streams.
        streams: The numbering that each patient belongs to, str.
        numbers: The patient's number within its stream, int64; -1 where there is none.
        subtypes: `normal`, `bacterial`, `viral` or `unknown`, str.
    """

    paths: NDArray[np.str_]
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    streams: NDArray[np.str_]
    numbers: NDArray[np.int64]
    subtypes: NDArray[np.str_]

    @classmethod
    def identified(
        cls, paths: Sequence[str], labels: Sequence[int], patients: str | None = None
    ) -> "Manifest":
        """Build the table from files and labels, reading the patients off the names.

        Args:
            paths: Image files.
            labels: 0 or 1 for each.
            patients: What a patient is; see `pneumonia.data.patients.identify`.

        Raises:
            DataError: If a name tells no patient or contradicts its label.
            ConfigError: If `patients` is no usable expression.
        """
        identities = identify_patients(paths, labels, patients)
        return cls(
            paths=np.array(paths, dtype=np.str_),
            labels=np.array(labels, dtype=np.int64),
            patients=np.array([i.patient for i in identities], dtype=np.str_),
            streams=np.array([i.stream for i in identities], dtype=np.str_),
            numbers=np.array([i.number for i in identities], dtype=np.int64),
            subtypes=np.array([i.subtype for i in identities], dtype=np.str_),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Manifest":
        """The rows given by indices or by a mask of length N, in that order."""
        return Manifest(**{name: column[rows] for name, column in vars(self).items()})

    def __add__(self, other: "Manifest") -> "Manifest":
        return Manifest(
            **{
                name: np.concatenate([column, getattr(other, name)])
                for name, column in vars(self).items()
            }
        )

    def fingerprint(self) -> str:
        """A digest of which files these are (names, labels and sizes), 16 hexadecimal digits."""
        lines = sorted(
            f"{Path(path).name}\t{label}\t{Path(path).stat().st_size}"
            for path, label in zip(map(str, self.paths), self.labels, strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]

    def class_counts(self) -> tuple[int, int]:
        """Number of NORMAL and of PNEUMONIA images."""
        positive = int(self.labels.sum())
        return len(self) - positive, positive

    def summary(self) -> str:
        """Images, patients, and images by class and subtype, in one line."""
        normal, pneumonia = self.class_counts()
        counts = Counter(str(s) for s in self.subtypes[self.labels == 1])
        subtypes = ", ".join(f"{count} {subtype}" for subtype, count in sorted(counts.items()))
        return (
            f"{len(self)} images of {len(np.unique(self.patients))} patients:"
            f" {normal} {CLASSES[0]}, {pneumonia} {CLASSES[1]}"
            + (f" ({subtypes})" if subtypes else "")
        )


log = logging.getLogger(__name__)

REQUIRED = ("path", "label")
OPTIONAL = ("split", "patient", "subtype")

COLUMN = "column"
"""The value of `data.patients` that takes patients from the table's column `patient`."""

_LABELS = {name: label for label, name in enumerate(CLASSES)} | {"0": 0, "1": 1}


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
        line: Where the row ends in the file, 1-based.
        cell: The path as written.
        path: The file.
        label: 0 (NORMAL) or 1 (PNEUMONIA).
        split: `train`, `val` or `test`.
        patient: As written; empty where the table does not say.
        subtype: `normal`, `bacterial`, `viral` or `unknown`; empty where it does not say.
    """

    line: int
    cell: str
    path: str
    label: int
    split: str
    patient: str
    subtype: str


@dataclass(frozen=True)
class Table:
    """A checked table.

    Attributes:
        file: Where it was read from.
        columns: The known ones it has.
        rows: In the order of the file.
    """

    file: Path
    columns: frozenset[str]
    rows: tuple[Row, ...]

    def has(self, split: str) -> bool:
        """Whether any row is of this split."""
        return any(row.split == split for row in self.rows)

    def read(self, split: str, patients: str | None = None) -> Manifest:
        """The images of one split.

        Args:
            split: `train`, `val` or `test`.
            patients: What a patient is. `column`: what the column `patient` says. Anything
                else: see `pneumonia.data.patients.identify`.

        Raises:
            DataError: If no row is of that split, or of one of its classes, or if a patient
                cannot be told.
            ConfigError: If `patients` asks for a column that is not there, or is no usable
                expression.
        """
        rows = [row for row in self.rows if row.split == split]
        if not rows:
            why = "" if "split" in self.columns else " (it has no column split: all are train)"
            raise DataError(
                f"{self.file} has no image in split {split}{why}; write {split} in the column"
                " split of some rows, or do without that split."
            )
        for label, name in enumerate(CLASSES):
            if all(row.label != label for row in rows):
                raise DataError(
                    f"{self.file} has no {name} image in split {split}; a split needs both classes."
                )
        by_column = patients == COLUMN
        samples = self._by_column(rows) if by_column else self._by_name(rows, patients)
        given = np.array([row.subtype for row in rows], dtype=np.str_)
        return replace(samples, subtypes=np.where(given == "", samples.subtypes, given))

    def _by_column(self, rows: list[Row]) -> Manifest:
        if "patient" not in self.columns:
            raise ConfigError(
                f"data.patients={COLUMN} needs a column patient, which {self.file} does not have;"
                " add it, or say what a patient is with data.patients=REGEX (one group, searched in"
                " the file name) or data.patients=file (each file its own patient)."
            )
        unnamed = [_at(row) for row in rows if not row.patient]
        _refuse(self.file, unnamed, "no patient", "give each image its patient's key")
        samples = _identified(rows, "file")  # patients without numbers, to be named here
        return replace(samples, patients=np.array([row.patient for row in rows], dtype=np.str_))

    def _by_name(self, rows: list[Row], patients: str | None) -> Manifest:
        if "patient" not in self.columns:
            return _identified(rows, patients)
        log.info("%s: patients are read off the file names, not from its column", self.file)
        try:
            return _identified(rows, patients)
        except DataError as error:
            raise DataError(
                f"{str(error).rstrip('.')}; {self.file} itself has a column patient, which"
                f" data.patients={COLUMN} uses."
            ) from error


def read_table(file: str | Path, root: str | Path | None = None) -> Table:
    """Read and check a table: all of it, and that its files are there.

    Args:
        file: CSV in UTF-8, with commas and a header line.
        root: Folder that relative paths start from. None: the table's own.

    Raises:
        DataError: If the table cannot be read; lacks a column; is empty; or has rows that are
            ragged, name no file or one file twice, or hold an unknown label, split or subtype,
            or a subtype of the other class. The first three such rows are named.
    """
    file = Path(file).expanduser()
    root = file.parent if root is None else Path(root).expanduser()
    header, lines = _parse(file)
    _check_header(file, header)
    if not lines:
        raise DataError(f"{file} holds a header and no rows; one row for each image is expected.")
    wanted = len(header)
    ragged = [f"line {n} with {len(cells)}" for n, cells in lines if len(cells) != wanted]
    _refuse(
        file, ragged, f"not {wanted} cells as the header", 'put "quotes" around cells with commas'
    )
    records = [(line, dict(zip(header, cells, strict=True))) for line, cells in lines]

    def check(column: str, known: Iterable[str], default: str) -> None:
        words = list(known)
        wrong = [
            f"{cells[column]!r} in line {line}"
            for line, cells in records
            if cells.get(column, default).strip() not in words
        ]
        _refuse(file, wrong, f"an unknown {column}", f"use {', '.join(filter(None, words))}")

    check("label", _LABELS, "")
    check("split", SPLITS, SPLITS[0])
    check("subtype", ("", *SUBTYPES, UNKNOWN_SUBTYPE), "")
    rows = tuple(
        Row(
            line=line,
            cell=cells["path"],
            path=str(root / cells["path"]),
            label=_LABELS[cells["label"].strip()],
            split=cells.get("split", SPLITS[0]).strip(),
            patient=cells.get("patient", "").strip(),
            subtype=cells.get("subtype", "").strip(),
        )
        for line, cells in records
    )
    contrary = [
        f"{row.subtype} for {CLASSES[row.label]} in line {row.line}"
        for row in rows
        if row.subtype and (row.subtype == SUBTYPES[NORMAL]) != (row.label == NORMAL)
    ]
    _refuse(file, contrary, "a subtype of the other class", "correct one of the two")
    _check_files(file, root, rows)
    return Table(file, frozenset(header) & {*REQUIRED, *OPTIONAL}, rows)


def _parse(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each further line that is not blank with its number."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as error:
        raise DataError(
            f"data.table={file} cannot be read ({error.strerror}); give a CSV file with the columns"
            f" {', '.join(REQUIRED)} and, if wanted, {', '.join(OPTIONAL)}."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text ({error.reason}); save it as CSV in UTF-8."
        ) from error
    except csv.Error as error:
        raise DataError(f"{file} is not a CSV file: line {reader.line_num}, {error}.") from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    return header, lines[1:]


def _check_header(file: Path, header: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise DataError(
            f"{file} has no column {' and no column '.join(missing)}; its header is"
            f" {','.join(header)!r}, and path,label[,split,patient,subtype] is expected, with"
            " commas."
        )
    twice = [name for name in (*REQUIRED, *OPTIONAL) if header.count(name) > 1]
    if twice:
        raise DataError(f"{file} has two columns {twice[0]}; rename or remove one.")
    others = [name for name in header if name not in (*REQUIRED, *OPTIONAL)]
    if others:
        log.info("%s: columns passed over: %s", file, ", ".join(others))


def _check_files(file: Path, root: Path, rows: tuple[Row, ...]) -> None:
    """Refuse rows without a file, and files with two rows, however their paths are spelt."""
    missing: list[str] = []
    same: defaultdict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        try:
            status = os.stat(row.path)  # noqa: PTH116  a table may have 100,000 rows
        except (OSError, ValueError):  # ValueError: a null character
            missing.append(_at(row))
            continue
        if not row.cell or not stat.S_ISREG(status.st_mode):
            missing.append(_at(row))
        same[status.st_dev, status.st_ino].append(row)
    _refuse(file, missing, f"no file under {root}", "correct the paths or remove the rows")
    twice = [
        f"{_at(row)} as in line {first.line}"
        for first, *others in same.values()
        for row in others
        if os.path.realpath(row.path) == os.path.realpath(first.path)  # or it is a hard link
    ]
    _refuse(file, twice, "a file that has a row already", "keep one row for each image")


def _identified(rows: list[Row], patients: str | None) -> Manifest:
    return Manifest.identified([row.path for row in rows], [row.label for row in rows], patients)


def _at(row: Row) -> str:
    return f"{row.cell!r} in line {row.line}"


def _refuse(file: Path, wrong: list[str], problem: str, advice: str) -> None:
    if wrong:
        rows = f"{len(wrong)} rows have" if len(wrong) > 1 else "1 row has"
        first = ", ".join(wrong[:3])
        raise DataError(f"{file}: {rows} {problem} (first: {first}); {advice}.")
