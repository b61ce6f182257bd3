"""Several processes train one model: together they do what one would, and only that."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from lightning import Callback
from runs import checkpoint_of, free_port, history

from pneumonia.data.synthetic import write_synthetic
from pneumonia.errors import ConfigError, DataError
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.config import run_name
from pneumonia.training.distributed import is_rank_zero
from pneumonia.training.errors import check_run
from pneumonia.training.pipeline import build_run
from pneumonia.training.resume import RunStart
from pneumonia.training.run_record import read_run_summary
from pneumonia.training.sweep.leaderboard import read_runs

ROOT = Path(__file__).parents[2]
SMALL = ("model.pretrained=false", "model.backbone=resnet10t", "data.num_workers=0")
RECIPE = (
    "model.backbone=test_efficientnet_gn",  # BatchNorm would see other statistics in each process
    "model.pretrained=false",
    "model.pos_weight=0.7",
    "model.optimizer.name=sgd",  # Adam would blow up what rounding leaves of a zero gradient
    "model.optimizer.lr=0.02",
    "trainer.precision=64-true",  # nine steps would do so, too, from 1e-6 in the first
    "data.sampler=balanced",
    "data.image_size=32",
    "data.batch_size=8",
    "data.num_workers=1",
    "trainer.max_epochs=3",
    "trainer.accumulate_grad_batches=2",  # of 5 batches: the last step of an epoch has but one
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "callbacks.progress=null",
    "callbacks.summary=null",
    "checkpoint.every_n_steps=1",
    "evaluation.operating_point=youden",
)
STEPS = 9
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
ROUNDED = 1e-5
"""Lightning loads weights in single precision, whatever they were saved in."""
SRUN = {
    "SLURM_JOB_ID": "4242",
    "SLURM_JOB_NAME": "pneumonia",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


class Fault(Callback):
    """Cause the fault that the environment asks for on one process, in the second epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        fault = os.environ.get("FAULT")
        place = (trainer.current_epoch, batch_idx, trainer.global_rank)
        if fault is None or place != (1, 3, trainer.world_size - 1):
            return
        if fault == "error":
            raise DataError("x.jpeg is damaged; remove it.")
        if fault == "loss":
            batch["image"] = batch["image"] * torch.nan  # on one process
        else:
            os.kill(os.getpid(), getattr(signal, fault))


