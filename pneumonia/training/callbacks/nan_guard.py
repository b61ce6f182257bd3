"""Stop a diverged training before its weights are saved."""

from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from pneumonia.errors import TrainingError


class NanGuard(Callback):
    """Stop when the loss or a weight becomes NaN or infinite.

    Losses are read every `trainer.log_every_n_steps` steps, before a validation, and before a
    checkpoint is written, so that a GPU is not waited for in between.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[int, float, Tensor]] = []

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Queue a check of the loss; read the queue every `log_every_n_steps` steps."""
        rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        self._pending.append((trainer.global_step + 1, rate, torch.isfinite(loss.detach())))
        if len(self._pending) >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._read(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the queue, so that figures are not drawn from NaN."""
        self._read(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to save weights that are not finite; called on every process.

        Raises:
            TrainingError: If a loss or a weight is NaN or infinite.
        """
        self._read(trainer)
        weights = [v for v in pl_module.state_dict().values() if v.is_floating_point()]
        if not torch.stack([value.isfinite().all() for value in weights]).all():
            rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
            raise _error("the weights are", trainer.global_step, rate)

    def _read(self, trainer: Trainer) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        finite = torch.stack([one for *_, one in pending]).int()
        if trainer.world_size > 1:  # then all processes stop at once, and rank zero records why
            finite = cast(Tensor, trainer.strategy.reduce(finite, reduce_op="min"))
        for (step, rate, _), is_finite in zip(pending, finite.tolist(), strict=True):
            if not is_finite:
                raise _error("the loss is", step, rate)


def _error(what: str, step: int, rate: float) -> TrainingError:
    return TrainingError(
        f"{what} NaN or infinite in step {step}, with learning rate {rate:.3g}; nothing was"
        " saved since. Train again with a lower model.optimizer.lr or with"
        " trainer.gradient_clip_val=1"
    )
