"""The images of a split as a table, and the CSV file that can list them instead of folders.

Its columns are explained in `conf/data/table.yaml`; other ones are ignored.
"""

import csv
import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.patients import identify_patients
from pneumonia.errors import DataError
from pneumonia.labels import CLASSES, NORMAL, SPLITS, SUBTYPES, UNKNOWN_SUBTYPE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """Columns of equal length N, one row for each image.

    Attributes:
        paths: Files.
        labels: 0 (NORMAL) or 1 (PNEUMONIA).
        patients: Unique keys; with `streams`, `numbers` and `subtypes` as in
            `pneumonia.data.patients.Identity`.
    """

    paths: NDArray[np.str_]
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    streams: NDArray[np.str_]
    numbers: NDArray[np.int64]
    subtypes: NDArray[np.str_]

    @classmethod
    def from_paths(
        cls, paths: Sequence[str], labels: Sequence[int], patients: str | None = None
    ) -> "Manifest":
        """Build the table with patients and subtypes from `identify_patients`, which may raise."""
        columns = zip(*identify_patients(paths, labels, patients), strict=True)
        keys, streams, numbers, subtypes = map(np.array, columns)
        return cls(np.array(paths), np.array(labels), keys, streams, numbers, subtypes)

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Manifest":
        """The rows given by indices or by a mask of length N, in that order."""
        return Manifest(*(column[rows] for column in vars(self).values()))

    def __add__(self, other: "Manifest") -> "Manifest":
        columns = zip(vars(self).values(), vars(other).values(), strict=True)
        return Manifest(*map(np.concatenate, columns))

    def fingerprint(self) -> str:
        """A digest of the files' names, labels and sizes, 16 hexadecimal digits."""
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
        """Images, patients, and images by class, in one line."""
        counts = (f"{n} {name}" for n, name in zip(self.class_counts(), CLASSES, strict=True))
        patients = len(np.unique(self.patients))
        return f"{len(self)} images of {patients} patients: {', '.join(counts)}"


COLUMN = "column"
"""The value of `data.patients` that takes patients from the table's column `patient`."""

_COLUMNS = ("path", "label", "split", "patient", "subtype")
_LABELS = {name: label for label, name in enumerate(CLASSES)} | {"0": 0, "1": 1}
_SUBTYPES = (*SUBTYPES, UNKNOWN_SUBTYPE)


class TableRow(NamedTuple):
    """One image of a CSV file; patient and subtype are empty where the file states none."""

    line: int
    path: str
    label: int
    split: str
    patient: str
    subtype: str


@dataclass(frozen=True)
class Table:
    """A validated CSV file, its header and its rows."""

    file: Path
    columns: list[str]
    rows: list[TableRow]

    def has_split(self, split: str) -> bool:
        """Whether any row belongs to a split."""
        return any(row.split == split for row in self.rows)

    def read(self, split: str, patients: str | None = None) -> Manifest:
        """The images of one split.

        Args:
            split: `train`, `val` or `test`.
            patients: `column` for the column `patient`; else as for `identify_patients`.

        Raises:
            DataError: If the split lacks a class, or a patient is unknown.
        """
        rows = [row for row in self.rows if row.split == split]
        labels = [row.label for row in rows]
        missing = [name for label, name in enumerate(CLASSES) if label not in labels]
        if missing:
            hint = "" if "split" in self.columns else "; without a column split all rows are train"
            raise DataError(
                f"{self.file} has no {' and no '.join(missing)} image in split {split}{hint}."
            )
        paths = [row.path for row in rows]
        by_column = patients == COLUMN
        manifest = Manifest.from_paths(paths, labels, "file" if by_column else patients)
        if by_column:
            unknown = [row.line for row in rows if not row.patient]
            if unknown:
                raise DataError(
                    f"data.patients={COLUMN}: {self.file} has no patient in line {unknown[0]} and"
                    f" {len(unknown) - 1} others; fill in the column patient, or use"
                    " data.patients=REGEX or data.patients=file."
                )
            manifest = replace(manifest, patients=np.array([row.patient for row in rows]))
        stated = np.array([row.subtype for row in rows], dtype=np.str_)
        return replace(manifest, subtypes=np.where(stated == "", manifest.subtypes, stated))


def read_table(file: str | Path, root: str | Path | None = None) -> Table:
    """Read and validate a CSV file of images, and check that its files exist.

    Args:
        file: CSV in UTF-8, with commas and a header line.
        root: Folder that relative paths start from. None: the table's own.

    Raises:
        DataError: If it cannot be read, has no rows or lacks a column, or if rows are not valid,
            name a missing file or one file twice; the first three are named.
    """
    file = Path(file).expanduser()
    root = file.parent if root is None else Path(root).expanduser()
    header, lines = _parse(file)
    rows: list[TableRow] = []
    invalid: list[str] = []
    seen: dict[tuple[int, int], int] = {}  # files by device and inode -> line
    for line, cells in lines:
        try:
            row = _read_row(line, header, cells, root)
            status = os.stat(row.path)  # noqa: PTH116  a table may have 100,000 rows
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{row.path} is not a file")
            first = seen.setdefault((status.st_dev, status.st_ino), line)
            if first != line:
                raise ValueError(f"{row.path} is already listed in line {first}")
            rows.append(row)
        except OSError as error:
            invalid.append(f"line {line}: {row.path}: {error.strerror}")
        except ValueError as error:
            invalid.append(f"line {line}: {error}")
    if invalid:
        raise DataError(
            f"{file} has {len(invalid)} invalid rows ({'; '.join(invalid[:3])}); correct or remove"
            " them."
        )
    if not rows:
        raise DataError(f"{file} has a header and no rows; expected one row for each image.")
    return Table(file, header, rows)


def _parse(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header; and the other lines that are not blank, with their numbers."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except OSError as error:
        raise DataError(
            f"data.table={file} cannot be read ({error.strerror}); expected a CSV file."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{file} is not a CSV file: line {reader.line_num}, {error}.") from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    if not {"path", "label"} <= set(header) or any(header.count(name) > 1 for name in _COLUMNS):
        raise DataError(
            f"{file} has the header {','.join(header)!r}, expected each of"
            " path,label[,split,patient,subtype] once, separated by commas."
        )
    if others := [name for name in header if name not in _COLUMNS]:
        log.info("%s: ignored columns: %s", file, ", ".join(others))
    return header, lines[1:]


def _read_row(line: int, header: list[str], cells: list[str], root: Path) -> TableRow:
    """Raises ValueError for a row that is not valid."""
    if len(cells) != len(header):
        raise ValueError(
            f'{len(cells)} cells, expected {len(header)} (put "quotes" around cells with commas)'
        )
    row = dict(zip(header, cells, strict=True))
    path = str(root / row["path"])
    row = {"split": SPLITS[0]} | {name: cell.strip() for name, cell in row.items()}
    label, split, subtype = row["label"], row["split"], row.get("subtype", "")
    for column, word, words in (
        ("label", label, tuple(_LABELS)),
        ("split", split, SPLITS),
        ("subtype", subtype or UNKNOWN_SUBTYPE, _SUBTYPES),
    ):
        if word not in words:
            raise ValueError(f"unknown {column} {word!r}, expected {', '.join(words)}")
    if subtype and (subtype == SUBTYPES[NORMAL]) != (_LABELS[label] == NORMAL):
        raise ValueError(f"subtype {subtype} contradicts label {label}")
    return TableRow(line, path, _LABELS[label], split, row.get("patient", ""), subtype)
