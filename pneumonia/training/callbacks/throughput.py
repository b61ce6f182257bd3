"""Images a second in training, once an epoch."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Log `train/images_per_second` over all processes, validation not counted.

    Lightning's `ThroughputMonitor` waits for the GPU at every step; this reads a clock.

    Attributes:
        rates: Of each epoch so far.
    """

    def __init__(self) -> None:
        self.images = 0
        self.started = self.stopped = 0.0
        self.rates: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch that is resumed in its midst."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.images = 0
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self.images += len(batch["label"])
        self.stopped = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the rate."""
        rate = self.images * trainer.world_size / max(self.stopped - self.started, 1e-9)
        self.rates.append(rate)
        for logger in trainer.loggers:
            logger.log_metrics({"train/images_per_second": rate}, step=trainer.global_step)
