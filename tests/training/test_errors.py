"""What goes wrong after the start: each is done for real, and ends in a sentence that helps."""

import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import torch
from lightning import Callback

from pneumonia.errors import DataError, PneumoniaError, TrainingError
from pneumonia.model.checkpoint import read_checkpoint


class DivergeTest(Callback):
    """Spoils the weights as a step of infinite size would."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 2):
            with torch.no_grad():
                next(pl_module.network.parameters()).fill_(float("nan"))


class SpoilTheEndTest(Callback):
    """Spoils the weights where no loss shows it any more: after the last step of an epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with torch.no_grad():
            if batch_idx < 4:
                return
            next(pl_module.network.parameters()).fill_(float("inf"))


class RotTest(Callback):
    def __init__(self, path):
        self.path = Path(path)

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.path.write_bytes(self.path.read_bytes()[:900])


class ExhaustTest(Callback):
    """Asks the real allocator for what no machine has."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.empty(2**58, dtype=torch.uint8)


class NoGpuMemoryTest(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class KillWorkersTest(Callback):
    """Does what the system does when memory runs out."""

    def on_train_epoch_end(self, trainer, pl_module):
        for child in psutil.Process().children():
            child.send_signal(signal.SIGKILL)


class NoSpaceTest(Callback):
    """From the second epoch on, no file may grow beyond a megabyte."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))


@pytest.fixture
def with_test(train):
    def run(cls, *overrides, **arguments):
        keys = ", ".join(f"{key}: {value}" for key, value in arguments.items())
        node = f"_target_: {__name__}.{cls.__name__}" + (f", {keys}" if keys else "")
        return train("test=false", *overrides, f"+callbacks.mishap={{{node}}}")

    return run


def assert_sentence(caught):
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(with_test, tmp_path, synthetic):
    with pytest.raises(TrainingError, match=r"not a number at step 7 \(epoch 1\)") as caught:
        with_test(DivergeTest)
    assert_sentence(caught)
    text = str(caught.value)
    assert "learning rate" in text
    named = [word.rstrip(",.") for word in text.split() if str(synthetic) in word]
    assert len(named) == 4
    assert all(Path(name).is_file() for name in named)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert str(last) in text
    checkpoint = read_checkpoint(last)
    assert checkpoint["global_step"] == 5
    assert all(v.isfinite().all() for v in checkpoint["state_dict"].values())


def test_a_learning_rate_that_explodes_is_named(train):
    with pytest.raises(TrainingError, match=r"not a number at step \d+ .* rate 1e\+30"):
        train("model.schedule=null", "model.optimizer.lr=1e30", "test=false")


def test_weights_that_are_no_numbers_are_not_saved(with_test, tmp_path):
    with pytest.raises(TrainingError, match=r"weights .* are not finite.* Nothing was saved yet"):
        with_test(SpoilTheEndTest)
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_rots_during_the_run_is_named(with_test, synthetic, tmp_path, workers):
    root = tmp_path / "rotting"
    shutil.copytree(synthetic, root)
    files = sorted((root / "train" / "PNEUMONIA").iterdir())
    victim = files[len(files) // 4]  # from the middle ids: not of the hold-out
    with pytest.raises(DataError, match=victim.name) as caught:
        with_test(
            RotTest,
            f"data.root={root}",
            "data.cache=false",
            f"data.num_workers={workers}",
            path=victim,
        )
    assert "Traceback" in str(caught.value) or "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [ExhaustTest, NoGpuMemoryTest])
def test_out_of_memory_names_the_settings_that_use_it(with_test, kind):
    with pytest.raises(TrainingError, match=r"out of memory with data\.batch_size=8") as caught:
        with_test(kind)
    assert_sentence(caught)
    assert "trainer.accumulate_grad_batches=1" in str(caught.value)


def test_a_data_worker_that_dies_is_called_that(with_test):
    with pytest.raises(DataError, match="a data worker died") as caught:
        with_test(KillWorkersTest, "data.num_workers=1", "data.cache=false")
    assert_sentence(caught)
    assert "lower data.num_workers=1" in str(caught.value)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs POSIX limits")
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(with_test, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(PneumoniaError, match=r"ckpt cannot be written \(File too large\)"):
            with_test(NoSpaceTest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert read_checkpoint(checkpoints / "last.ckpt")["global_step"] == 5
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (["+model.schedule.monitor=val/los"], "val/los, which is never logged; did you mean val/l"),
        (["+model.schedule.monitor=val/auroc"], "val/auroc with mode min, but better is max"),
        (["trainer.check_val_every_n_epoch=2"], "check_val_every_n_epoch=2; set that to 1"),
    ],
)
def test_a_plateau_that_would_never_come_is_refused_before_the_fit(
    schedule, message, train, tmp_path
):
    with pytest.raises(PneumoniaError, match=message):
        train(
            "~model.schedule.pct_start",
            "~model.schedule.interval",
            "model.schedule.name=ReduceLROnPlateau",
            *schedule,
        )
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of a given size, or read-only."""
    mounted = []

    def mount(options):
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a disk here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def refusal(done):
    """The one sentence of a run that failed."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    return line


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs mount")
def test_a_full_disk_keeps_the_checkpoint_before_and_says_how_to_go_on(cli, synthetic, small_disk):
    disk = small_disk("size=150m")  # two checkpoints of 59 MB and not a third
    done = cli(f"data.root={synthetic}", f"hydra.run.dir={disk / 'run'}")
    assert "No space left on device" in refusal(done)
    checkpoints = disk / "run" / "checkpoints"
    assert read_checkpoint(checkpoints / "last.ckpt")["global_step"] == 5
    assert not list(checkpoints.glob(".*"))


@pytest.mark.slow
def test_a_read_only_disk_is_refused_in_a_sentence(cli, synthetic, small_disk):
    disk = small_disk("ro")
    done = cli(f"data.root={synthetic}", f"hydra.run.dir={disk / 'run'}")
    assert "Read-only file system" in refusal(done)
    assert "hydra.run.dir" in refusal(done)
