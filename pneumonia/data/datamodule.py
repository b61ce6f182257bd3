"""Folders or tables of chest X-rays -> patient-grouped splits and batches for Lightning."""

import logging
import os
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from pneumonia.data.cache import Cache, open_cache
from pneumonia.data.dataset import Change, ChestXrayDataset, Item, read_split
from pneumonia.data.image_io import Interpolation, Preprocessing, ResizeMode
from pneumonia.data.kaggle import download
from pneumonia.data.manifest import Manifest, Table, read_table
from pneumonia.data.parallel import available_cores, init_worker
from pneumonia.data.samplers import SequentialSampler, TrainingSampler, balanced_probabilities
from pneumonia.data.split import ValidationSplit, check_disjoint
from pneumonia.data.synthetic import write_synthetic
from pneumonia.data.transforms import VAL_SHIFT, Augmentation, scanner_shift
from pneumonia.errors import DataError, check_setting
from pneumonia.labels import SPLIT_NAMES

log = logging.getLogger(__name__)

_VAL_CHANGES: tuple[Change | None, ...] = (None, VAL_SHIFT, scanner_shift)  # as in VAL_SETS
_SHIFT_SEED = 20180222
_MAX_WORKERS = 8
_KAGGLE_ROOT = Path("data/chest_xray")


