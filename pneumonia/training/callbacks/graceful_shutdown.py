"""Handle a signal: finish the step, save a checkpoint, exit with the shell's code.

| signal | exit code |
|---|---|
| SIGINT (Ctrl-C); a second one does not wait for the step | 130 |
| SIGUSR1, as `sbatch --signal=SIGUSR1@90` sends before the time is up | 138 |
| SIGTERM, from `kill`, `docker stop` or a scheduler | 143 |
"""

import signal
import threading
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from pneumonia.training.callbacks.checkpoint import LastCheckpoint, is_step_complete

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


class Stopped(SystemExit):
    """The end of a run that was asked to stop; the exit code is 128 + the signal's number."""

    def __init__(self, number: int, detail: str = "") -> None:
        super().__init__(128 + number)
        self.message = f"Stopped by {signal.Signals(number).name}{detail}"


class GracefulShutdown(Checkpoint):
    """Answer signals between two steps; after the fit, when there is nothing to save, at once.

    It is a `Checkpoint` because Lightning calls those last, after whatever changes the weights.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._fitting = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handlers, which exit without saving."""
        if trainer.received_sigterm:
            self._asked = signal.SIGTERM
        self._fitting = True
        self._install()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handlers, which ignore SIGTERM here."""
        self._install()

    on_test_start = on_predict_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop if asked to."""
        cheap = trainer.world_size == 1 or trainer.strategy.root_device.type == "cpu"
        # Otherwise asking the other processes waits for the GPU.
        due = cheap or trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if due and is_step_complete(trainer) and self._is_asked(trainer):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, LastCheckpoint):
                    callback.save(trainer)
            self._stop(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if asked to; the epoch before is saved."""
        if self._is_asked(trainer):
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if asked to; the fit is saved."""
        self.on_train_epoch_start(trainer, pl_module)
        self._fitting = False

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self._asked == number == signal.SIGINT
        self._asked = number
        if again or not self._fitting:
            raise Stopped(number, " before a checkpoint was saved" if again else "")

    def _is_asked(self, trainer: Trainer) -> bool:
        """Whether any process was asked to stop; then all stop at the same step, with one code."""
        if trainer.world_size > 1:
            asked = torch.tensor(self._asked or 0, device=trainer.strategy.root_device)
            self._asked = int(trainer.strategy.reduce(asked, reduce_op="max")) or None
        return self._asked is not None

    def _stop(self, trainer: Trainer) -> None:
        assert self._asked is not None  # noqa: S101  checked by the callers
        if trainer.world_size > 1 and hasattr(signal, "pthread_sigmask"):
            # Schedulers send SIGTERM to processes that exit last; their code must not change.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        raise Stopped(
            self._asked,
            f" after {trainer.global_step} steps. Continue with: python train.py resume=true"
            f" hydra.run.dir={trainer.default_root_dir}",
        )
