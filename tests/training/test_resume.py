"""A run is resumed where it stopped, repeated from the start, or refused."""

import csv
import json
import os
import shutil
import signal

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from lightning import Callback
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import OmegaConf

from pneumonia.errors import PneumoniaError
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.callbacks.graceful_shutdown import Stopped
from pneumonia.training.resume import resolve_run_start
from pneumonia.training.run_record import read_run_summary


class Stop(Callback):
    """Sends the run SIGTERM at a batch of an epoch."""

    def __init__(self, epoch, batch):
        self.place = (epoch, batch)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.place:
            signal.raise_signal(signal.SIGTERM)


class PowerCut(Checkpoint):
    """A power cut right after an epoch was saved, unless the environment says otherwise."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch and not os.environ.get("POWER"):
            raise KeyError("power cut")


def callback(cls, **arguments):
    given = "".join(f", {key}: {value}" for key, value in arguments.items())
    return f"+callbacks.test={{_target_: {__name__}.{cls.__name__}{given}}}"


@pytest.fixture(name="start")
def start_fixture(train):
    def run(*overrides, **arguments):
        return train("trainer.max_epochs=3", "trainer.log_every_n_steps=1", *overrides, **arguments)

    return run


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory, synthetic, cli):
    """A finished run by the real command line, with workers and a cache."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    done = cli(f"data.root={synthetic}", "data.num_workers=1", f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(name="stopped")
def stopped_fixture(start, tmp_path):
    """A run that was stopped in its second epoch."""
    with pytest.raises(Stopped):
        start("test=false", callback(Stop, epoch=1, batch=1))
    return tmp_path / "run"


def checkpoint_of(run, name="last.ckpt"):
    return read_checkpoint(run / "checkpoints" / name)