class ChestXrayDataModule(LightningDataModule):
    """Chest X-rays in Kaggle's folder layout, with a validation set drawn from the training images.

    Args:
        root: Folder with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.
        image_size: Side of the square that the network sees, pixels.
        resize_mode: How an image becomes that square; see `Preprocessing`.
        interpolation: As for `Preprocessing`.
        batch_size: Images of a training step, over all processes.
        num_workers: Loader processes of each training process; None: one less than the cores, at
            most 8.
        patients: How patients are identified; see `pneumonia.data.patients.identify_patients`.
        split: How the validation set is chosen.
        augmentation: Random transforms of training images; None: none.
        sampler: `balanced` draws both classes, and all patients of a class, equally often. None:
            every training image once an epoch.
        cache: Whether decoded images are kept on disk; the batches are the same either way.
        cache_dir: Folder of caches; None: the user's cache folder.
        cache_size: Side at which training images are cached, pixels; above `image_size`, zoomed
            crops stay sharp. None: `image_size`.
        shifted_validation: Whether the validation set is also evaluated under two fixed simulated
            shifts, `val_shift` and `val_shift_b`.
        seed: Seed of order and augmentation.

    Attributes:
        splits: The images of `train` and `val` after `setup("fit")`, of `test` after
            `setup("test")`.

    Raises:
        ConfigError: If a setting is out of range.
        DataError: At `prepare_data` and `setup`, if the folders are not a data set.
    """

    synthetic = False  # whether the images are drawn by the package

    def __init__(
        self,
        root: str | Path = "data/chest_xray",
        image_size: int = 224,
        resize_mode: ResizeMode = "squash",
        interpolation: Interpolation = "bilinear",
        batch_size: int = 32,
        num_workers: int | None = None,
        patients: str | None = None,
        split: ValidationSplit | None = None,
        augmentation: Augmentation | None = None,
        sampler: Literal["balanced"] | None = None,
        cache: bool = True,
        cache_dir: str | Path | None = None,
        cache_size: int | None = None,
        shifted_validation: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        cores = available_cores()
        check_setting(sampler in {None, "balanced"}, "data.sampler", sampler, "balanced or null")
        check_setting(batch_size > 0, "data.batch_size", batch_size, "1 or more")
        possible = num_workers is None or 0 <= num_workers <= cores
        expected = f"0 to {cores}, the cores of this machine, or null"
        check_setting(possible, "data.num_workers", num_workers, expected)
        large = cache_size is None or cache_size >= image_size
        check_setting(large, "data.cache_size", cache_size, f"{image_size} or more, or null")
        self.root = Path(root).expanduser()
        self.preprocessing = Preprocessing(image_size, resize_mode, interpolation)
        self.batch_size = batch_size
        self.num_workers = min(cores - 1, _MAX_WORKERS) if num_workers is None else num_workers
        self.patients = patients
        self.validation_split = split or ValidationSplit()
        self.augmentation = augmentation
        self.sampler = sampler
        self.cache = cache
        self.cache_dir = cache_dir
        self.cache_size = cache_size or image_size
        self.shifted_validation = shifted_validation
        self.seed = seed
        self.splits: dict[str, Manifest] = {}
        self._caches: dict[str, Cache] = {}
        self._first_epoch = self._first_batch = 0

    def check_root(self) -> None:
        """Raise a DataError unless the data set exists or can be made; changes nothing."""
        for entry in self.root.iterdir() if self.root.is_dir() else ():
            name = SPLIT_NAMES.get(entry.name.lower())
            if name and entry.is_dir() and not (self.root / name).is_dir():
                raise DataError(f"{entry} is not read as a split; rename it to {name}.")
        if not self._can_be_made() and not (self.root / "train").is_dir():
            found = "holds no folder train" if self.root.is_dir() else "does not exist"
            raise DataError(
                f"data.root={self.root} {found}; unpack Kaggle's"
                " paultimothymooney/chest-xray-pneumonia there (train, val and test), or use"
                " data=synthetic, which needs no download."
            )

    def prepare_data(self) -> None:
        """Make the data set if it can be made, and the cache; once on each machine."""
        if self._can_be_made():
            self._make()
        self.check_root()
        if self.trainer is not None:  # the other processes wait, and find the cache
            self.setup("test" if self.trainer.testing else "fit")

    def setup(self, stage: str) -> None:
        """List the splits of a stage, check that they share no patient, and cache their images."""
        if stage in ("fit", "validate") and "train" not in self.splits:
            train, val = self._split_train_val()
            val = self._shuffled(val)  # so that limit_val_batches keeps both classes
            if getattr(self.trainer, "overfit_batches", 0):
                train = self._shuffled(train)  # Lightning then takes the first rows, in order
            # One cache for both, so that other validation splits of these images reuse it.
            self._add(train + val, train=train, val=val)
            if self.cache and self._source != self.preprocessing:
                cache = open_cache((train + val).paths, self._source, self.cache_dir)
                self._caches["train"] = cache
        if stage == "test" and "test" not in self.splits:
            test = self._read("test")
            check_disjoint(self._read_train_and_val(), test, f"{self.root / 'test'}")
            self._add(test, test=test)

    def state_dict(self) -> dict[str, int]:
        """The epoch to continue with, and how many of its batches are done."""
        assert self.trainer is not None  # noqa: S101  only a Trainer asks
        loop = self.trainer.fit_loop
        batches, epochs = loop.epoch_loop.batch_progress, loop.epoch_progress.current
        ended = batches.is_last_batch or epochs.processed > epochs.completed  # type: ignore[attr-defined]
        done = 0 if ended else batches.current.processed  # type: ignore[attr-defined]
        return {"epoch": self.trainer.current_epoch + int(ended), "batches": done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue where `state_dict` was called."""
        self._first_epoch = state_dict["epoch"]
        self._first_batch = state_dict["batches"]

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled and augmented training images in whole batches, uint8 [N, 1, S, S]."""
        rank, world_size = self._ranks()
        samples = self.splits["train"]
        odds = balanced_probabilities(samples) if self.sampler == "balanced" else None
        order = TrainingSampler(len(samples), self.batch_size, self.seed, rank, world_size, odds)
        # Workers draw ahead: on a resume, before Lightning sets the epoch.
        order.resume(self._first_epoch, self._first_batch * (self.batch_size // world_size))
        change = None
        if self.augmentation is not None:
            change = partial(self.augmentation, size=self.preprocessing.image_size)
        cache = self._caches.get("train")
        return self._loader(
            ChestXrayDataset(samples, self._source, change, self.seed, cache), order
        )

    def val_dataloader(self) -> list[DataLoader[Item]]:
        """The validation set in order, as it is and changed: a loader for each of `VAL_SETS`."""
        changes = _VAL_CHANGES if self.shifted_validation else _VAL_CHANGES[:1]
        return [self._loader(self.dataset("val", change)) for change in changes]

    def test_dataloader(self) -> DataLoader[Item]:
        """The test split, in order."""
        return self._loader(self.dataset("test"))

    def dataset(self, split: str, change: Change | None = None) -> ChestXrayDataset:
        """All images of a split in order, changed by seeds of their own or as they are."""
        cache = None if split == "train" else self._caches.get(split)
        return ChestXrayDataset(self.splits[split], self.preprocessing, change, _SHIFT_SEED, cache)

    @property
    def _source(self) -> Preprocessing:
        """What training images are before their augmentation."""
        if self.augmentation is None:
            return self.preprocessing
        return replace(self.preprocessing, image_size=self.cache_size)

    def has_split(self, split: str) -> bool:
        """Whether the data set has a split `train`, `val` or `test`."""
        return (self.root / split).is_dir()

    def _can_be_made(self) -> bool:
        return False

    def _make(self) -> None:
        raise NotImplementedError

    @staticmethod
    def _shuffled(samples: Manifest) -> Manifest:
        return samples.take(np.random.default_rng(0).permutation(len(samples)))

    def _add(self, images: Manifest, **splits: Manifest) -> None:
        if self.cache:
            cache = open_cache(images.paths, self.preprocessing, self.cache_dir)
            self._caches |= dict.fromkeys(splits, cache)
        self.splits |= splits
        if self._ranks()[0] == 0:
            for name, samples in splits.items():
                log.info("%s: %s", name, samples.summary())

    def _read(self, split: str) -> Manifest:
        return read_split(self.root, split, self.patients)

    def _read_train_and_val(self) -> Manifest:
        train = self._read("train")
        return train + self._read("val") if self.has_split("val") else train

    def _split_train_val(self) -> tuple[Manifest, Manifest]:
        if self.validation_split.strategy == "folder":
            train, val = self._read("train"), self._read("val")
            check_disjoint(train, val, f"{self.root / 'val'}")
            return train, val
        samples = self._read_train_and_val()
        validation = self.validation_split.mask(samples)
        return samples.take(~validation), samples.take(validation)

    def _loader(
        self, dataset: ChestXrayDataset, order: TrainingSampler | None = None
    ) -> DataLoader[Item]:
        rank, world_size = self._ranks()
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            dataset,
            batch_size=max(1, self.batch_size // world_size),
            sampler=SequentialSampler(len(dataset), rank, world_size) if order is None else order,
            num_workers=self.num_workers,
            # The shifted validation sets would keep two more sets of workers, idle in training.
            persistent_workers=self.num_workers > 0 and (order is not None or not dataset.change),
            pin_memory=on_gpu,
            worker_init_fn=init_worker,
        )

    def _ranks(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


class KaggleDataModule(ChestXrayDataModule):
    """Kaggle's data set, downloaded if the root is the default one and missing."""

    def _can_be_made(self) -> bool:
        return self.root == _KAGGLE_ROOT and not os.path.lexists(self.root)

    def _make(self) -> None:
        download(self.root)


class TableDataModule(ChestXrayDataModule):
    """Images listed in a CSV file; see `pneumonia.data.manifest`.

    Args:
        table: CSV file with columns `path,label[,split,patient,subtype]`.
        root: Folder that relative paths start from; None: the table's own.
        **settings: As for `ChestXrayDataModule`; `patients=column` uses the column `patient`.
    """

    def __init__(self, table: str | Path, root: str | Path | None = None, **settings: Any) -> None:
        file = Path(table).expanduser()
        super().__init__(file.parent if root is None else root, **settings)
        self.file = file

    def check_root(self) -> None:
        """Read and validate the table."""
        self._table  # noqa: B018

    def has_split(self, split: str) -> bool:
        """Whether the table has rows of a split."""
        return self._table.has_split(split)

    def _read(self, split: str) -> Manifest:
        return self._table.read(split, self.patients)

    @cached_property
    def _table(self) -> Table:
        return read_table(self.file, self.root)


class SyntheticDataModule(ChestXrayDataModule):
    """Radiographs drawn by the package, which need no download.

    Args:
        root: Where they are written, or already exist.
        images: Number of images.
        synthetic_seed: Seed of the drawing.
        **settings: As for `ChestXrayDataModule`.
    """

    synthetic = True

    def __init__(
        self,
        root: str | Path = "data/synthetic",
        images: int = 600,
        synthetic_seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.images = images
        self.synthetic_seed = synthetic_seed

    def _can_be_made(self) -> bool:
        return not os.path.lexists(self.root)

    def _make(self) -> None:
        write_synthetic(self.root, self.images, self.synthetic_seed)
