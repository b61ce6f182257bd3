"""Sweeps: what is recorded, what goes on, what is refused. Hydra, Optuna and the disk are real; a
job here computes its score from its settings instead of training."""

import json
import math
import os
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
from hydra.errors import HydraException
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from pneumonia.errors import ConfigError, DataError, PneumoniaError, TrainingError
from pneumonia.training.config import register_resolvers
from pneumonia.training.errors import run
from pneumonia.training.run_record import (
    RunSummary,
    read_run_summary,
    refuse_used_directory,
    write_run_summary,
)
from pneumonia.training.sweep.launchers import register_plugins

ROOT = Path(__file__).parents[2]
LR = "model.optimizer.lr"
SEARCH = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", f"{LR}=tag(log,interval(1e-5,1e-1))")
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")


def score_of(config):
    """Best at a learning rate of 1e-3."""
    return 1 - (math.log10(config.model.optimizer.lr) + 3) ** 2 / 10


def job(config):
    directory = Path(HydraConfig.get().runtime.output_dir)
    refuse_used_directory(directory)
    (directory / "config.yaml").write_text(f"lr: {config.model.optimizer.lr}\n")
    write_run_summary(directory, RunSummary(status="finished", score=score_of(config)))


@pytest.fixture(name="sweep")
def sweep_fixture(tmp_path, monkeypatch):
    """Run a sweep in this process; returns its directory."""
    monkeypatch.chdir(tmp_path)
    register_resolvers()
    register_plugins()

    def sweep(*overrides, task=job):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="train"):
            words = [*QUIET, "hydra.sweep.dir=sweep", *overrides]
            GlobalHydra.instance().hydra.multirun("train", task, words)
        return tmp_path / "sweep"

    return sweep


def killed_at(number, before=lambda config: None):
    """A job that ends its process without a word at one number."""

    def task(config):
        if HydraConfig.get().job.num == number:
            before(config)
            raise SystemExit
        job(config)

    return task


def study(directory):
    storage = JournalStorage(JournalFileBackend(str(directory / "optuna.journal")))
    return optuna.load_study(study_name="sweep", storage=storage)


def numbers(directory):
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal())


def test_a_search_runs_as_many_trials_as_asked_each_in_its_own_directory(sweep):
    directory = sweep(*SEARCH)
    assert numbers(directory) == [0, 1, 2]
    for trial in study(directory).trials:
        ending = read_run_summary(directory / str(trial.number))
        assert trial.state == TrialState.COMPLETE
        assert trial.value == ending["score"]


@pytest.mark.parametrize(("mode", "best"), [("max", max), ("min", min)])
def test_a_search_follows_the_mode(sweep, mode, best):
    found = study(sweep(*SEARCH, f"mode={mode}"))
    assert found.best_value == best(trial.value for trial in found.trials)


@pytest.mark.slow
def test_a_search_gathers_where_the_score_is_best(sweep):
    trials = study(sweep(*SEARCH, "hydra.sweeper.n_trials=30")).trials
    distances = [abs(math.log10(trial.params[LR]) + 3) for trial in trials]
    assert sum(distances[20:]) < sum(distances[:10]) / 2


def test_a_killed_search_goes_on_and_runs_the_killed_trial_again_in_a_new_directory(sweep):
    with pytest.raises(SystemExit):
        sweep(*SEARCH, task=killed_at(1))
    directory = sweep(*SEARCH)
    trials = study(directory).trials
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == 3
    assert trials[1].state == TrialState.FAIL
    assert trials[2].params == trials[1].params
    assert numbers(directory) == [0, 1, 2, 3]
    assert not (directory / "1" / "config.yaml").exists()


@pytest.mark.slow
def test_a_search_killed_again_and_again_still_ends_with_the_number_asked_for(sweep):
    batches = ("hydra.sweeper.n_jobs=2",)
    for number in (1, 2, 4, 7):
        with pytest.raises(SystemExit):
            sweep(*SEARCH, *batches, task=killed_at(number))
    trials = study(sweep(*SEARCH, *batches)).trials
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == 3
    assert not [
        trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)
    ]


def test_a_trial_that_had_finished_when_the_search_was_killed_is_not_run_again(sweep):
    with pytest.raises(SystemExit):
        sweep(*SEARCH, task=killed_at(1, before=job))
    directory = sweep(*SEARCH)
    assert numbers(directory) == [0, 1, 2]
    assert all(trial.state == TrialState.COMPLETE for trial in study(directory).trials)


def test_a_search_that_goes_on_does_not_draw_its_first_trials_again(sweep):
    sweep(*SEARCH)
    trials = study(sweep(*SEARCH, "hydra.sweeper.n_trials=6")).trials
    assert len({trial.params[LR] for trial in trials}) == 6


