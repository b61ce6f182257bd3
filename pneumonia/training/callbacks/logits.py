"""Collect the logits of a whole split, on one or several processes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


@dataclass(frozen=True)
class SplitLogits:
    """The outputs of one pass over a split of N images, in the order of the split."""

    rows: NDArray[np.int64]  # [N], row of each image in the split, ascending and unique
    labels: NDArray[np.int64]  # [N], 0 or 1
    logits: NDArray[np.float64]  # [N]


class CollectLogits(Callback):
    """Gather the outputs of validation, test and predict steps on every process.

    They are joined by row, so that an image counts once however the processes divided the split.
    """

    latest: SplitLogits

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch of the first loader; the others have changed images."""
        if dataloader_idx:
            return
        self._batches.append((outputs["index"], outputs["label"], outputs["logit"].detach()))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the batches of all processes."""
        columns = [torch.cat(column) for column in zip(*self._batches, strict=True)]
        self._batches.clear()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            columns = [torch.cat(gather_all_tensors(column)) for column in columns]
        rows, labels, logits = (column.cpu().numpy() for column in columns)
        rows, first = np.unique(rows, return_index=True)
        self.latest = SplitLogits(rows, labels[first], logits[first].astype(np.float64))

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end


def latest_logits(trainer: Trainer) -> SplitLogits:
    """The outputs of the latest validation, test or predict pass, from `CollectLogits`."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next(c.latest for c in callbacks if isinstance(c, CollectLogits))
