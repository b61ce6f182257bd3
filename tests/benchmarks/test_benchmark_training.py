"""Speed of training, as ratios measured in one run. Run by hand:

pytest -m benchmark -s -n 0 tests/benchmarks/test_benchmark_training.py
"""

import time

import pytest
import torch
from lightning import Callback, Trainer
from torch.utils.data import DataLoader

from pneumonia.model.lightning_module import PneumoniaClassifier

BATCH = 32
STEPS = 6
ROUNDS = 3


def classifier():
    torch.manual_seed(0)
    return PneumoniaClassifier(
        "resnetv2_50",
        pretrained=False,
        optimizer={"name": "adam", "lr": 1e-3},
    )


def batch_of(size):
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (BATCH, 1, size, size), generator=generator).byte(),
        "label": torch.randint(0, 2, (BATCH,), generator=generator),
        "index": torch.arange(BATCH),
    }


class Clock(Callback):
    """Times whole steps, without the first, which warms up."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 0:
            self.start = time.perf_counter()
        self.stop = time.perf_counter()


def fit_rate(size):
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=STEPS + 1,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(classifier(), DataLoader([batch_of(size)] * (STEPS + 1), batch_size=None))
    return STEPS * BATCH / (clock.stop - clock.start)


def bare_rate(size):
    network = classifier().network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    batch = batch_of(size)
    for step in range(STEPS + 1):
        if step == 1:
            start = time.perf_counter()
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            network(batch["image"]), batch["label"].float()
        )
        loss.backward()
        optimizer.step()
    return STEPS * BATCH / (time.perf_counter() - start)


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", [128, 224])
def test_fit_against_the_bare_loop(size):
    bare, fit = 0.0, 0.0
    for _ in range(ROUNDS):  # in turn, so that a machine that slows down slows both
        bare, fit = max(bare, bare_rate(size)), max(fit, fit_rate(size))
    print(
        f"\nresnetv2_50 at {size}, batch {BATCH}, CPU: Trainer.fit {fit:.1f} images/s over the bare"
        f" loop {bare:.1f} = {fit / bare:.3f}"
    )
