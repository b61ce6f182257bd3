"""What a run shows while it trains: a progress bar, or one log line per epoch."""

import logging
import sys
import time
from datetime import timedelta
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

log = logging.getLogger(__name__)

_SHOWN = {
    "train/loss": "train loss",
    "val/loss": "val loss",
    "val/auroc": "val AUROC",
    "val_shift/auroc": "shift AUROC",
    "val_shift_b/auroc": "shift b AUROC",
    "val/precision": "precision",
    "val/recall": "recall",
    "val/specificity": "specificity",
}


class ProgressBar(RichProgressBar):
    """`RichProgressBar` on a terminal, nothing elsewhere: a file would hold only its last state."""

    def __init__(self) -> None:
        super().__init__()
        if not sys.stdout.isatty():
            self.disable()


class ModelSummary(Callback):
    """Log the size of the network in one line; Lightning's table has a row for each metric."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the number of parameters."""
        sizes = [(p.numel() / 1e6, p.requires_grad) for p in pl_module.parameters()]
        log.info(
            "%s: %.1f M parameters, %.1f M of them trained",
            pl_module.hparams["backbone"],
            sum(size for size, _ in sizes),
            sum(size for size, trained in sizes if trained),
        )


class EpochLog(Callback):
    """Log a line for each epoch, and `train/images_per_second` over all processes.

    The line goes to the log file, and to a console without a progress bar.

    Attributes:
        rates: Images per second of each epoch so far, without validation.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self._images = 0
        self._epoch_started = self._batch_ended = self._fit_started = 0.0
        self._first_epoch = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks, also of an epoch that is resumed within."""
        self._fit_started = time.perf_counter()
        self._first_epoch = trainer.current_epoch
        self.on_train_epoch_start(trainer, pl_module)
        if getattr(trainer.progress_bar_callback, "is_enabled", False):
            for handler in logging.getLogger().handlers:
                if type(handler) is logging.StreamHandler:
                    handler.addFilter(lambda record: record.name != __name__)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        self._images = 0
        self._epoch_started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of the batch."""
        self._images += len(batch["label"])
        self._batch_ended = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch."""
        seconds = max(self._batch_ended - self._epoch_started, 1e-9)
        rate = self._images * trainer.world_size / seconds
        self.rates.append(rate)
        for logger in trainer.loggers:
            logger.log_metrics({"train/images_per_second": rate}, step=trainer.global_step)
        found = trainer.callback_metrics
        shown = [f"{word} {float(found[n]):.3f}" for n, word in _SHOWN.items() if n in found]
        lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        shown += [f"lr {lr:.2g}", f"{rate:.0f} images/s"]
        elapsed, done = time.perf_counter() - self._fit_started, trainer.current_epoch + 1
        epochs = trainer.max_epochs or -1
        shown.append(f"elapsed {timedelta(seconds=round(elapsed))}")
        if epochs > 0:
            left = elapsed / (done - self._first_epoch) * (epochs - done)
            shown.append(f"remaining {timedelta(seconds=round(left))}")
        log.info("epoch %d%s: %s", done, f"/{epochs}" if epochs > 0 else "", ", ".join(shown))
