"""A run is resumed where it stopped, repeated from the start, or refused."""

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
from runs import PLATEAU, assert_same_result, checkpoint_of

from pneumonia.errors import PneumoniaError
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


EPOCHS = ("trainer.max_epochs=3", "trainer.log_every_n_steps=1")


@pytest.fixture(name="fit")
def fit_fixture(train):
    def run(*overrides, **arguments):
        return train(*EPOCHS, *overrides, **arguments)

    return run


@pytest.fixture(scope="module", name="stopped_once")
def stopped_once_fixture(tmp_path_factory, train_in):
    directory = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stopped):
        train_in(directory, *EPOCHS, "test=false", callback(Stop, epoch=1, batch=1))
    return directory


@pytest.fixture(name="stopped")
def stopped_fixture(stopped_once, tmp_path):
    """A run that was stopped in its second epoch, and moved."""
    return shutil.copytree(stopped_once, tmp_path / "run")


SETTINGS = {
    "dropout": ("model.drop_rate=0.2", "model.drop_path_rate=0.1", "data.num_workers=1"),
    "averaged": ("callbacks=ema", "callbacks.ema.decay=0.7"),
    "accumulated": ("trainer.accumulate_grad_batches=2", "data.sampler=balanced"),
    "plateau": (*PLATEAU, "+model.schedule.patience=0", "+model.schedule.factor=0.3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_run_stopped_within_an_epoch_ends_bit_identical(fit, tmp_path, settings):
    fit(*settings, directory=tmp_path / "whole")
    for epoch, batch in ((0, 2), (2, 0)):
        run = tmp_path / f"run-{epoch}"
        with pytest.raises(Stopped):
            fit(*settings, callback(Stop, epoch=epoch, batch=batch), directory=run)
        fit("resume=true", *settings, directory=run)
        assert_same_result(tmp_path / "whole", run)


def test_a_run_that_stopped_early_is_trained_on_only_as_a_new_run(fit, tmp_path, monkeypatch):
    early = ("+callbacks.early_stopping.min_delta=1", "callbacks.early_stopping.patience=1")
    early += ("test=false",)
    with pytest.raises(KeyError, match="power cut"):
        fit(*early, callback(PowerCut, epoch=1))
    monkeypatch.setenv("POWER", "1")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    fit(*early, f"ckpt_path={last}", directory=tmp_path / "new")
    assert checkpoint_of(tmp_path / "new")["epoch"] == 2
    fit("resume=true")
    assert checkpoint_of(tmp_path / "run")["epoch"] == 1


def test_a_phase_that_ended_after_the_fit_is_not_repeated(fit, tmp_path, monkeypatch):
    run, words = tmp_path / "run", ["trainer.max_epochs=1"]
    files = {name: run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    states = []
    for phase in ("finalize", "test", "finish"):
        with monkeypatch.context() as patch:
            patch.setattr(f"train.{phase}", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                fit(*words)
        states.append({name: file.read_bytes() for name, file in files.items()})
        words = ["trainer.max_epochs=1", "resume=true"]
    fit(*words)
    states.append({name: file.read_bytes() for name, file in files.items()})
    assert len({state["last"] for state in states}) == 1
    assert states[0]["best"] != states[1]["best"]  # finalized once
    assert len({state["best"] for state in states[1:]}) == 1
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


def test_a_stopped_run_is_resumed_from_its_newest_checkpoint(stopped, fit, tmp_path, recwarn):
    fit("test=false", f"ckpt_path={stopped}/checkpoints/last.ckpt", directory=tmp_path / "new")
    folder = stopped / "checkpoints"
    (folder / "last.ckpt").rename(folder / "best.ckpt")  # as if killed between the two
    (folder / ".last.ckpt.77.partial").write_bytes(b"half")
    fit("resume=true", "test=false")
    assert not [w for w in recwarn if "not resumable" in str(w.message)]
    assert checkpoint_of(stopped)["global_step"] == 15
    assert not list(folder.glob(".*"))
    # A new run from the checkpoint has a best checkpoint of its own, and the same weights.
    assert (tmp_path / "new" / "checkpoints" / "best.ckpt").is_file()
    new, resumed = (checkpoint_of(run)["state_dict"] for run in (tmp_path / "new", stopped))
    assert all(torch.equal(new[key], resumed[key]) for key in resumed)
    with pytest.raises(PneumoniaError, match="has finished"):
        fit("resume=true", "test=false")


def test_a_run_whose_data_changed_is_not_resumed_or_repeated(
    stopped, finished, fit, train, synthetic, tmp_path
):
    changed = shutil.copytree(synthetic, tmp_path / "changed")
    next((changed / "train" / "NORMAL").iterdir()).unlink()
    with pytest.raises(PneumoniaError, match="fingerprint"):
        fit("resume=true", f"data.root={changed}", "test=false")
    with pytest.raises(PneumoniaError, match="fingerprint"):
        train(f"repeat={finished}", f"data.root={changed}", directory=tmp_path / "again")


def test_a_directory_without_a_run_or_a_checkpoint_is_refused(fit, stopped, tmp_path):
    with pytest.raises(PneumoniaError, match=str(tmp_path / "none")):
        fit("resume=true", directory=tmp_path / "none")
    with pytest.raises(PneumoniaError, match="repeat=RUN"):
        fit("resume=true", f"repeat={stopped}", directory=stopped)
    with pytest.raises(PneumoniaError, match="resume=true"):
        fit(directory=stopped)
    shutil.rmtree(stopped / "checkpoints")
    with pytest.raises(PneumoniaError, match="repeat="):
        fit("resume=true", "test=false", directory=stopped)


def test_ckpt_path_needs_the_same_length_of_schedule_and_a_training_state(
    stopped, finished, train, tmp_path
):
    with pytest.raises(PneumoniaError, match=r"trainer\.max_epochs"):
        train(f"ckpt_path={stopped}/checkpoints/last.ckpt", directory=tmp_path / "second")
    with pytest.raises(PneumoniaError, match=r"best\.ckpt"):
        train(f"ckpt_path={finished}/checkpoints/best.ckpt", directory=tmp_path / "third")


def test_a_run_directory_holds_what_is_needed_to_repeat_it(finished):
    record = json.loads((finished / "run.json").read_text())
    assert "trainer.max_epochs=2" in record["overrides"]
    assert record["packages"]["torch"]
    assert len(record["fingerprint"]) == 16
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