def test_trials_of_one_batch_differ(sweep):
    directory = sweep(*SEARCH, "hydra.sweeper.n_jobs=3", "hydra.sweeper.n_startup=0")
    assert len({trial.params[LR] for trial in study(directory).trials}) == 3
    assert numbers(directory) == [0, 1, 2]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_search_and_another_another(sweep):
    def learning_rates(seed):
        directory = f"hydra.sweep.dir={seed}-{time.monotonic_ns()}"
        sweep(*SEARCH, directory, f"hydra.sweeper.seed={seed}")
        return [trial.params[LR] for trial in study(Path(directory.partition("=")[2])).trials]

    assert learning_rates(1) == learning_rates(1) != learning_rates(2)


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_a_failed_trial_or_one_without_a_figure_is_recorded_and_the_search_goes_on(sweep, score):
    def task(config):
        if HydraConfig.get().job.num == 1:
            if score is None:
                raise DataError("the disk is gone")
            directory = HydraConfig.get().runtime.output_dir
            write_run_summary(directory, RunSummary(status="finished", score=score))
        else:
            job(config)

    trials = study(sweep(*SEARCH, task=task)).trials
    assert [trial.state == TrialState.FAIL for trial in trials] == [False, True, False]


def test_a_search_whose_every_trial_fails_is_an_error(sweep):
    def task(config):
        raise DataError("the disk is gone")

    with pytest.raises(TrainingError, match="all 3 trials failed; trial 0: the disk is gone"):
        sweep(*SEARCH, task=task)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{LR}=interval(1e-2,1e-4)"], "its lower end 0.01 must be less than its upper end"),
        ([f"{LR}=tag(log,interval(0,1))"], "its lower end 0 must be positive"),
        ([f"{LR}=tag(logarithmic,interval(1,2))"], r"tag\(logarithmic\) is unknown"),
        ([f"{LR}=1e-3"], "there is nothing to search"),
        (["model.optimizer.lrr=interval(0,1)"], "optimizer.lrr"),
        (["data.batch_size=interval(8,16)"], "data.batch_size=8.0 is of the wrong type"),
        (["data.resize_mode=squash,stretch"], "data.resize_mode='stretch'"),
        (["model=resnetv2_50,nonesuch"], "nonesuch"),
        (["seed=0,1,2"], "the luckiest seed would win"),
        (["data.split.seed=0,1,2"], "the easiest hold-out would win"),
        (["experiment=quickstart,seed"], r"would monitor val/loss \(min\)"),
        (["trainer=ddp"], "multirun"),
        (["hydra.sweeper.n_trials=0"], "n_trials=0 must be a whole number from 1 up"),
        (["hydra.sweeper.n_jobs=many"], "n_jobs='many' must be a whole number"),
    ],
)
def test_a_mistake_in_a_search_is_told_before_any_trial(sweep, tmp_path, words, message):
    ran = []
    with pytest.raises((PneumoniaError, HydraException), match=message):
        sweep(*SEARCH, *words, task=ran.append)
    assert not ran
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mode=min"], r"began with val/auroc \(max\), and now val/auroc \(min\)"),
        ([f"{LR}=interval(0.1,0.2)"], "another search space: it began with model.optimizer.lr"),
        (["trainer.max_epochs=3"], "another fixed settings: .* now trainer.max_epochs=3"),
    ],
)
def test_a_search_is_not_mixed_with_another(sweep, words, message):
    sweep(*SEARCH)
    with pytest.raises(TrainingError, match=message):
        sweep(*SEARCH, *words)


def test_what_a_kill_leaves_of_the_journal_is_mended(sweep):
    directory = sweep(*SEARCH)
    journal = directory / "optuna.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,"worker')
    (directory / "optuna.journal.lock").symlink_to(journal)
    started = time.monotonic()
    sweep(*SEARCH, "hydra.sweeper.n_trials=4")
    assert len(study(directory).trials) == 4
    assert time.monotonic() - started < 20  # Optuna would wait for the lock for 30


def test_two_processes_do_not_share_a_sweep(sweep):
    directory = sweep(*SEARCH)
    with (
        FileLock(directory / ".lock"),
        pytest.raises(TrainingError, match="another process works on this sweep"),
    ):
        sweep(*SEARCH)


def test_a_search_and_a_grid_do_not_share_a_directory(sweep):
    sweep(f"{LR}=1e-3,1e-4")
    with pytest.raises(TrainingError, match="holds runs, but no search to go on with"):
        sweep(*SEARCH)
    sweep(*SEARCH, "hydra.sweep.dir=search")
    with pytest.raises(TrainingError, match="holds a sweep by Optuna"):
        sweep(f"{LR}=1e-3,1e-4", "hydra.sweep.dir=search")


