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

    Attributes:
        rows: Everything logged so far.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.file = Path(directory) / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self._columns: list[str] = []
        if self.file.is_file():
            with self.file.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                self.rows = list(reader)
            self._columns = list(reader.fieldnames or ())

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.file.parent.name

    @property
    def version(self) -> str:
        """Empty: a run has one log."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append the row of a step; the file is rewritten if there is a new column."""
        values = {key: v.item() if isinstance(v, Tensor) else v for key, v in metrics.items()}
        self.rows.append(values | {"step": step})
        if not self.rows[-1].keys() <= set(self._columns):
            self._columns = sorted(self.rows[-1].keys() | set(self._columns))
            self.truncate(len(self.rows))
            return
        with self.file.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(self.rows[-1])

    def truncate(self, rows: int) -> None:
        """Rewrite the file with its first `rows` rows, those before a checkpoint."""
        self.rows = self.rows[:rows]
        with atomic_write(self.file) as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: the configuration is in `config.yaml`."""
