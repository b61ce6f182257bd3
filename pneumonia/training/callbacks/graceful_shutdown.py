"""A run that is asked to stop: it finishes the step, saves, and says how to go on.

Exit codes are those of the shell, 128 + the signal's number:

| asked by | code |
|---|---|
| Ctrl-C (SIGINT); a second one does not wait for the step | 130 |
| SIGUSR1, as `sbatch --signal=SIGUSR1@90` sends before the time is up | 138 |
| SIGTERM, from `kill`, `docker stop` or a scheduler | 143 |

A script for SLURM that goes on by itself stands in the README.
"""

import signal
import threading
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from pneumonia.training.callbacks.checkpoint import LastCheckpoint, is_step_complete

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


class Stopped(SystemExit):
    """The end of a run that was asked to stop; its code says by which signal."""

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(128 + number)
        self.sentence = f"Stopped by {signal.Signals(number).name}{advice}"


class GracefulShutdown(Callback):
    """Answer signals between two steps, where a checkpoint is whole.

    In a validation the answer waits for its end. After the fit there is nothing to save, and the
    run stops at once.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._waits = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over from Lightning, which would exit without saving."""
        if trainer.received_sigterm:
            self._asked = signal.SIGTERM
        self._waits = True
        self._listen()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over from Lightning, which would go on."""
        self._listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop if asked to."""
        at_hand = trainer.world_size == 1 or trainer.strategy.root_device.type == "cpu"
        # Asking the other processes waits for this one's GPU, too.
        due = at_hand or trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if due and is_step_complete(trainer) and self._is_asked(trainer):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, LastCheckpoint):
                    callback.save(trainer)
            self._leave(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if asked to; the epoch before is saved."""
        if self._is_asked(trainer):
            self._leave(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if asked to; the fit is saved."""
        if self._is_asked(trainer):
            self._leave(trainer)
        self._waits = False

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        impatient = self._asked == number == signal.SIGINT
        self._asked = number
        if impatient or not self._waits:
            raise Stopped(number, " before it could save" if impatient else "")

    def _is_asked(self, trainer: Trainer) -> bool:
        """Whether any process is asked to; then all stop at the same step, with the same code."""
        if trainer.world_size > 1:
            asked = torch.tensor(self._asked or 0, device=trainer.strategy.root_device)
            self._asked = int(trainer.strategy.reduce(asked, reduce_op="max")) or None
        return self._asked is not None

    def _leave(self, trainer: Trainer) -> None:
        assert self._asked is not None  # noqa: S101  else it does not leave
        if trainer.world_size > 1 and hasattr(signal, "pthread_sigmask"):
            # Schedulers send SIGTERM to those that leave last; their code must stay this one's.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        raise Stopped(
            self._asked,
            f" after {trainer.global_step} steps; to go on: python train.py resume=true"
            f" hydra.run.dir={trainer.default_root_dir}",
        )
