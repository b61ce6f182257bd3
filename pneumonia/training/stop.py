"""A run that is asked to stop: it finishes the step, saves, and says how to go on.

Exit codes are those of the shell, 128 + the signal's number:

| asked by | code |
|---|---|
| Ctrl-C (SIGINT); a second one does not wait for the step | 130 |
| SIGUSR1, as `sbatch --signal=SIGUSR1@90` sends before the time is up | 138 |
| SIGTERM, from `kill`, `docker stop` or a scheduler | 143 |

A SLURM script that goes on by itself, from a job with `--requeue`:

    srun python train.py hydra.run.dir=DIR $(test -e DIR/config.yaml && echo resume=true)
    test $? -eq 138 && scontrol requeue $SLURM_JOB_ID
"""

import signal
import threading
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from pneumonia.training.checkpoint import LastCheckpoint, between_steps

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


class Stopped(SystemExit):
    """The end of a run that was asked to stop; its code says by which signal."""

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(128 + number)
        self.sentence = f"Stopped by {signal.Signals(number).name}{advice}"


class Stop(Callback):
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
        if self._is_asked(trainer) and between_steps(trainer):
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
        """Whether any process is asked to; then all stop at the same step."""
        asked = self._asked is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        return asked

    def _leave(self, trainer: Trainer) -> None:
        number = self._asked if self._asked is not None else signal.SIGTERM
        raise Stopped(
            number,
            f" after {trainer.global_step} steps; to go on: python train.py resume=true"
            f" hydra.run.dir={trainer.default_root_dir}",
        )