def test_without_optuna_it_says_what_to_install(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'pneumonia\[sweep\]'"):
        sweep(*SEARCH)


def test_a_grid_runs_every_combination(sweep):
    directory = sweep(f"{LR}=1e-3,1e-4", "seed=range(0,3)", "~model.schedule.pct_start")
    assert numbers(directory) == [0, 1, 2, 3, 4, 5]


def test_a_failed_job_of_a_grid_is_recorded_the_others_go_on_and_the_end_names_it(sweep):
    def task(config):
        if config.seed == 1:
            raise DataError("the disk is gone")
        job(config)

    with pytest.raises(TrainingError, match=r"1 of 3 jobs failed: sweep/1 \(the disk is gone\)"):
        sweep("seed=0,1,2", task=task)
    endings = [read_run_summary(f"sweep/{number}") for number in range(3)]
    assert [ending["status"] for ending in endings] == ["finished", "failed", "finished"]
    assert "DataError: the disk is gone" in endings[1]["traceback"]


def test_a_killed_grid_runs_what_has_not_finished(sweep):
    with pytest.raises(SystemExit):
        sweep("seed=0,1,2,3", task=killed_at(2))
    ran = []

    def task(config):
        ran.append(config.seed)
        job(config)

    assert numbers(sweep("seed=0,1,2,3", task=task)) == [0, 1, 2, 3, 4]
    assert ran == [2, 3]
    sweep("seed=0,1,2,3", task=task)
    assert ran == [2, 3]


def test_a_mistake_in_one_point_of_a_grid_is_told_before_any_job(sweep):
    ran = []
    with pytest.raises(ConfigError, match="seed=-1 must lie in"):
        sweep("seed=0,1,-1", task=ran.append)
    with pytest.raises(ConfigError, match="a grid needs single values"):
        sweep(f"{LR}=interval(0,1)", task=ran.append)
    assert not ran


def test_a_sweep_whose_jobs_would_share_a_directory_is_refused(sweep):
    directory = sweep("seed=0")
    before = (directory / "0" / "summary.json").read_text()
    with pytest.raises(TrainingError, match="already holds a run"):
        sweep("seed=1", "hydra.sweep.subdir=0")
    assert (directory / "0" / "summary.json").read_text() == before
    with pytest.raises(TrainingError, match="same directory"):
        sweep("seed=1,2", "hydra.sweep.subdir=one")


def test_a_run_that_is_refused_leaves_the_ending_of_the_run_that_was_there(sweep, tmp_path):
    sweep("seed=0")
    before = (tmp_path / "sweep" / "0" / "summary.json").read_text()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3", job_name="train"):
        hydra = GlobalHydra.instance().hydra
        with pytest.raises(TrainingError, match="already holds a run"):
            hydra.run("train", job, [*QUIET, "hydra.run.dir=sweep/0"])
    assert (tmp_path / "sweep" / "0" / "summary.json").read_text() == before


def test_without_the_slurm_extra_it_says_what_to_install(sweep, monkeypatch):
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "submitit_slurm.yaml")
    with pytest.raises(SystemExit, match=r"pip install 'pneumonia\[slurm\]'"):
        run(lambda: sweep("hydra/launcher=slurm", "seed=0,1"))


def test_slurm_settings_are_checked_and_its_absence_is_one_sentence(sweep, monkeypatch):
    with pytest.raises(HydraException, match="timeout_min"):
        sweep("hydra/launcher=slurm", "hydra.launcher.timeout_min=soon", "seed=0,1")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TrainingError, match=r"the launcher stopped: .*srun"):
        sweep("hydra/launcher=slurm", "seed=0,1")


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_search_of_real_runs_survives_a_kill_in_the_middle_of_a_trial(start, synthetic, tmp_path):
    directory = tmp_path / "sweep"
    words = ("-m", f"data.root={synthetic}", f"hydra.sweep.dir={directory}")
    words += ("hparams_search=optuna", "hydra.sweeper.n_trials=3", "trainer.max_epochs=2")
    process = start(*words)
    wait_for(directory / "1" / "config.yaml", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert read_run_summary(directory / "1") is None
    before = {p: p.stat().st_mtime_ns for p in directory.glob("[01]/*") if p.is_file()}

    process = start(*words)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert "Best: trial" in printed
    trials = study(directory).trials
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == 3
    assert trials[2].params == trials[1].params
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert numbers(directory) == [0, 1, 2, 3]
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            assert json.loads((directory / str(trial.number) / "summary.json").read_text())
            assert (directory / str(trial.number) / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.slow
def test_a_job_that_a_scheduler_kills_does_not_end_the_others(start, synthetic, tmp_path):
    directory = tmp_path / "sweep"
    words = ("-m", f"data.root={synthetic}", f"hydra.sweep.dir={directory}")
    words += ("hydra/launcher=local", "seed=0,1", "trainer.max_epochs=6")
    process = start(*words)
    wait_for(directory / "0" / "config.yaml", process)
    wait_for(directory / "1" / "config.yaml", process)
    (first, *_) = sorted(
        int(p.name) for p in (directory / ".submitit").iterdir() if p.name.isdecimal()
    )
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    for pid in (first, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert f"1 of 2 jobs failed: {directory / '0'} (it was killed" in printed
    assert read_run_summary(directory / "1")["status"] == "finished"