def history(run):
    with (run / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("train/images_per_second")  # measured by a clock
    return [row for row in rows if any(v for k, v in row.items() if k != "step")]


def assert_same_result(first, second):
    for name in ("metrics.json", "predictions.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (checkpoint_of(run, name)["state_dict"] for run in (first, second))
        assert all(torch.equal(one[key], other[key]) for key in one), name


PLATEAU = (
    "~model.schedule.pct_start",
    "~model.schedule.interval",
    "model.schedule.name=ReduceLROnPlateau",
    "+model.schedule.patience=0",
    "+model.schedule.factor=0.3",
)
SETTINGS = {
    "dropout": ("model.drop_rate=0.2", "model.drop_path_rate=0.1", "data.num_workers=1"),
    "averaged": ("callbacks=ema", "callbacks.ema.decay=0.7"),
    "accumulated": ("trainer.accumulate_grad_batches=2", "data.sampler=balanced"),
    "plateau": PLATEAU,
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("place", [(0, 2), (2, 0)])
def test_a_run_stopped_within_an_epoch_ends_bit_identical(start, tmp_path, settings, place):
    start(*settings, directory=tmp_path / "whole")
    node = callback(Stop, epoch=place[0], batch=place[1])
    with pytest.raises(Stopped):
        start(*settings, node, directory=tmp_path / "run")
    start("resume=true", *settings, directory=tmp_path / "run")
    assert_same_result(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), PLATEAU], ids=["", "plateau"])
def test_a_power_cut_after_saving_an_epoch_loses_nothing(start, tmp_path, settings, monkeypatch):
    start(*settings, directory=tmp_path / "whole")
    with pytest.raises(KeyError, match="power cut"):
        start(*settings, callback(PowerCut, epoch=1), directory=tmp_path / "run")
    monkeypatch.setenv("POWER", "1")
    start("resume=true", directory=tmp_path / "run")
    assert_same_result(tmp_path / "whole", tmp_path / "run")
    assert history(tmp_path / "whole") == history(tmp_path / "run")


def test_a_run_that_had_stopped_early_does_not_train_on(start, tmp_path, monkeypatch):
    early = ("model.optimizer.lr=1e-12", "callbacks.early_stopping.patience=1", "test=false")
    with pytest.raises(KeyError, match="power cut"):
        start(*early, callback(PowerCut, epoch=1))
    monkeypatch.setenv("POWER", "1")
    start("resume=true")
    assert checkpoint_of(tmp_path / "run")["epoch"] == 1


@pytest.mark.parametrize("phase", ["finalize", "test", "finish"])
def test_a_phase_that_ended_after_the_fit_is_not_repeated(start, tmp_path, phase, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(f"train.{phase}", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            start("trainer.max_epochs=1", directory=run)
    finalized = "operating_point" in checkpoint_of(run, "best.ckpt")
    assert finalized == (phase != "finalize")
    names = ("best.ckpt", "last.ckpt")
    before = {name: (run / "checkpoints" / name).read_bytes() for name in names}
    start("trainer.max_epochs=1", "resume=true", directory=run)
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before["last.ckpt"]
    assert finalized == ((run / "checkpoints" / "best.ckpt").read_bytes() == before["best.ckpt"])
    assert (run / "metrics.json").is_file()
    assert read_run_summary(run)["status"] == "finished"


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_epochs=20",
        "trainer.precision=bf16-mixed",
        "+trainer.max_steps=5",
        "~callbacks.early_stopping",
        "experiment=finetune",
    ],
)
def test_an_override_that_contradicts_the_run_is_refused_by_name(finished, train, override):
    with pytest.raises(PneumoniaError) as refused:
        train("resume=true", override, directory=finished)
    assert str(refused.value).startswith(override)
    with pytest.raises(PneumoniaError, match="seed=3"):
        train(f"repeat={finished}", "seed=3")


def test_hardware_and_data_location_may_change(stopped, composed):
    def resumed(*overrides):
        words = ["test=false", "resume=true", *overrides]
        config = composed(*words, directory=stopped)
        return resolve_run_start(config, HydraConfig.get()).config.trainer

    moved = resumed("trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2")
    assert (moved.accelerator, moved.devices, moved.num_nodes) == ("auto", 4, 2)
    assert moved.strategy == "ddp"
    assert moved.max_epochs == 3


def test_a_stopped_run_is_resumed_after_it_was_moved(stopped, start, train, tmp_path):
    moved = stopped.rename(tmp_path / "moved")
    start("resume=true", "test=false", directory=moved)
    assert not stopped.exists()
    assert checkpoint_of(moved)["global_step"] == 15
    with pytest.raises(PneumoniaError, match="has finished"):
        start("resume=true", "test=false", directory=moved)


def test_a_run_whose_data_changed_is_not_resumed_or_repeated(
    stopped, finished, start, train, synthetic, tmp_path
):
    changed = shutil.copytree(synthetic, tmp_path / "changed")
    next((changed / "train" / "NORMAL").iterdir()).unlink()
    with pytest.raises(PneumoniaError, match="fingerprint"):
        start("resume=true", f"data.root={changed}", "test=false")
    with pytest.raises(PneumoniaError, match="fingerprint"):
        train(f"repeat={finished}", f"data.root={changed}", directory=tmp_path / "again")


def test_a_directory_without_a_run_or_a_checkpoint_is_refused(start, stopped, tmp_path):
    with pytest.raises(PneumoniaError, match=str(tmp_path / "none")):
        start("resume=true", directory=tmp_path / "none")
    with pytest.raises(PneumoniaError, match="repeat=RUN"):
        start("resume=true", f"repeat={stopped}", directory=stopped)
    with pytest.raises(PneumoniaError, match="resume=true"):
        start(directory=stopped)
    shutil.rmtree(stopped / "checkpoints")
    with pytest.raises(PneumoniaError, match="repeat="):
        start("resume=true", "test=false", directory=stopped)


def test_the_newer_of_two_checkpoints_is_resumed(stopped, start):
    folder = stopped / "checkpoints"
    (folder / "last.ckpt").rename(folder / "best.ckpt")  # as if killed between the two
    (folder / ".last.ckpt.77.partial").write_bytes(b"half")
    start("resume=true", "test=false", directory=stopped)
    assert checkpoint_of(stopped)["global_step"] == 15
    assert not list(folder.glob(".*"))


def test_ckpt_path_starts_a_new_run_from_an_old_ones_state(stopped, start, tmp_path):
    old = stopped / "checkpoints" / "last.ckpt"
    start("test=false", f"ckpt_path={old}", directory=tmp_path / "new")
    assert (tmp_path / "new" / "checkpoints" / "best.ckpt").is_file()
    start("test=false", "resume=true", directory=stopped)
    new, resumed = (checkpoint_of(run)["state_dict"] for run in (tmp_path / "new", stopped))
    assert all(torch.equal(new[key], resumed[key]) for key in resumed)


def test_ckpt_path_trains_on_where_another_run_stopped_early(start, tmp_path):
    early = ("model.optimizer.lr=1e-12", "callbacks.early_stopping.patience=1", "test=false")
    start(*early, directory=tmp_path / "old")
    old = tmp_path / "old" / "checkpoints" / "last.ckpt"
    assert checkpoint_of(tmp_path / "old")["epoch"] == 1
    start(*early, f"ckpt_path={old}", directory=tmp_path / "new")
    assert checkpoint_of(tmp_path / "new")["epoch"] == 2


def test_ckpt_path_needs_the_same_length_of_schedule_and_a_training_state(train, tmp_path):
    train("trainer.max_epochs=1", "test=false", directory=tmp_path / "first")
    folder = tmp_path / "first" / "checkpoints"
    words = ("trainer.max_epochs=2", f"ckpt_path={folder / 'last.ckpt'}")
    with pytest.raises(PneumoniaError, match=r"trainer\.max_epochs"):
        train(*words, directory=tmp_path / "second")
    with pytest.raises(PneumoniaError, match=r"best\.ckpt"):
        train(f"ckpt_path={folder / 'best.ckpt'}", directory=tmp_path / "third")


def test_a_run_directory_holds_what_is_needed_to_repeat_it(finished):
    record = json.loads((finished / "run.json").read_text())
    assert "trainer.max_epochs=2" in record["overrides"]
    assert record["provenance"]["packages"]["torch"]
    assert len(record["fingerprint"]) == 16
    assert (finished / "changes.diff").is_file()
    config = OmegaConf.load(finished / "config.yaml")
    assert config.test is True
    assert str(finished) not in (finished / "config.yaml").read_text()  # it may be moved


@pytest.mark.slow
def test_a_repetition_gives_the_same_bytes_whatever_reads_the_data(finished, cli, tmp_path):
    ways = {"as-it-was": [], "no-cache": ["data.cache=false", "data.num_workers=0"]}
    for name, words in ways.items():
        run = tmp_path / name
        done = cli(f"repeat={finished}", *words, f"hydra.run.dir={run}")
        assert done.returncode == 0, done.stderr
        assert_same_result(finished, run)
