"""Where the images come from: Kaggle, a table, or the package's own drawings."""

import os
from pathlib import Path
from typing import cast

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.data.download import download
from pneumonia.data.phantom import write_phantom
from pneumonia.data.samples import Samples
from pneumonia.data.table import Table, read_table

KAGGLE_ROOT = Path("data/chest_xray")
"""The one root that is downloaded where it is missing; any other is taken for a typing error."""


class KaggleDataModule(ChestXrayDataModule):
    """The same over Kaggle's data set, downloaded to `KAGGLE_ROOT` if it is not there."""

    def check_root(self) -> None:
        """Check that the data set is there, unless it is the one to download.

        Raises:
            DataError: If it is not.
        """
        if not self._downloads():
            super().check_root()

    def prepare_data(self) -> None:
        """Download the data set if it is missing and the root is the default one.

        Raises:
            DataError: If it cannot be downloaded, or another root is not there.
        """
        if self._downloads():
            download(self.root)
        super().prepare_data()

    def _downloads(self) -> bool:
        return self.root == KAGGLE_ROOT and not os.path.lexists(self.root)


class TableDataModule(ChestXrayDataModule):
    """The same over a table of images; see `pneumonia.data.table`.

    Args:
        table: CSV file with columns `path,label[,split,patient,subtype]`.
        root: Folder that relative paths start from; None: the table's own.
        **settings: As for `ChestXrayDataModule`; `patients=column` takes the table's column.
    """

    def __init__(
        self, table: str | Path, root: str | Path | None = None, **settings: object
    ) -> None:
        file = Path(table).expanduser()
        super().__init__(
            file.parent if root is None else root,
            **cast(dict, settings),  # type: ignore[type-arg]
        )
        self.file = file
        self._table: Table | None = None

    def check_root(self) -> None:
        """Check the whole table, and that its files are there.

        Raises:
            DataError: If something is wrong with it.
        """
        self._rows()

    def has(self, split: str) -> bool:
        """Whether the table has rows of a split."""
        return self._rows().has(split)

    def _read(self, split: str) -> Samples:
        return self._rows().read(split, self.patients)

    def _rows(self) -> Table:
        if self._table is None:
            self._table = read_table(self.file, self.root)
        return self._table


class PhantomDataModule(ChestXrayDataModule):
    """The same over radiographs that the package draws itself; needs no download.

    Args:
        root: Where they are written, or already lie.
        images: How many are drawn.
        phantom_seed: Of the drawing; the same seed gives the same bytes.
        **settings: As for `ChestXrayDataModule`.
    """

    synthetic = True

    def __init__(
        self,
        root: str | Path = "data/phantom",
        images: int = 600,
        phantom_seed: int = 0,
        **settings: object,
    ) -> None:
        super().__init__(root, **cast(dict, settings))  # type: ignore[type-arg]
        self.images = images
        self.phantom_seed = phantom_seed

    def check_root(self) -> None:
        """Check what lies at the root, if anything does.

        Raises:
            DataError: If it is no data set.
        """
        if os.path.lexists(self.root):
            super().check_root()

    def prepare_data(self) -> None:
        """Draw the data set if it is not there yet.

        Raises:
            DataError: If it cannot be written.
        """
        if not os.path.lexists(self.root):
            write_phantom(self.root, self.images, self.phantom_seed)
        super().prepare_data()
