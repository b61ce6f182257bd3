"""Sweeps with Hydra, Optuna and the disk as they are. Most jobs compute their score from their
settings instead of training."""

import math
import os
import re
import signal
import sys
import time
from pathlib import Path

import optuna
import pytest
from filelock import FileLock
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from pneumonia.errors import ConfigError, DataError, ExtraError, PneumoniaError, TrainingError
from pneumonia.training.config import register_resolvers
from pneumonia.training.errors import run
from pneumonia.training.run_record import RunSummary, read_run_summary, write_run_summary
from pneumonia.training.sweep.optuna import parse_space, register_sweepers

ROOT = Path(__file__).parents[2]
LR = "model.optimizer.lr"
SEARCH = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", f"{LR}=tag(log,interval(1e-5,1e-1))")
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")


def score_of(config):
    """Best at a learning rate of 1e-3."""
    return 1 - (math.log10(config.model.optimizer.lr) + 3) ** 2 / 10


def job(config):
    directory = Path(HydraConfig.get().runtime.output_dir)
    assert not (directory / "config.yaml").exists()
    (directory / "config.yaml").write_text(f"lr: {config.model.optimizer.lr}\n")
    write_run_summary(directory, RunSummary(status="finished", score=score_of(config)))


def fail(config):
    directory = HydraConfig.get().runtime.output_dir
    write_run_summary(directory, RunSummary(status="failed", error="the disk is gone"))
    raise DataError("the disk is gone")


def at(number, task, otherwise=job):
    """A job that does something else at one number."""

    def choose(config):
        return (task if HydraConfig.get().job.num == number else otherwise)(config)

    return choose


def kill(config):
    raise SystemExit  # ends the process of the sweep without a summary


@pytest.fixture(name="sweep")
def sweep_fixture(tmp_path, monkeypatch):
    """Run a sweep in this process; returns its directory."""
    monkeypatch.chdir(tmp_path)
    register_resolvers()
    register_sweepers()

    def sweep(*overrides, task=job):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="train"):
            words = [*QUIET, "hydra.sweep.dir=sweep", *overrides]
            GlobalHydra.instance().hydra.multirun("train", task, words)
        return tmp_path / "sweep"

    return sweep


def study(directory):
    storage = JournalStorage(JournalFileBackend(str(directory / "optuna.journal")))
    return optuna.load_study(study_name="sweep", storage=storage)


def completed(directory):
    return [t for t in study(directory).trials if t.state == TrialState.COMPLETE]


def numbers(directory):
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal())


def test_a_search_runs_each_trial_in_its_own_directory_and_follows_the_mode(sweep):
    directory = sweep(*SEARCH, "mode=min")
    assert numbers(directory) == [0, 1, 2]
    scores = [read_run_summary(directory / str(number))["score"] for number in range(3)]
    assert [trial.value for trial in completed(directory)] == scores
    assert study(directory).best_value == min(scores)


@pytest.mark.parametrize(
    ("end", "counted"),
    [(kill, [0, 2, 3]), (lambda config: kill(job(config)), [0, 1, 2])],
    ids=["killed", "finished"],
)
def test_a_killed_search_continues_and_counts_only_trials_that_finished(sweep, end, counted):
    with pytest.raises(SystemExit):
        sweep(*SEARCH, task=at(1, end))
    directory = sweep(*SEARCH)
    assert [trial.number for trial in completed(directory)] == counted
    assert numbers(directory) == sorted({1, *counted})


def test_trials_of_one_batch_and_of_a_continued_search_differ(sweep):
    sweep(*SEARCH, "hydra.sweeper.n_jobs=3")
    words = ("hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3", "hydra.sweeper.n_startup=0")
    trials = study(sweep(*SEARCH, *words)).trials
    assert len({trial.params[LR] for trial in trials}) == 6


def test_a_failed_trial_is_recorded_and_named_and_the_search_continues(sweep, tmp_path):
    with pytest.raises(TrainingError, match=r"sweep/1: the disk is gone"):
        sweep(*SEARCH, task=at(1, fail))
    assert [trial.number for trial in completed(tmp_path / "sweep")] == [0, 2]


def test_a_trial_without_a_finite_score_has_failed(sweep):
    def diverge(config):
        directory = HydraConfig.get().runtime.output_dir
        write_run_summary(directory, RunSummary(status="finished", score=math.inf))

    with pytest.raises(TrainingError, match=r"sweep/1: val_shift/auroc is inf"):
        sweep(*SEARCH, task=at(1, diverge))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{LR}=interval(1e-2,1e-4)"], LR),
        (["data.batch_size=interval(8,16)"], "data.batch_size=8.0"),
        (["data.split.seed=0,1"], "data.split"),
        (["model=resnetv2_50,nonesuch"], "nonesuch"),
        (["trainer=ddp"], "multirun"),
    ],
)
def test_an_invalid_search_is_refused_before_any_trial(sweep, tmp_path, words, message):
    started = []
    with pytest.raises((PneumoniaError, HydraException), match=message):
        sweep(*SEARCH, *words, task=started.append)
    assert not started
    assert not (tmp_path / "sweep").exists()


def test_a_search_does_not_continue_another(sweep):
    sweep(*SEARCH)
    for override in ("mode=min", f"{LR}=interval(0.1,0.2)"):
        with pytest.raises(TrainingError, match=override.partition("=")[0]):
            sweep(*SEARCH, override)


