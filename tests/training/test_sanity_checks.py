"""How a run starts: resumed where it stopped, repeated from the start, or refused."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from importlib.metadata import version

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
from pneumonia.training.run_record import provenance


class SignalTest(Callback):
    """Sends the run a signal at a batch of an epoch, when it comes there for the first time."""

    number = signal.SIGTERM

    def __init__(self, epoch, batch, times=1):
        self.place = (epoch, batch)
        self.times = times

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.place:
            for _ in range(self.times):
                signal.raise_signal(self.number)


class InterruptTest(SignalTest):
    number = signal.SIGINT


class RequeueTest(SignalTest):
    number = signal.SIGUSR1


class PowerCutTest(Checkpoint):
    """Stands for a power cut right after an epoch was saved, until the environment says not."""

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


def assert_same_outcome(first, second):
    for name in ("metrics.json", "predictions.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def checkpoint_of(run, name="last.ckpt"):
    return read_checkpoint(run / "checkpoints" / name)


SETTINGS = {
    "dropout": ("model.drop_rate=0.2", "model.drop_path_rate=0.1", "data.num_workers=1"),
    "averaged": ("callbacks=ema", "callbacks.ema.decay=0.7"),
    "accumulated": ("trainer.accumulate_grad_batches=2", "data.sampler=balanced"),
    "plateau": (
        "~model.schedule.pct_start",
        "~model.schedule.interval",
        "model.schedule.name=ReduceLROnPlateau",
        "+model.schedule.patience=0",
        "+model.schedule.factor=0.3",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("place", [(0, 2), (1, 4), (2, 0)])
def test_a_run_stopped_within_an_epoch_ends_as_if_it_was_not(start, tmp_path, settings, place):
    start(*settings, directory=tmp_path / "whole")
    node = callback(SignalTest, epoch=place[0], batch=place[1])
    with pytest.raises(Stopped) as stopped:
        start(*settings, node, directory=tmp_path / "run")
    assert stopped.value.code == 143
    start("resume=true", *settings, directory=tmp_path / "run")
    assert_same_outcome(tmp_path / "whole", tmp_path / "run")
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (checkpoint_of(tmp_path / run, name) for run in ("whole", "run"))
        weights = one["state_dict"]
        assert all(torch.equal(weights[key], other["state_dict"][key]) for key in weights)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), SETTINGS["plateau"]], ids=["", "plateau"])
def test_a_run_cut_off_right_after_saving_an_epoch_loses_none_of_its_numbers(
    start, tmp_path, settings, monkeypatch
):
    start(*settings, directory=tmp_path / "whole")
    with pytest.raises(KeyError, match="power cut"):
        start(*settings, callback(PowerCutTest, epoch=1), directory=tmp_path / "run")
    monkeypatch.setenv("POWER", "1")
    start("resume=true", directory=tmp_path / "run")
    assert_same_outcome(tmp_path / "whole", tmp_path / "run")
    assert history(tmp_path / "whole") == history(tmp_path / "run")


def history(run):
    with (run / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("train/images_per_second")  # what a clock says
    return [row for row in rows if any(v for k, v in row.items() if k != "step")]


def test_a_run_that_had_stopped_early_does_not_train_on(start, tmp_path, monkeypatch):
    early = ("model.optimizer.lr=1e-12", "callbacks.early_stopping.patience=1", "test=false")
    with pytest.raises(KeyError, match="power cut"):
        start(*early, callback(PowerCutTest, epoch=1), directory=tmp_path / "run")
    assert checkpoint_of(tmp_path / "run")["epoch"] == 1
    monkeypatch.setenv("POWER", "1")
    start("resume=true", directory=tmp_path / "run")
    assert checkpoint_of(tmp_path / "run")["epoch"] == 1
    assert checkpoint_of(tmp_path / "run", "best.ckpt")["metadata"]["training"]["epochs"] == 2


@pytest.mark.parametrize("phase", ["freeze", "test_checkpoint", "log_hyperparameters"])
def test_what_was_done_after_the_fit_is_not_done_again(start, tmp_path, phase, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(f"train.{phase}", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            start("trainer.max_epochs=1", directory=run)
    sealed = "operating_point" in checkpoint_of(run, "best.ckpt")
    assert sealed == (phase != "freeze")
    before = {
        name: (run / "checkpoints" / name).read_bytes() for name in ("best.ckpt", "last.ckpt")
    }
    start("trainer.max_epochs=1", "resume=true", directory=run)
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before["last.ckpt"]
    assert sealed == ((run / "checkpoints" / "best.ckpt").read_bytes() == before["best.ckpt"])
    assert (run / "metrics.json").is_file()
    assert json.loads((run / "run.json").read_text())["finished"]


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
        start("test=false", callback(SignalTest, epoch=1, batch=1))
    return tmp_path / "run"


def test_a_contradiction_is_refused_by_name_with_the_other_way(stopped, start):
    for override, message in (
        ("trainer.max_epochs=20", r"trainer.max_epochs=20 contradicts .* trainer.max_epochs=3"),
        ("trainer.precision=bf16-mixed", r"contradicts .* which has trainer.precision=32-true"),
        ("+trainer.max_steps=5", r"\+trainer.max_steps=5 contradicts .* trainer.max_steps=None"),
        ("~callbacks.early_stopping", r"~callbacks.early_stopping contradicts"),
        ("experiment=finetune", r"experiment=finetune contradicts .* experiment=None"),
    ):
        with pytest.raises(PneumoniaError, match=message) as caught:
            start("resume=true", "test=false", override)
        assert "ckpt_path=" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_where_a_run_goes_on_is_no_contradiction(stopped, composed):
    def settled(*overrides):
        words = ["trainer=cpu", "test=false", "resume=true", *overrides]
        words = words[1:] if any(word.startswith("trainer=") for word in overrides) else words
        config = composed(*words, directory=stopped)
        return resolve_run_start(config, HydraConfig.get()).config.trainer

    same = settled()
    assert (same.accelerator, same.devices, same.strategy) == ("cpu", 1, "auto")
    moved = settled("trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2")
    assert (moved.accelerator, moved.devices, moved.num_nodes) == ("auto", 4, 2)
    assert moved.strategy == "ddp"
    assert {**moved} | {**same} == {**same}  # all else is the run's own
    assert settled("trainer.devices=2").devices == 2


def test_a_stopped_run_needs_no_other_word_even_if_it_was_moved(stopped, start, train, tmp_path):
    moved = stopped.rename(tmp_path / "moved")
    start("resume=true", "test=false", directory=moved)
    assert not stopped.exists()
    assert checkpoint_of(moved)["global_step"] == 15
    with pytest.raises(PneumoniaError, match="finished at"):
        start("resume=true", "test=false", directory=moved)


def test_a_run_whose_data_changed_is_not_resumed(stopped, start, synthetic, tmp_path):
    config = OmegaConf.load(stopped / "config.yaml")
    copy = shutil.copytree(synthetic, tmp_path / "changed")
    next((copy / "train" / "NORMAL").iterdir()).unlink()
    config.data.root = str(copy)
    OmegaConf.save(config, stopped / "config.yaml")
    with pytest.raises(PneumoniaError, match=r"does not hold what the run was trained on"):
        start("resume=true", f"data.root={copy}", "test=false")


def test_a_directory_without_a_run_or_a_checkpoint_is_refused(start, stopped, tmp_path):
    with pytest.raises(PneumoniaError, match="holds no run"):
        start("resume=true", directory=tmp_path / "none")
    shutil.rmtree(stopped / "checkpoints")
    with pytest.raises(PneumoniaError, match=r"before its first checkpoint.* repeat="):
        start("resume=true", "test=false", directory=stopped)
    with pytest.raises(PneumoniaError, match="exclude each other"):
        start("resume=true", f"repeat={stopped}", directory=stopped)


def test_of_two_checkpoints_the_newer_is_gone_on_from(stopped, start):
    folder = stopped / "checkpoints"
    (folder / "last.ckpt").rename(folder / "best.ckpt")  # as if killed between the two
    (folder / ".last.ckpt.77.partial").write_bytes(b"half")
    start("resume=true", "test=false", directory=stopped)
    assert checkpoint_of(stopped)["global_step"] == 15
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(("kind", "code"), [(SignalTest, 143), (InterruptTest, 130)])
def test_a_signal_ends_the_run_with_the_shells_code_and_how_to_go_on(start, tmp_path, kind, code):
    with pytest.raises(Stopped) as stopped:
        start("test=false", callback(kind, epoch=0, batch=2))
    assert stopped.value.code == code
    assert f"after 3 steps; to go on: python train.py resume=true hydra.run.dir={tmp_path}" in (
        stopped.value.sentence
    )
    assert checkpoint_of(tmp_path / "run")["global_step"] == 3


def test_a_second_ctrl_c_does_not_wait(start, tmp_path):
    with pytest.raises(Stopped, match="130") as stopped:
        start("test=false", callback(InterruptTest, epoch=0, batch=2, times=2))
    assert "before it could save" in stopped.value.sentence
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)]
)
def test_a_signal_to_all_processes_of_a_run_saves_a_checkpoint(
    synthetic, tiny, tmp_path, number, code
):
    run = tmp_path / "run"
    command, settings = tiny
    words = (f"data.root={synthetic}", "data.num_workers=1", "trainer.max_epochs=500")
    process = subprocess.Popen(
        [*command, *settings, *words, f"hydra.run.dir={run}"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not (run / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert f"Stopped by {number.name} after" in errors
    assert f"resume=true hydra.run.dir={run}" in errors
    read_checkpoint(run / "checkpoints" / "last.ckpt")


def test_a_run_directory_holds_what_is_needed_to_repeat_it(finished, monkeypatch):
    record = json.loads((finished / "run.json").read_text())
    assert "trainer.max_epochs=2" in record["overrides"]
    assert record["choices"]["trainer"] == "cpu"
    assert record["finished"] >= record["started"]
    assert record["provenance"]["packages"]["torch"] == version("torch")
    assert set(record["provenance"]) == {"commit", "python", "packages", "variables", "machine"}
    assert len(record["fingerprint"]) == 16
    assert (finished / "changes.diff").is_file()
    assert (finished / "config.yaml").is_file()


def test_no_variable_is_recorded_that_could_hold_a_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    recorded = provenance()
    assert recorded["variables"]["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "secret" not in json.dumps(recorded)


@pytest.mark.slow
def test_a_repetition_gives_the_same_bytes_whatever_reads_the_data(finished, cli, tmp_path):
    ways = {"as-it-was": [], "no-cache": ["data.cache=false", "data.num_workers=0"]}
    ways["workers"] = ["data.num_workers=2"] if os.cpu_count() > 1 else []
    for name, words in ways.items():
        run = tmp_path / name
        done = cli(f"repeat={finished}", *words, f"hydra.run.dir={run}")
        assert done.returncode == 0, done.stderr
        assert_same_outcome(finished, run)


def test_a_repetition_of_other_data_or_with_other_settings_is_refused(
    finished, train, synthetic, tmp_path
):
    changed = shutil.copytree(synthetic, tmp_path / "changed")
    next((changed / "train" / "NORMAL").iterdir()).unlink()
    with pytest.raises(PneumoniaError, match=r"does not hold what the run was trained on"):
        train(f"repeat={finished}", f"data.root={changed}")
    with pytest.raises(PneumoniaError, match=r"seed=3 contradicts .* to repeat that run"):
        train(f"repeat={finished}", "seed=3")


def test_a_repetition_says_what_is_not_as_it_was(finished, train, tmp_path, caplog):
    copy = shutil.copytree(finished, tmp_path / "copy")
    record = json.loads((copy / "run.json").read_text())
    record["provenance"] |= {"commit": "0" * 40}
    record["provenance"]["packages"]["timm"] = "0.1"
    (copy / "run.json").write_text(json.dumps(record))
    train(f"repeat={copy}", directory=tmp_path / "again")
    assert "timm was 0.1 and is" in caplog.text
    assert f"commit was {'0' * 40} and is" in caplog.text


def test_a_deterministic_run_is_possible(start, tmp_path):
    start("trainer.deterministic=true", "trainer.max_epochs=1", "test=false")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=null"], "data=null: "),
        pytest.param(["resume=true"], "holds no run", marks=pytest.mark.slow),
        pytest.param(["monitor=val/auc"], "did you mean val/auroc", marks=pytest.mark.slow),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_no_directory(
    cli, synthetic, tmp_path, words, message
):
    run = tmp_path / "refused"
    done = cli(f"data.root={synthetic}", *words, f"hydra.run.dir={run}")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    (error,) = [line for line in lines if line.startswith("Error: ")]
    assert message in error
    assert "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr
    assert not run.exists()
