"""Checkpoints under fixed names, written atomically, that survive a resume."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from pydantic import PositiveInt

from pneumonia.errors import TrainingError
from pneumonia.model.checkpoint import write_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it, so that a kill leaves no half file."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, or leave the file that was there.

        Raises:
            CheckpointError: If it cannot be written.
        """
        write_checkpoint(checkpoint, path)


class BestCheckpoint(ModelCheckpoint):
    """`ModelCheckpoint` that keeps the best epoch under one name, set in `conf/callbacks/`."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the epoch was the best."""
        if self.monitor in trainer.callback_metrics:  # not before the first validation
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score of a resumed run, whose directory may have been moved.

        A new run that starts from a checkpoint (`ckpt_path`) keeps a best checkpoint of its own.
        """
        best = str(Path(str(self.dirpath)) / f"{self.filename}.ckpt")
        if Path(best).is_file():
            moved = {
                "dirpath": self.dirpath,
                "best_model_path": best,
                "kth_best_model_path": best,
                "best_k_models": {best: state_dict["best_model_score"]},
                "last_model_path": "",
            }
            super().load_state_dict(state_dict | moved)


class LastCheckpoint(Checkpoint):
    """Keep the one checkpoint to resume from: of the last epoch, or of a step within one.

    Args:
        dirpath: Folder of the file.
        filename: Name without `.ckpt`.
        every_n_steps: Also save within epochs, every so many optimiser steps.
    """

    def __init__(
        self, dirpath: str, filename: str = "last", every_n_steps: PositiveInt | None = None
    ) -> None:
        self.path = Path(dirpath) / f"{filename}.ckpt"
        self.every_n_steps = every_n_steps
        self._seen = 0
        self._due = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the step that the run starts at."""
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within an epoch, when it is due."""
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
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path, weights_only=False)


def is_step_complete(trainer: Trainer) -> bool:
    """Whether a checkpoint after this training batch is complete.

    It does not hold accumulated gradients, and a run resumed between the last batch and the
    validation would skip the validation.
    """
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher  # noqa: SLF001  no public way to ask for these
    return not (loop._should_accumulate() or loop._should_check_val_fx(fetcher))  # type: ignore[arg-type]  # noqa: SLF001


def best_checkpoint(trainer: Trainer) -> tuple[str, float]:
    """Path of the best checkpoint of a finished fit, and its monitored metric.

    Raises:
        TrainingError: If none was saved.
    """
    callback = trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or callback.best_model_score is None:
        raise TrainingError(
            f"no best checkpoint was saved in {trainer.current_epoch} epochs and"
            f" {trainer.global_step} steps. Train at least one epoch (trainer.max_epochs) and keep"
            " callbacks.best."
        )
    return callback.best_model_path, float(callback.best_model_score)
