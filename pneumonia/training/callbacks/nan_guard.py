"""A training that diverges stops before its weights are saved."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from pneumonia.errors import TrainingError

_SHOWN = 4
_NEVER = 2**62


class NanGuard(Callback):
    """Stop at a loss that is infinite or not a number, and say where it came from.

    Losses are compared on their device and read every `trainer.log_every_n_steps` steps, so that
    neither a GPU nor another process is waited for in between (one CPU is read at every step);
    and always before a checkpoint is written, whose weights must be finite too.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._recent: list[tuple[int, int, list[float], Tensor]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the batch and the learning rate it is trained with."""
        rates = [
            group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups
        ]
        place = trainer.fit_loop.total_batch_idx
        self._recent.append((place, trainer.global_step, rates, batch["index"]))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare the loss, and read the comparison when it is time."""
        loss = outputs["loss"].detach()
        first = torch.where(torch.isfinite(loss), _NEVER, trainer.fit_loop.total_batch_idx)
        self._first = first if self._first is None else torch.minimum(self._first, first)
        alone = trainer.world_size == 1 and loss.device.type == "cpu"
        if len(self._recent) >= (1 if alone else trainer.log_every_n_steps):  # type: ignore[attr-defined]
            self._read(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to validate what no loss has shown yet."""
        self._check(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to save what cannot be gone on from; called on every process.

        Raises:
            TrainingError: If a loss or a weight is not finite.
        """
        self._check(trainer, pl_module)

    def _check(self, trainer: Trainer, model: LightningModule) -> None:
        self._read(trainer)
        for name, value in model.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise TrainingError(
                    f"after step {trainer.global_step} the weights {name} are not finite,"
                    f" although every loss was. {_advice(trainer)}"
                )

    def _read(self, trainer: Trainer) -> None:
        first = _NEVER if self._first is None else int(self._first)
        self._first = None
        recent, self._recent = self._recent, []
        words = next((self._words(trainer, *one[1:]) for one in recent if one[0] == first), None)
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(
            words is not None, all=False
        ):
            every: list[str | None] = [None] * trainer.world_size
            torch.distributed.all_gather_object(every, words)
            words = next(filter(None, every))
        if words is not None:
            raise TrainingError(words)

    @staticmethod
    def _words(trainer: Trainer, step: int, rates: list[float], rows: Tensor) -> str:
        return (
            f"the loss is infinite or not a number at step {step} (epoch {trainer.current_epoch}),"
            f" with learning rate {', '.join(f'{rate:.3g}' for rate in sorted(set(rates)))}, on"
            f" {_names(trainer, rows)}. {_advice(trainer)}"
        )


def _names(trainer: Trainer, rows: Tensor) -> str:
    paths = trainer.datamodule.splits["train"].paths  # type: ignore[attr-defined]
    names = [str(paths[row]) for row in rows.tolist()]
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more images" if more > 0 else "")


def _advice(trainer: Trainer) -> str:
    saved = [getattr(callback, "path", None) for callback in trainer.checkpoint_callbacks]
    kept = next((f"{path} is of before" for path in saved if path and path.is_file()), None)
    return (
        f"{kept or 'Nothing was saved yet'}. Train anew with a lower model.optimizer.lr, or with"
        " trainer.gradient_clip_val=1."
    )
