"""The images of a split as a table, and the CSV file that can list them instead of folders.

Its columns are explained in `conf/data/table.yaml`; other ones are ignored.
"""

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
from pneumonia.labels import CLASSES, NORMAL, SPLIT_NAMES, SPLITS, SUBTYPES, UNKNOWN_SUBTYPE
from pneumonia.tables import CsvTable, parse_label, read_csv

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
        file: See `pneumonia.tables.read_csv`.
        root: Folder that relative paths start from. None: the table's own.

    Raises:
        DataError: If it cannot be read, has no rows or lacks a column, or if rows are not valid,
            name a missing file or one file twice; the first three are named.
    """
    file = Path(file).expanduser()
    root = file.parent if root is None else Path(root).expanduser()
    table = _read_csv(file)
    rows: list[TableRow] = []
    invalid: list[str] = []
    seen: dict[tuple[int, int], int] = {}  # files by device and inode -> line
    for line, cells in zip(table.lines, table.rows, strict=True):
        try:
            row = _read_row(line, dict(zip(table.columns, cells, strict=True)), root)
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
    return Table(file, table.columns, rows)


def _read_csv(file: Path) -> CsvTable:
    try:
        table = read_csv(file)
    except OSError as error:
        raise DataError(
            f"data.table={file} cannot be read ({error.strerror}); expected a CSV file."
        ) from error
    except ValueError as error:
        raise DataError(f"{file} cannot be read as a table: {error}.") from error
    names = table.columns
    if not {"path", "label"} <= set(names) or any(names.count(name) > 1 for name in _COLUMNS):
        raise DataError(
            f"{file} has the header {','.join(names)!r}, expected each of"
            " path,label[,split,patient,subtype] once."
        )
    if others := [name for name in names if name not in _COLUMNS]:
        log.info("%s: ignored columns: %s", file, ", ".join(others))
    return table


def _read_row(line: int, cells: dict[str, str], root: Path) -> TableRow:
    """Raises ValueError for a row that is not valid."""
    row = {"split": SPLITS[0]} | {name: cell.strip() for name, cell in cells.items()}
    label, split = parse_label(row["label"]), SPLIT_NAMES.get(row["split"].lower())
    if split is None:
        raise ValueError(f"unknown split {row['split']!r}, expected {', '.join(SPLITS)}")
    subtype = row.get("subtype", "").lower()
    if subtype and subtype not in _SUBTYPES:
        raise ValueError(f"unknown subtype {subtype!r}, expected {', '.join(_SUBTYPES)}")
    if subtype and (subtype == SUBTYPES[NORMAL]) != (label == NORMAL):
        raise ValueError(f"subtype {subtype} contradicts label {CLASSES[label]}")
    path = str(root / cells["path"])
    return TableRow(line, path, label, split, row.get("patient", ""), subtype)
