"""Every logged number in a CSV file that survives a resume."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from pneumonia.files import atomic_write


class CSVLogger(Logger):
    """Write `metrics.csv`: a row for each logging step, a column for each name.

    Lightning's `CSVLogger` deletes the file when a run is resumed in its directory.

    Args:
        directory: Folder of the file.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.file = Path(directory) / "metrics.csv"
        rows = self._read() if self.file.is_file() else []
        self._columns: list[str] = list(rows[0]) if rows else []
        self._written = len(rows)
        self._waiting: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.file.parent.name

    @property
    def version(self) -> str:
        """Empty: a run has one log."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.file.parent)

    @property
    def rows(self) -> int:
        """Number of rows logged so far."""
        return self._written + len(self._waiting)

    def truncate(self, rows: int) -> None:
        """Remove what was logged after the checkpoint that the run continues from.

        Args:
            rows: Number of rows when it was saved.
        """
        if rows < self._written:
            self._write(self._read()[:rows])

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row.

        Args:
            metrics: Numbers by name.
            step: The optimiser step.
        """
        values = {key: v.item() if isinstance(v, Tensor) else v for key, v in metrics.items()}
        self._waiting.append(values | {"step": step})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: the configuration is in `config.yaml`."""

    @rank_zero_only
    def save(self) -> None:
        """Append the new rows; the file is rewritten if there is a new column."""
        if not self._waiting:
            return
        names = set().union(*self._waiting)
        if names <= set(self._columns) and self.file.is_file():
            with self.file.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns).writerows(self._waiting)
            self._written += len(self._waiting)
        else:
            self._columns = sorted(names | set(self._columns))
            self._write((self._read() if self._written else []) + self._waiting)
        self._waiting = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the rows that wait."""
        self.save()

    def _read(self) -> list[dict[str, Any]]:
        with self.file.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with atomic_write(self.file) as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        self._written = len(rows)