def test_what_a_kill_leaves_of_the_journal_is_repaired(sweep):
    directory = sweep(*SEARCH)
    journal = directory / "optuna.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,"worker')
    (directory / "optuna.journal.lock").symlink_to(journal)
    started = time.monotonic()
    sweep(*SEARCH, "hydra.sweeper.n_trials=4")
    assert len(study(directory).trials) == 4
    assert time.monotonic() - started < 20  # Optuna would wait 30 s for the lock


def test_two_processes_cannot_work_on_one_sweep(sweep):
    directory = sweep("seed=0")
    with FileLock(directory / ".lock"), pytest.raises(TrainingError, match=r"hydra\.sweep\.dir"):
        sweep("seed=0")


def test_a_search_and_a_grid_cannot_share_a_directory(sweep):
    sweep(f"{LR}=1e-3,1e-4")
    with pytest.raises(TrainingError, match=r"hydra\.sweep\.dir"):
        sweep(*SEARCH)


def test_without_optuna_the_extra_is_named(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ExtraError, match=r"\[sweep\]"):
        sweep(*SEARCH)


def test_a_grid_runs_every_combination_once(sweep):
    directory = sweep(f"{LR}=1e-3,1e-4,1e-3", "seed=range(0,2)", "~model.schedule.pct_start")
    assert numbers(directory) == [0, 1, 2, 3]


def test_failed_jobs_of_a_grid_are_all_named_at_the_end_and_run_again(sweep, tmp_path):
    directory = tmp_path / "sweep"
    with pytest.raises(TrainingError, match=r"sweep/1: the disk is gone.*sweep/2: the disk is"):
        sweep("seed=0,1,2", task=at(1, fail, at(2, fail)))
    statuses = [read_run_summary(directory / str(n))["status"] for n in range(3)]
    assert statuses == ["finished", "failed", "failed"]
    sweep("seed=0,1,2")
    assert numbers(directory) == [0, 1, 2, 3, 4]


def test_a_killed_grid_continues_with_the_jobs_that_have_not_finished(sweep):
    started = []

    def task(config):
        started.append(config.seed)
        job(config)

    with pytest.raises(SystemExit):
        sweep("seed=0,1,2,3", task=at(2, kill))
    assert numbers(sweep("seed=3,2,1,0", task=task)) == [0, 1, 2, 3, 4]
    assert started == [3, 2]
    sweep("seed=0,1,2,3", task=task)
    assert started == [3, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=0,1,-1"], "seed=-1"),
        ([f"{LR}=interval(0,1)"], LR),
        (["seed=1,2", "hydra.sweep.subdir=one"], r"hydra\.sweep\.subdir"),
        (["seed=1,2", "hydra.sweeper.n_jobs=0"], "n_jobs=0"),
    ],
)
def test_an_invalid_grid_is_refused_before_any_job(sweep, words, message):
    started = []
    with pytest.raises(ConfigError, match=message):
        sweep(*words, task=started.append)
    assert not started


def test_without_the_slurm_extra_it_is_named(sweep, monkeypatch):
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "submitit_slurm.yaml")
    with pytest.raises(SystemExit, match=r"\[slurm\]"):
        run(lambda: sweep("hydra/launcher=slurm", "seed=0,1"))


def test_slurm_settings_are_checked_and_a_machine_without_slurm_is_refused(sweep, monkeypatch):
    with pytest.raises(HydraException, match="timeout_min"):
        sweep("hydra/launcher=slurm", "hydra.launcher.timeout_min=soon", "seed=0,1")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TrainingError, match="srun"):
        sweep("hydra/launcher=slurm", "seed=0,1")


def space(*words):
    return parse_space(OverridesParser.create().parse_overrides(list(words)))


@pytest.mark.parametrize(
    ("value", "distribution"),
    [
        ("interval(0,1)", FloatDistribution(0, 1)),
        ("tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("int(interval(8,64))", IntDistribution(8, 64)),
        ("null,balanced", CategoricalDistribution(["null", "balanced"])),
        ("choice(a,b,a)", CategoricalDistribution(["a", "b"])),
    ],
)
def test_a_sweep_override_becomes_a_distribution(value, distribution):
    assert space(f"x={value}") == ([], {"x": distribution})


@pytest.mark.parametrize("override", ["x=tag(log,choice(1,2))", "x=range(3,3)"])
def test_an_override_that_cannot_be_searched_is_named(override):
    with pytest.raises(ConfigError, match=re.escape(override)):
        space(override)


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_job_that_a_scheduler_kills_does_not_end_the_others(start, synthetic, tmp_path):
    directory = tmp_path / "sweep"
    words = ("-m", f"data.root={synthetic}", f"hydra.sweep.dir={directory}")
    words += ("hydra/launcher=local", "seed=0,1", "trainer.max_epochs=6")
    process = start(*words)
    wait_for(directory / "0" / "config.yaml", process)
    wait_for(directory / "1" / "config.yaml", process)
    first, *_ = [int(p.name) for p in (directory / ".submitit").iterdir() if p.name.isdecimal()]
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    for pid in (first, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "1 of 2 jobs failed" in printed
    assert "Traceback" not in printed
    summaries = [read_run_summary(directory / str(number)) for number in range(2)]
    assert [summary["status"] for summary in summaries if summary] == ["finished"]
