"""Faults of data, disk and memory during a run end in one sentence that says what to do."""

import json
import multiprocessing
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from lightning import Callback

from pneumonia.errors import DataError, PneumoniaError, TrainingError
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.errors import explain_system_error


class DamageImage(Callback):
    """Truncate an image during the run."""

    def __init__(self, path):
        self.path = Path(path)

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.path.write_bytes(self.path.read_bytes()[:900])


class KillWorker(Callback):
    """Do what the system does when memory runs out."""

    def on_train_epoch_end(self, trainer, pl_module):
        newest = max(multiprocessing.active_children(), key=lambda process: process.pid)
        newest.kill()  # a second one could be reported after the test


class NoSpace(Callback):
    """From the second epoch on, no file may grow beyond a megabyte."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))


@pytest.fixture(name="train_with")
def train_with_fixture(train):
    def run(cls, *overrides, **arguments):
        keys = ", ".join(f"{key}: {value}" for key, value in arguments.items())
        node = f"_target_: {__name__}.{cls.__name__}" + (f", {keys}" if keys else "")
        return train("test=false", *overrides, f"+callbacks.fault={{{node}}}")

    return run


@pytest.mark.parametrize(
    ("error", "kind", "named"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), TrainingError, r"data\.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), TrainingError, "batch_size"),
        (OSError(28, "No space left on device", "x.ckpt"), TrainingError, r"x\.ckpt"),
        (OSError(30, "Read-only file system", "x"), TrainingError, r"hydra\.run\.dir"),
    ],
)
def test_a_system_error_is_explained(error, kind, named):
    explained = explain_system_error(error, "run")
    assert type(explained) is kind
    with pytest.raises(kind, match=named):
        raise explained


def test_a_bug_is_not_explained():
    assert explain_system_error(RuntimeError("Connection closed by peer"), "run") is None
    assert explain_system_error(KeyError("x"), "run") is None


def test_a_learning_rate_that_explodes_is_named_and_recorded(train, tmp_path):
    with pytest.raises(TrainingError, match=r"1e\+30"):
        train("model.schedule=null", "model.optimizer.lr=1e30", "test=false")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "1e+30" in summary["error"]
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_an_image_that_is_damaged_during_the_run_is_named(train_with, synthetic, tmp_path):
    root = shutil.copytree(synthetic, tmp_path / "damaged")
    files = sorted((root / "train" / "PNEUMONIA").iterdir())
    victim = files[len(files) // 4]  # from the middle ids: not in the validation set
    words = (f"data.root={root}", "data.cache=false", "data.num_workers=1")
    with pytest.raises(DataError, match=victim.name):
        train_with(DamageImage, *words, path=victim)


def test_a_data_worker_that_dies_is_named_with_its_setting(train_with):
    with pytest.raises(DataError, match=r"data\.num_workers"):
        train_with(KillWorker, "data.num_workers=1", "data.cache=false")


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs POSIX limits")
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(train_with, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(PneumoniaError, match=r"\.ckpt"):
            train_with(NoSpace)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert read_checkpoint(checkpoints / "last.ckpt")["global_step"] == 5
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_refusal_is_one_sentence_and_leaves_no_directory(cli, synthetic, tmp_path):
    run = tmp_path / "refused"
    done = cli(f"data.root={synthetic}", "monitor=val/auc", f"hydra.run.dir={run}")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "Error" in line]
    assert line.startswith("Error: ")
    assert "val/auroc" in line
    assert "Traceback" not in done.stderr
    assert not run.exists()
