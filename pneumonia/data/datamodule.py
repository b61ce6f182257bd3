"""Folders -> batches for Lightning: the honest split and the loaders."""

import logging
import os
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from lightning import LightningDataModule
from lightning.fabric.utilities.distributed import _InfiniteBarrier
from torch.utils.data import DataLoader

from pneumonia.data.cache import Cache, open_cache
from pneumonia.data.dataset import ChestXrayDataset, Item, read_split
from pneumonia.data.image_io import Fit, Interpolation, Preprocessing
from pneumonia.data.kaggle import download
from pneumonia.data.manifest import Manifest, Table, read_table
from pneumonia.data.parallel import init_worker
from pneumonia.data.samplers import (
    BalancedSampler,
    SequentialSampler,
    ShuffledSampler,
    TrainingSampler,
)
from pneumonia.data.split import ValidationSplit, check_disjoint
from pneumonia.data.synthetic import write_synthetic
from pneumonia.data.transforms import Augmentation
from pneumonia.errors import ConfigError, DataError

log = logging.getLogger(__name__)

Balance = Literal["balanced"]

MAX_WORKERS = 8


class ChestXrayDataModule(LightningDataModule):
    """Chest X-rays in Kaggle's folder layout, with a hold-out made from the training images.

    Args:
        root: Folder with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.
        image_size: Side of the square the network sees, pixels.
        fit: How an image becomes that square; see `Preprocessing`.
        interpolation: How it is resized; see `Preprocessing`.
        batch_size: Images of a training step, over all processes.
        num_workers: Loader processes for each training process; None: one less than the
            cores at hand, at most 8.
        patients: What a patient is; see `pneumonia.data.patients.identify`.
        holdout: How the validation images are chosen.
        augmentation: Changes to training images; None: none.
        sampler: `balanced` draws both classes, and all patients of a class, equally often; see
            `pneumonia.data.samplers.BalancedSampler`. None: every training image once an epoch.
        cache: Whether images are decoded once and kept; see `pneumonia.data.cache`. Batches
            are the same either way.
        cache_dir: Folder of caches; None: the user's cache folder.
        seed: Of order and augmentation.

    Raises:
        ConfigError: If a setting is out of range.
        DataError: At `prepare_data` and `setup`, if the folders are not a data set.
    """

    synthetic = False
    """Whether the images are drawn, not taken of anybody."""

    def __init__(
        self,
        root: str | Path = "data/chest_xray",
        image_size: int = 224,
        fit: Fit = "squash",
        interpolation: Interpolation = "bilinear",
        batch_size: int = 32,
        num_workers: int | None = None,
        patients: str | None = None,
        holdout: ValidationSplit | None = None,
        augmentation: Augmentation | None = None,
        sampler: Balance | None = None,
        cache: bool = True,
        cache_dir: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if sampler is not None and sampler not in get_args(Balance):
            raise ConfigError(f"data.sampler={sampler!r} is neither balanced nor null.")
        if batch_size < 1:
            raise ConfigError(f"data.batch_size={batch_size}: at least 1 image is needed.")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        cores = cores or 1
        if num_workers is not None and not 0 <= num_workers <= cores:
            raise ConfigError(
                f"data.num_workers={num_workers}: this machine can serve 0 to {cores} (one for"
                " each core); leave it null to choose."
            )
        self.root = Path(root).expanduser()
        self.preprocessing = Preprocessing(image_size, fit, interpolation)
        self.batch_size = batch_size
        self.num_workers = min(cores - 1, MAX_WORKERS) if num_workers is None else num_workers
        self.patients = patients
        self.holdout = holdout or ValidationSplit()
        self.augmentation = augmentation
        self.sampler = sampler
        self.cache = cache
        self.cache_dir = cache_dir
        self.seed = seed
        self.splits: dict[str, Manifest] = {}
        self._caches: dict[str, Cache | None] = {}
        self._first_epoch = self._first_batch = 0

    def check_root(self) -> None:
        """Check that the data set is there, or can be made; touches nothing.

        Raises:
            DataError: If it is not.
        """
        if not (self.root / "train").is_dir():
            found = "holds no folder train" if self.root.is_dir() else "does not exist"
            raise DataError(
                f"data.root={self.root} {found}; unpack Kaggle's"
                " paultimothymooney/chest-xray-pneumonia so that train, val and test lie there,"
                " or go on now with data=synthetic, which needs no download."
            )

    def prepare_data(self) -> None:
        """Check that the data set is there; called once a machine, before `setup`.

        Raises:
            DataError: If it is not.
        """
        self.check_root()

    def setup(self, stage: str) -> None:
        """List the splits that the stage needs, check that they share no patient, and cache them.

        Args:
            stage: `fit`, `validate`, `test` or `predict`.

        Raises:
            DataError: If a split is missing, has names that tell no patient, or shares
                patients or files with another; or if the cache cannot be made.
        """
        if stage in ("fit", "validate") and "train" not in self.splits:
            train, val = self._split_off_holdout()
            val = _mixed(val)  # a part of it, by limit_val_batches, then has both classes
            if getattr(self.trainer, "overfit_batches", 0):
                train = _mixed(train)  # Lightning then takes the first rows, unshuffled
            self.splits |= {"train": train, "val": val}
            self._report("train", "val")
            # One cache of both: whichever images the hold-out takes, they are the same ones.
            self._caches |= dict.fromkeys(("train", "val"), self._open_cache(train + val))
        if stage == "test" and "test" not in self.splits:
            test = self._read("test")
            check_disjoint(self._known(), test, f"{self.root / 'test'}")
            self.splits["test"] = test
            self._report("test")
            self._caches["test"] = self._open_cache(test)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps: the epoch to go on with, and how many batches of it are done."""
        assert self.trainer is not None  # noqa: S101  only a Trainer asks
        loop = self.trainer.fit_loop
        batches, epochs = loop.epoch_loop.batch_progress, loop.epoch_progress.current
        ended = batches.is_last_batch or epochs.processed > epochs.completed  # type: ignore[attr-defined]
        done = 0 if ended else batches.current.processed  # type: ignore[attr-defined]
        return {"epoch": self.trainer.current_epoch + int(ended), "batches": done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take over what a checkpoint kept.

        Args:
            state_dict: As `state_dict` gave it.
        """
        self._first_epoch = state_dict["epoch"]
        self._first_batch = state_dict.get("batches", 0)

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled and augmented training images, whole batches only."""
        rank, world_size = self._ranks()
        samples = self.splits["train"]
        dataset = ChestXrayDataset(
            samples, self.preprocessing, self.augmentation, self.seed, self._caches["train"]
        )
        order: TrainingSampler
        if self.sampler == "balanced":
            order = BalancedSampler(samples, self.batch_size, self.seed, rank, world_size)
        else:
            order = ShuffledSampler(len(samples), self.batch_size, self.seed, rank, world_size)
        # Workers draw the order ahead, on a resume before Lightning names the epoch.
        share = self.batch_size // world_size
        order.resume(self._first_epoch, self._first_batch * share)
        return self._loader(dataset, order, share)

    def val_dataloader(self) -> DataLoader[Item]:
        """The hold-out, in order."""
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """The test split, in order."""
        return self._in_order("test")

    def radiographs(self, split: str) -> ChestXrayDataset:
        """All images of the split `val` or `test`, not augmented; there after its `setup`."""
        return ChestXrayDataset(self.splits[split], self.preprocessing, cache=self._caches[split])

    def has(self, split: str) -> bool:
        """Whether there is a split `train`, `val` or `test`."""
        return (self.root / split).is_dir()

    def class_counts(self) -> tuple[int, int]:
        """Number of NORMAL and of PNEUMONIA training images; known after `setup`."""
        return self.splits["train"].class_counts()

    def _report(self, *splits: str) -> None:
        if self._ranks()[0] == 0:
            for name in splits:
                log.info("%s: %s", name, self.splits[name].summary())

    def _known(self) -> Manifest:
        known = self._read("train")
        if self.has("val"):
            known += self._read("val")
        return known

    def _read(self, split: str) -> Manifest:
        return read_split(self.root, split, self.patients)

    def _open_cache(self, samples: Manifest) -> Cache | None:
        """The images, decoded once: the first process makes what the others open.

        The first of each other machine comes next; on a disk of its own it makes another.
        """
        if not self.cache:
            return None
        trainer, cache = self.trainer, None
        if trainer is not None:
            for turn in (trainer.is_global_zero, trainer.local_rank == 0):
                with _InfiniteBarrier():  # the usual one gives up after 10 or 30 minutes
                    cache = cache or (self._cache_of(samples) if turn else None)
        return cache or self._cache_of(samples)

    def _cache_of(self, samples: Manifest) -> Cache:
        return open_cache(samples.paths, self.preprocessing, self.cache_dir)

    def _split_off_holdout(self) -> tuple[Manifest, Manifest]:
        if self.holdout.strategy == "folder":
            train, val = self._read("train"), self._read("val")
            check_disjoint(train, val, f"{self.root / 'val'}")
            return train, val
        known = self._known()
        held = self.holdout.mask(known)
        return known.take(~held), known.take(held)

    def _in_order(self, split: str) -> DataLoader[Item]:
        rank, world_size = self._ranks()
        dataset = self.radiographs(split)
        order = SequentialSampler(len(dataset), rank, world_size)
        return self._loader(dataset, order, max(1, self.batch_size // world_size))

    def _loader(
        self, dataset: ChestXrayDataset, order: TrainingSampler | SequentialSampler, batch_size: int
    ) -> DataLoader[Item]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=order,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=on_gpu,
            worker_init_fn=init_worker,
        )

    def _ranks(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


def _mixed(samples: Manifest) -> Manifest:
    return samples.take(np.random.default_rng(0).permutation(len(samples)))


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
    """The same over a table of images; see `pneumonia.data.manifest`.

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

    def _read(self, split: str) -> Manifest:
        return self._rows().read(split, self.patients)

    def _rows(self) -> Table:
        if self._table is None:
            self._table = read_table(self.file, self.root)
        return self._table


class SyntheticDataModule(ChestXrayDataModule):
    """The same over radiographs that the package draws itself; needs no download.

    Args:
        root: Where they are written, or already lie.
        images: How many are drawn.
        synthetic_seed: Of the drawing; the same seed gives the same bytes.
        **settings: As for `ChestXrayDataModule`.
    """

    synthetic = True

    def __init__(
        self,
        root: str | Path = "data/synthetic",
        images: int = 600,
        synthetic_seed: int = 0,
        **settings: object,
    ) -> None:
        super().__init__(root, **cast(dict, settings))  # type: ignore[type-arg]
        self.images = images
        self.synthetic_seed = synthetic_seed

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
            write_synthetic(self.root, self.images, self.synthetic_seed)
        super().prepare_data()