class Run:
    """A run of the recipe by the real command line."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.directory = folder / "run"
        self.folder = folder
        self.recipe = (
            *RECIPE,
            f"data.root={root}",
            f"data.cache_dir={folder}/cache",
            f"+callbacks.fault={{_target_: {__name__}.Fault}}",
        )

    def start(self, *words, launcher=(sys.executable,), environment=None):
        settings = self.recipe if "resume=true" not in words else ()
        paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        return subprocess.Popen(
            [*launcher, str(ROOT / "train.py"), *settings, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
            | (environment or {}),
        )

    def end(self, *processes, code=0):
        """Wait for processes, which must end with the code; keeps their output."""
        said = [process.communicate(timeout=240) for process in processes]
        self.output = "".join(out for out, _ in said)
        self.errors = "".join(errors for _, errors in said)
        assert [process.returncode for process in processes] == [code] * len(processes), self.errors
        return self

    def run(self, *words, code=0, **arguments):
        started = self.start(*words, f"hydra.run.dir={self.directory}", **arguments)
        return self.end(started, code=code)

    def files(self):
        found = {path.relative_to(self.directory) for path in self.directory.rglob("*")}
        return {path.as_posix() for path in found if not path.name.startswith("events.out")}

    def metrics(self):
        text = (self.directory / "metrics.json").read_text()
        return {name: entry["value"] for name, entry in json.loads(text).items()}


def assert_same(one, other, within=1e-9):
    """Two runs have the same weights, metrics and logs."""
    last = [checkpoint_of(run.directory) for run in (one, other)]
    assert [checkpoint["global_step"] for checkpoint in last] == [STEPS, STEPS]
    for key, value in last[0]["state_dict"].items():
        assert torch.allclose(value, last[1]["state_dict"][key], rtol=0, atol=within), key
    assert one.metrics() == pytest.approx(other.metrics(), abs=1e-4, nan_ok=True)
    for a, b in zip(logged(one), logged(other), strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    tables = [PredictionTable.read(run.directory / "predictions.csv") for run in (one, other)]
    assert np.array_equal(tables[0].path, tables[1].path)
    assert tables[0].logit == pytest.approx(tables[1].logit, abs=1e-4)


def logged(run):
    rows = [{k: float(v) for k, v in row.items() if v} for row in history(run.directory)]
    return [row for row in rows if len(row) > 1]


def said_twice(text):
    lines = [line.partition("][")[2] for line in text.splitlines() if line.startswith("[20")]
    return {line for line in lines if lines.count(line) > 1}


@pytest.fixture(scope="module", name="root")
def root_fixture(tmp_path_factory):
    """Synthetic X-rays whose splits no number of processes divides."""
    root = write_synthetic(tmp_path_factory.mktemp("odd") / "set", images=62, workers=1)
    next((root / "test" / "PNEUMONIA").iterdir()).unlink()
    return root


@pytest.fixture(name="new")
def new_fixture(root, tmp_path):
    return Run(tmp_path, root)


@pytest.fixture(scope="module", name="alone")
def alone_fixture(root, tmp_path_factory):
    """The run of one process, which those of several must equal."""
    return Run(tmp_path_factory.mktemp("alone"), root).run("trainer=cpu")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.soak)])
def test_several_processes_equal_one_and_only_rank_zero_writes(alone, new, root, processes):
    run = new.run(*TWO[:2], f"trainer.devices={processes}")
    assert_same(alone, run)
    held = len((run.directory / "validation.csv").read_text().splitlines()) - 1
    tested = len(list((root / "test").rglob("*.jpeg")))
    assert held % 2 == tested % 2 == 1
    assert run.metrics()["test/n"] == tested
    assert len(set(PredictionTable.read(run.directory / "predictions.csv").path)) == tested
    metadata = checkpoint_of(run.directory, "best")["metadata"]
    assert metadata["data"]["splits"]["val"]["images"] == held
    # One directory with one set of files, and one cache.
    assert run.files() == alone.files()
    writers = {path.name.split(".")[-2] for path in run.directory.glob("events.out*")}
    assert len(writers) == 1
    assert run.errors.count("images once, at 32 pixels") + run.output.count("images once, at") == 2
    assert len(list((run.folder / "cache").rglob("*.pixels.npy"))) == 2
    assert run.output.count("Checkpoint: ") == 1
    assert said_twice(run.output + run.errors) == said_twice(alone.output + alone.errors)
    assert "GLOBAL_RANK: 1" not in run.errors


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_under_slurm_stop_on_a_signal_and_one_resumes(alone, new):
    tools = new.folder / "bin"
    tools.mkdir()
    for name in ("scontrol", "srun"):
        (tools / name).write_text(f"#!/bin/sh\ntouch {tools}/called\n")
        (tools / name).chmod(0o755)
    port = free_port()
    new.directory = new.folder / "runs" / "job-4242-0"
    new.end(
        *(
            new.start(
                *TWO,
                environment=SRUN
                | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task), "FAULT": "SIGUSR1"}
                | {"MASTER_PORT": str(port), "PATH": f"{tools}:{os.environ['PATH']}"},
            )
            for task in range(2)
        ),
        code=138,
    )
    assert new.errors.count("Stopped by SIGUSR1 after 5 steps") == 1
    assert not (tools / "called").exists()  # to requeue is the script's part
    new.run("resume=true", "trainer=cpu")
    assert_same(alone, new, ROUNDED)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_nodes_under_torchrun_equal_one_process(alone, new):
    new.directory = new.folder / "runs" / "job-trial-7"
    endpoint = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    agent = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-id=trial-7", "--rdzv-backend=c10d")
    launcher = (sys.executable, "-m", "torch.distributed.run", *agent, endpoint)
    words = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2")
    local = "--local-addr=127.0.0.1"
    new.end(*(new.start(*words, launcher=(*launcher, local)) for _ in range(2)))
    assert_same(alone, new)
    assert new.files() == alone.files()
    assert new.output.count("Checkpoint: ") == 1
    assert len(list((new.folder / "cache").rglob("*.pixels.npy"))) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fault", "message"),
    [("SIGKILL", None), ("error", "x.jpeg is damaged"), ("loss", "NaN or infinite in step 5")],
)
def test_when_one_process_fails_all_end_and_its_sentence_is_on_stderr(new, fault, message):
    started = new.start(*TWO, f"hydra.run.dir={new.directory}", environment={"FAULT": fault})
    last = new.directory / "checkpoints" / "last.ckpt"
    while started.poll() is None and not last.exists():
        time.sleep(0.1)
    family = psutil.Process(started.pid).children(recursive=True) if started.poll() is None else []
    began = time.monotonic()
    _, errors = started.communicate(timeout=120)
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert time.monotonic() - began < 60  # the fault comes some seconds after the checkpoint
    assert started.returncode != 0
    if message is not None:
        assert any(s.startswith("Error") and message in s for s in errors.splitlines())
    read_checkpoint(last)
    (run,) = read_runs(new.directory.parent)
    assert run.status in ("failed", "unfinished")  # killed by Lightning: no summary
    if fault == "loss":  # agreed on, so that rank zero records it
        assert message in read_run_summary(new.directory)["error"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.batch_size=9"], r"data\.batch_size=9"),
        (["trainer.use_distributed_sampler=true"], r"trainer\.use_distributed_sampler"),
        (["trainer.num_nodes=3"], r"trainer\.num_nodes=3"),
        (["trainer.overfit_batches=2"], r"trainer\.overfit_batches=2"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_before_they_start(
    composed, words, message, synthetic, tmp_path
):
    config = composed(*SMALL, *TWO, f"data.root={synthetic}", *words)
    with pytest.raises(ConfigError, match=message):
        build_run(RunStart(config, str(tmp_path)))


def test_an_untested_strategy_is_refused_by_name(composed):
    config = composed(*SMALL, "trainer.strategy=fsdp")
    with pytest.raises(ConfigError, match=r"trainer\.strategy=fsdp"):
        check_run(config, sweep=False)


@pytest.mark.parametrize("tool", ["torchrun", "srun"])
def test_processes_that_would_not_train_together_are_refused(
    composed, tool, synthetic, tmp_path, monkeypatch
):
    environment = {
        "torchrun": {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "4", "RANK": "1"},
        "srun": {"SLURM_STEP_NUM_TASKS": "4"},
    }[tool]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = composed(*SMALL, "trainer=cpu", f"data.root={synthetic}")
    with pytest.raises(ConfigError, match=rf"trainer\.num_nodes=.*{tool} started 4"):
        build_run(RunStart(config, str(tmp_path)))
    with pytest.raises(ConfigError, match=f"{tool} started.*multirun"):
        check_run(composed(*SMALL, "trainer=cpu"), sweep=True)


@pytest.mark.parametrize(
    ("environment", "number", "name"),
    [
        ({}, 0, None),
        ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, 1, None),
        (SRUN | {"SLURM_PROCID": "1"}, 1, "job-4242-0"),
        ({"TORCHELASTIC_RUN_ID": "t", "WORLD_SIZE": "4", "RANK": "2"}, 2, "job-t"),
    ],
)
def test_a_process_knows_its_number_and_the_run_from_who_started_it(
    environment, number, name, monkeypatch
):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert is_rank_zero() == (number == 0)
    assert run_name() == name or name is None


def test_torchrun_without_a_name_for_the_run_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"--rdzv-id=NAME"):
        run_name()
