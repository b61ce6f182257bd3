"""Every logged number in a CSV file that outlives a kill."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from pneumonia.files import atomic_write


class CSVLogger(Logger):
    """One row for each logging step in `metrics.csv`, with a column for each name.

    Lightning's `CSVLogger` deletes the file when a run goes on in its directory.

    Args:
        directory: Folder of the file.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.file = Path(directory) / "metrics.csv"
        self._columns: list[str] = []
        self._rows = 0
        self._waiting: list[dict[str, Any]] = []
        if self.file.is_file():
            rows = self._read()
            self._rows = len(rows)
            self._columns = list(rows[0]) if rows else []

    @property
    def name(self) -> str:
        """What Lightning calls the log."""
        return self.file.parent.name

    @property
    def version(self) -> str:
        """None: a run has one log."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.file.parent)

    @property
    def rows(self) -> int:
        """How many rows were logged."""
        return self._rows + len(self._waiting)

    def cut(self, rows: int) -> None:
        """Forget what was logged after a checkpoint that the run goes back to.

        Args:
            rows: How many there were when it was saved.
        """
        if rows < self._rows:
            self._write(self._read()[:rows])

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row.

        Args:
            metrics: Numbers by name.
            step: Of the optimiser.
        """
        values = {key: v.item() if isinstance(v, Tensor) else v for key, v in metrics.items()}
        self._waiting.append(values | {"step": step})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: the run's configuration is a file of its own."""

    @rank_zero_only
    def save(self) -> None:
        """Write the new rows; for a new column the file is written anew."""
        if not self._waiting:
            return
        names = set().union(*self._waiting)
        if names <= set(self._columns) and self.file.is_file():
            with self.file.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns).writerows(self._waiting)
            self._rows += len(self._waiting)
        else:
            self._columns = sorted(names | set(self._columns))
            self._write((self._read() if self._rows else []) + self._waiting)
        self._waiting = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what waits."""
        self.save()

    def _read(self) -> list[dict[str, Any]]:
        with self.file.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with atomic_write(self.file) as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        self._rows = len(rows)
