"""Checkpoints under fixed names, kept through a resume into another run directory."""

import shutil
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from pneumonia.errors import CheckpointError


class RunCheckpoint(ModelCheckpoint):
    """`ModelCheckpoint` that keeps one file, always under the same name.

    Resuming into a new run directory carries the best checkpoint so far along; stock
    Lightning forgets its score there, so that a worse epoch would become the best.

    Args:
        dirpath: Folder of the file.
        filename: Name without `.ckpt`.
        monitor: Metric that decides whether to save; None: save every time.
        mode: Whether `min` or `max` of the metric is better.
        every_n_epochs: How often to look.
        resumed_from: The checkpoint that the run goes on from, or None.
    """

    def __init__(
        self,
        dirpath: str,
        filename: str,
        monitor: str | None = None,
        mode: str = "max",
        every_n_epochs: int = 1,
        resumed_from: str | None = None,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            every_n_epochs=every_n_epochs,
            save_top_k=1,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self._resumed_from = Path(resumed_from) if resumed_from else None
        self._copies = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note whether this process is the one that copies files."""
        super().setup(trainer, pl_module, stage)
        self._copies = trainer.is_global_zero

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score and, from another run directory, its file.

        Args:
            state_dict: As `state_dict` gave it.

        Raises:
            CheckpointError: If the best checkpoint so far no longer lies beside the one that
                is resumed.
        """
        moved = state_dict["dirpath"] != self.dirpath
        if not moved or self._resumed_from is None:
            super().load_state_dict(state_dict)
        elif self.monitor is not None and state_dict["best_model_path"]:
            best = self._bring(self._resumed_from.with_name(f"{self.filename}.ckpt"))
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

    def _bring(self, source: Path) -> str:
        target = Path(str(self.dirpath)) / source.name
        if not source.is_file():
            raise CheckpointError(
                f"{source} is missing: the run to resume had its best checkpoint there; put it"
                f" back beside {self._resumed_from}."
            )
        if self._copies:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            shutil.copyfile(source, partial)
            partial.replace(target)
        return str(target)
