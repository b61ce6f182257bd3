"""Each callback on a model of three steps."""

import logging
import signal

import numpy as np
import pytest
import torch
from lightning import Callback

from pneumonia.errors import TrainingError
from pneumonia.training.callbacks.checkpoint import (
    AtomicCheckpointIO,
    BestCheckpoint,
    LastCheckpoint,
    best_checkpoint,
)
from pneumonia.training.callbacks.console import EpochLog
from pneumonia.training.callbacks.graceful_shutdown import GracefulShutdown, Stopped
from pneumonia.training.callbacks.logits import CollectLogits, latest_logits
from pneumonia.training.callbacks.nan_guard import NanGuard
from pneumonia.training.callbacks.resume_state import ResumeState


class Signal(Callback):
    """Send the process signals in the second step."""

    def __init__(self, number, times=1):
        self.number, self.times = number, times

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1:
            for _ in range(self.times):
                signal.raise_signal(self.number)


class Spoil(Callback):
    """Make a weight infinite after the last step, where no loss shows it."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with torch.no_grad():
            pl_module.network.weight += float("inf") if batch_idx == 2 else 0


@pytest.fixture(autouse=True)
def _restored_signals():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("interval", [1, 50])
def test_nan_guard_names_step_and_learning_rate_and_nothing_is_saved(
    three_steps, tmp_path, interval
):
    last = LastCheckpoint(str(tmp_path))
    with pytest.raises(TrainingError, match=r"step 2, with learning rate 0\.25"):
        three_steps(NanGuard(), last, bad=1, log_every_n_steps=interval)
    assert not last.path.exists()


def test_nan_guard_finds_weights_that_no_loss_has_shown(three_steps, tmp_path):
    last = LastCheckpoint(str(tmp_path))
    with pytest.raises(TrainingError, match="weights"):
        three_steps(NanGuard(), Spoil(), last, limit_val_batches=0)
    assert not last.path.exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_a_signal_saves_after_the_step_and_exits_with_the_shells_code(
    three_steps, tmp_path, number, code
):
    last = LastCheckpoint(str(tmp_path))
    with pytest.raises(Stopped) as stopped:
        three_steps(Signal(number), GracefulShutdown(), last)
    assert stopped.value.code == code
    assert "after 2 steps" in stopped.value.message
    assert f"resume=true hydra.run.dir={tmp_path}" in stopped.value.message
    assert torch.load(last.path, weights_only=True)["global_step"] == 2


def test_a_second_ctrl_c_does_not_wait_for_the_step(three_steps, tmp_path):
    last = LastCheckpoint(str(tmp_path))
    with pytest.raises(Stopped) as stopped:
        three_steps(Signal(signal.SIGINT, times=2), GracefulShutdown(), last)
    assert stopped.value.code == 130
    assert not last.path.exists()


def test_last_checkpoint_waits_for_accumulated_gradients(three_steps, tmp_path):
    batches = []

    class Saved(LastCheckpoint):
        def save(self, trainer):
            batches.append(trainer.fit_loop.total_batch_idx + 1)
            super().save(trainer)

    three_steps(Saved(str(tmp_path), every_n_steps=1), accumulate_grad_batches=2)
    assert batches == [2, 3]


def test_best_checkpoint_keeps_its_score_in_a_moved_directory(three_steps, tmp_path):
    def best(folder):
        return BestCheckpoint(
            dirpath=folder,
            filename="best",
            monitor="val/loss",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    first = tmp_path / "first"
    path, score = best_checkpoint(three_steps(best(first), LastCheckpoint(str(first))))
    assert path == str(first / "best.ckpt")
    moved = first.rename(tmp_path / "moved")
    trainer = three_steps(best(moved), ckpt_path=moved / "last.ckpt")
    assert best_checkpoint(trainer) == (str(moved / "best.ckpt"), score)
    with pytest.raises(TrainingError, match=r"callbacks\.best"):
        best_checkpoint(three_steps(best(tmp_path / "other"), ckpt_path=moved / "last.ckpt"))


def test_a_failed_write_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(Exception, match="No space"):
        AtomicCheckpointIO().save_checkpoint({"a": 2}, path)
    assert torch.load(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_training_metrics_of_an_interrupted_epoch_are_restored(three_steps, tmp_path):
    class Probe(Callback):
        def on_train_start(self, trainer, pl_module):
            self.updates = pl_module.train_loss.update_count

    last, probe = LastCheckpoint(str(tmp_path)), Probe()
    with pytest.raises(Stopped):
        three_steps(ResumeState(0, resumed=True), GracefulShutdown(), Signal(signal.SIGTERM), last)
    three_steps(ResumeState(0, resumed=True), probe, ckpt_path=last.path)
    assert probe.updates == 2


def test_steps_draw_the_same_numbers_after_a_resume(three_steps):
    class Draw(Callback):
        def __init__(self):
            self.drawn = []

        def on_train_batch_end(self, *_):
            self.drawn.append(float(torch.rand(1)))

    runs = [Draw(), Draw()]
    for draw in runs:
        torch.rand(3)
        three_steps(ResumeState(0, resumed=False), draw)
    assert runs[0].drawn == runs[1].drawn
    assert len(set(runs[0].drawn)) == 3


def test_collected_logits_are_in_the_order_of_the_split(three_steps):
    collector = CollectLogits()
    found = latest_logits(three_steps(collector))
    assert found.rows.tolist() == list(range(12))
    assert found.labels.tolist() == [0, 1] * 6
    assert found.logits.dtype == np.float64
    assert len(set(found.logits)) == 12


def test_the_epoch_log_has_one_line_per_epoch(three_steps, caplog):
    log = EpochLog()
    with caplog.at_level(logging.INFO):
        three_steps(log, max_epochs=2)
    lines = [r.getMessage() for r in caplog.records if r.name.endswith("console")]
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    for word in ("train loss", "val loss", "lr 0.25", "images/s", "elapsed", "remaining"):
        assert word in lines[0]
    assert len(log.rates) == 2
