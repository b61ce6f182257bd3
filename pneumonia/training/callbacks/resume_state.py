"""What a resumed run needs beyond Lightning's own state to end as if never interrupted."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection

_KEY = "resume_state"


class ResumeState(Callback):
    """Save in each checkpoint what Lightning leaves out, and restore it.

    - At the end of an epoch: the training metrics, the step of a plateau schedule, an early stop.
    - Within an epoch: what the training metrics have counted so far.
    - Torch is seeded before every step, so that no random state has to be saved.

    Args:
        seed: The seed of the run.
        resumed: Whether the run continues itself; only then an early stop is restored.
    """

    def __init__(self, seed: int, resumed: bool) -> None:
        self.seed = seed
        self._resumed = resumed
        self._saved: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save where the epoch stands; called on every process."""
        epochs = trainer.fit_loop.epoch_progress.current
        ended = epochs.processed > epochs.completed  # type: ignore[attr-defined]
        checkpoint[_KEY] = {
            "ended": ended,
            "stop": trainer.should_stop,
            "metrics": {name: float(v) for name, v in trainer.callback_metrics.items()},
            "counts": {} if ended else dict(_counts(pl_module)),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Log the training metrics of an epoch that ended as it was saved."""
        self._saved = saved = checkpoint.get(_KEY)
        if saved is not None and saved["ended"]:
            metrics = {k: v for k, v in saved["metrics"].items() if k.startswith("train/")}
            metrics["epoch"] = checkpoint["epoch"]
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=checkpoint["global_step"] - 1)
                logger.save()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the rest, once schedules and metrics exist."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        trainer.should_stop = self._resumed and saved["stop"]
        device = pl_module.device
        trainer.callback_metrics.update(
            {name: torch.tensor(value, device=device) for name, value in saved["metrics"].items()}
        )
        if saved["ended"]:
            for config in trainer.lr_scheduler_configs:
                if config.reduce_on_plateau:
                    config.scheduler.step(saved["metrics"][config.monitor])
        elif trainer.is_global_zero:  # the counts of all processes, which will be summed again
            for name, metric in _training_metrics(pl_module):
                state = saved["counts"][name]
                metric._update_count = state["updates"]  # noqa: SLF001  no public way to set it
                for key, value in state["values"].items():
                    setattr(metric, key, value.to(device))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the step that follows."""
        step = [self.seed, trainer.current_epoch, batch_idx, trainer.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(step).generate_state(1, np.uint64)[0]))


def _counts(model: LightningModule) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, metric in _training_metrics(model):
        with metric.sync_context():
            values = {
                key: value.detach().clone()
                for key, value in metric.metric_state.items()
                if isinstance(value, Tensor)
            }
        yield name, {"updates": metric.update_count, "values": values}


def _training_metrics(model: LightningModule) -> Iterator[tuple[str, Metric]]:
    for name, child in model.named_children():
        if name.startswith("train_") and isinstance(child, MetricCollection):
            # `items` also copies the counts of a compute group to each of its members.
            yield from ((f"{name}/{key}", metric) for key, metric in child.items(keep_base=True))
        elif name.startswith("train_") and isinstance(child, Metric):
            yield name, child
