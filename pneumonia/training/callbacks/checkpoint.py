"""Checkpoints under fixed names, each whole or not there, kept through a resume."""

import shutil
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from pneumonia.errors import CheckpointError, ConfigError
from pneumonia.files import atomic_replace
from pneumonia.model.checkpoint import write_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it.

    Lightning's own way goes through the system's folder for temporary files, and copies where
    that is another disk: a kill meanwhile leaves half a file under the good name.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, whole or not at all.

        Raises:
            CheckpointError: If it cannot be written; one that was there is as it was.
        """
        write_checkpoint(checkpoint, path)


class BestCheckpoint(ModelCheckpoint):
    """`ModelCheckpoint` that keeps the one best epoch, always under the same name.

    Resuming into a new run directory carries the best checkpoint so far along; stock
    Lightning forgets its score there, so that a worse epoch would become the best.

    Args:
        dirpath: Folder of the file.
        filename: Name without `.ckpt`.
        monitor: Metric that decides whether to save.
        mode: Whether `min` or `max` of the metric is better.
        every_n_epochs: How often to look, always at the end of an epoch.
    """

    def __init__(
        self,
        dirpath: str,
        filename: str,
        monitor: str,
        mode: str = "max",
        every_n_epochs: int = 1,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            every_n_epochs=every_n_epochs,
            save_top_k=1,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self._trainer: Trainer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note who resumes, and from where."""
        super().setup(trainer, pl_module, stage)
        self._trainer = trainer

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the epoch was the best."""
        if self.monitor in trainer.callback_metrics:  # not before the first validation
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score and, from another run directory, its file.

        Args:
            state_dict: As `state_dict` gave it.

        Raises:
            CheckpointError: If the best checkpoint so far no longer lies beside the one that
                is resumed.
        """
        if state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)
        elif state_dict["best_model_path"]:
            best = self._bring()
            super().load_state_dict(
                state_dict
                | {
                    "dirpath": self.dirpath,
                    "best_model_path": best,
                    "kth_best_model_path": best,
                    "best_k_models": {best: state_dict["best_model_score"]},
                    "last_model_path": "",
                }
            )

    def _bring(self) -> str:
        assert self._trainer is not None  # noqa: S101  Lightning calls `setup` first
        resumed = Path(str(self._trainer.ckpt_path))
        source = resumed.with_name(f"{self.filename}.ckpt")
        target = Path(str(self.dirpath)) / source.name
        if not source.is_file():
            raise CheckpointError(
                f"{source} is missing: the run to resume had its best checkpoint there; put it"
                f" back beside {resumed}."
            )
        if self._trainer.is_global_zero and source.resolve() != target.resolve():
            with atomic_replace(target) as partial:
                shutil.copyfile(source, partial)
        return str(target)


class LastCheckpoint(Checkpoint):
    """Keeps the one checkpoint to go on from: of the last epoch, or of a step within one.

    Args:
        dirpath: Folder of the file.
        filename: Name without `.ckpt`.
        every_n_steps: Save within epochs too, after every so many optimiser steps; None: only
            at the end of an epoch.

    Raises:
        ConfigError: If `every_n_steps` is below 1.
    """

    def __init__(
        self, dirpath: str, filename: str = "last", every_n_steps: int | None = None
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ConfigError(
                f"checkpoint.every_n_steps={every_n_steps} must be at least 1, or null to save"
                " at the end of every epoch only."
            )
        self.path = Path(dirpath) / f"{filename}.ckpt"
        self.every_n_steps = every_n_steps
        self._seen = 0
        self._due = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from where the run stands."""
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within an epoch, when it is time."""
        if self.every_n_steps is None:
            return
        if trainer.global_step != self._seen:
            self._seen = trainer.global_step
            self._due |= self._seen % self.every_n_steps == 0
        if self._due and is_step_complete(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now; every process must call this."""
        self._due = False
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set from outside
            trainer.save_checkpoint(self.path, weights_only=False)


def is_step_complete(trainer: Trainer) -> bool:
    """Whether a training batch that just ended leaves nothing half done.

    A checkpoint does not hold accumulated gradients, and one that is saved when validation is
    still to follow would go on without it.

    Args:
        trainer: Within `on_train_batch_end`.
    """
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher  # noqa: SLF001  Lightning decides by these two
    return not (loop._should_accumulate() or loop._should_check_val_fx(fetcher))  # type: ignore[arg-type]  # noqa: SLF001
