"""What a resumed run must know beyond Lightning's own state, to end as if never interrupted."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from pneumonia.training.csv_logger import CSVLogger

_KEY = "continuation"


class ResumeState(Callback):
    """Keep in each checkpoint what Lightning forgets, and put it back.

    - Of an epoch that has ended Lightning still has to log the training metrics and to move a
      plateau schedule when it saves, and does neither after a resume; nor does it remember that
      the run had decided to stop.
    - Of an epoch that has not, it forgets what the training metrics have counted so far.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep where the epoch stands; called on every process."""
        epochs = trainer.fit_loop.epoch_progress.current
        ended = epochs.processed > epochs.completed  # type: ignore[attr-defined]
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        logs = [log for log in trainer.loggers if isinstance(log, CSVLogger)]
        for log in logs:
            log.save()  # a kill after the checkpoint is written must not lose what came before
        checkpoint[_KEY] = {
            "ended": ended,
            "stop": trainer.should_stop,
            "metrics": metrics,
            "counted": {} if ended else dict(_counted(pl_module)),
            "rows": [log.rows for log in logs],
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Bring the logs to where the checkpoint stands."""
        self._kept = kept = checkpoint.get(_KEY)
        if kept is None or not trainer.is_global_zero:
            return
        logs = [log for log in trainer.loggers if isinstance(log, CSVLogger)]
        for log, rows in zip(logs, kept["rows"], strict=False):
            log.cut(rows)
        if kept["ended"]:
            metrics = {k: v for k, v in kept["metrics"].items() if k.startswith("train/")}
            for logger in trainer.loggers:
                logger.log_metrics(
                    metrics | {"epoch": checkpoint["epoch"]}, step=checkpoint["global_step"] - 1
                )
                logger.save()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put back the rest, once schedules and metrics are there."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        trainer.should_stop = kept["stop"]
        device = pl_module.device
        trainer.callback_metrics.update(
            {name: torch.tensor(value, device=device) for name, value in kept["metrics"].items()}
        )
        if kept["ended"]:
            for config in trainer.lr_scheduler_configs:
                if config.reduce_on_plateau:
                    config.scheduler.step(kept["metrics"][config.monitor])
        elif trainer.is_global_zero:  # the counts of all processes, which are summed again
            for name, metric in _training_metrics(pl_module):
                state = kept["counted"][name]
                metric._update_count = state["updates"]  # noqa: SLF001  no public way to set it
                for key, value in state["values"].items():
                    setattr(metric, key, value.to(device))


def _counted(model: LightningModule) -> Iterator[tuple[str, dict[str, Any]]]:
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
        if not name.startswith("train_"):
            continue
        if isinstance(child, MetricCollection):
            # `items` also hands the counts of a group of alike metrics to each of its members.
            yield from ((f"{name}/{key}", metric) for key, metric in child.items(keep_base=True))
        elif isinstance(child, Metric):
            yield name, child


class ReseedSteps(Callback):
    """Seed torch before every training step.

    Dropout and stochastic depth then draw the same numbers after a resume as they would
    have without the interruption, and no random state has to be stored. Seeding waits for
    no device.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed for the step that follows."""
        step = [self.seed, trainer.current_epoch, batch_idx, trainer.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(step).generate_state(1, np.uint64)[0]))
