"""Random numbers of a training step that depend on (seed, step, rank) alone."""

from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class Reseed(Callback):
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
