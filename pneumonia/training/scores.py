"""Logits of a whole evaluation pass, gathered from its batches and from all processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


@dataclass(frozen=True)
class Scores:
    """One pass over a split, in the split's order.

    Attributes:
        rows: int64 [N], row of each image in the split's samples, ascending and unique.
        labels: int64 [N], 0 or 1.
        logits: float64 [N].
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]


class Collector:
    """Keeps what evaluation steps return, on their device, until the pass ends."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, outputs: Mapping[str, Tensor]) -> None:
        """Keep a batch: `index`, `label` and `logit`, each [N]."""
        self._batches.append((outputs["index"], outputs["label"], outputs["logit"].detach()))

    def clear(self) -> None:
        """Forget all batches."""
        self._batches.clear()

    def gather(self) -> Scores:
        """Join the batches of all processes; every process must call this. Forgets them."""
        columns = [torch.cat(column) for column in zip(*self._batches, strict=True)]
        self.clear()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            columns = [torch.cat(gather_all_tensors(column)) for column in columns]
        rows, labels, logits = (column.cpu().numpy() for column in columns)
        rows, first = np.unique(rows, return_index=True)
        return Scores(rows, labels[first], logits[first].astype(np.float64))


class SplitScores(Callback):
    """Gather the logits of one `Trainer.predict` pass.

    Attributes:
        scores: Of the whole pass, on every process; there after the pass.
    """

    scores: Scores

    def __init__(self) -> None:
        self._collector = Collector()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's logits."""
        self._collector.add(outputs)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the logits of all processes."""
        self.scores = self._collector.gather()
