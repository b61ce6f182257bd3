"""A run killed by the system, at any moment, is resumed and ends bit for bit as if it had not."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from runs import assert_same_result, history

from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.run_record import read_run_summary

SETTINGS = (
    "data.num_workers=1",
    "model.drop_rate=0.2",
    "trainer.max_epochs=4",
    "trainer.log_every_n_steps=1",
    "checkpoint.every_n_steps=2",
)
Moment = Callable[[Path, float], bool]
"""Whether now is the time, given the run directory and the seconds since the run claimed it."""


class Killed:
    """Runs of the command line that are killed at a moment; counts what happened."""

    def __init__(self, directory: Path, fresh: list[str]) -> None:
        self.directory = directory
        self.fresh = fresh
        self.kills = 0
        self.starts = 0

    def run(self, moment: Moment | None) -> bool:
        """Start or resume; True if it ended by itself."""
        command = self.fresh
        if self._can_resume():
            command = [*self.fresh[:2], "resume=true"]
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.starts += 1
        with subprocess.Popen(
            [*command, f"hydra.run.dir={self.directory}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            claimed = None
            began = (self.directory / "train.log").exists()
            while process.poll() is None and moment is not None:
                if claimed is None and self._claimed(began):
                    claimed = time.monotonic()
                if claimed is not None and moment(self.directory, time.monotonic() - claimed):
                    os.killpg(process.pid, signal.SIGKILL)
                    self.kills += 1
                    break
                time.sleep(0.0005)
            _, errors = process.communicate(timeout=240)
        if process.returncode == -signal.SIGKILL:
            if self._finished():  # killed on its way out
                self.kills -= 1
            return self._finished()
        assert process.returncode == 0, errors
        return True

    def _can_resume(self) -> bool:
        return any((self.directory / "checkpoints").glob("*.ckpt"))

    def _finished(self) -> bool:
        summary = read_run_summary(self.directory)
        return summary is not None and summary["status"] == "finished"

    def _claimed(self, before: bool) -> bool:
        """The configuration is there; of a resumed run, the log of this start has grown."""
        if not before:
            return (self.directory / "config.yaml").exists()
        events = len(list(self.directory.glob("events.out.*")))
        return events > self.starts - 1

    def check_whole(self) -> None:
        """Whatever has its name is whole."""
        for path in self.directory.glob("checkpoints/*.ckpt"):
            read_checkpoint(path)
        for path in self.directory.glob("*.json"):
            json.loads(path.read_text())
        report = self.directory / "report.html"
        assert not report.exists() or report.read_text().rstrip().endswith("</html>")


def while_writing(name: str) -> Moment:
    """The moment at which a file is half-written."""
    return lambda directory, _: any(directory.rglob(f".{name}.*.partial"))


def once_there(name: str) -> Moment:
    return lambda directory, _: (directory / name).exists()


def finalized(directory: Path, _: float) -> bool:
    """The moment between finalizing and the test."""
    best, last = (directory / "checkpoints" / f"{n}.ckpt" for n in ("best", "last"))
    return best.exists() and last.exists() and best.stat().st_size < last.stat().st_size / 2


def after(seconds: float) -> Moment:
    return lambda _, passed: passed > seconds


@pytest.fixture(scope="module", name="whole")
def whole_fixture(synthetic, tiny, tmp_path_factory) -> tuple[Path, list[str], float]:
    """A run that nothing interrupts, how to start it, and how long it takes once it has begun."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    command, settings = tiny
    fresh = [*command, f"data.root={synthetic}", *settings, *SETTINGS]
    assert Killed(directory, fresh).run(None)  # fills the cache of images
    shutil.rmtree(directory)
    assert Killed(directory, fresh).run(None)
    began, ended = (directory / name for name in ("config.yaml", "summary.json"))
    return directory, fresh, ended.stat().st_mtime - began.stat().st_mtime


def killed_and_resumed(directory: Path, fresh: list[str], moments: list[Moment]) -> Killed:
    run = Killed(directory, fresh)
    for moment in [*moments, None]:
        ended = run.run(moment)
        run.check_whole()
        if ended:
            break
    assert ended
    return run


@pytest.mark.slow
@pytest.mark.timeout(1200)  # many processes, one after the other
def test_a_run_killed_in_a_step_while_saving_and_after_the_fit_ends_the_same(whole, tmp_path):
    directory, fresh, _ = whole
    moments = [once_there("checkpoints/last.ckpt"), while_writing("last.ckpt"), finalized]
    run = killed_and_resumed(tmp_path / "run", fresh, moments)
    assert run.kills >= 2
    assert_same_result(directory, tmp_path / "run")
    assert history(directory) == history(tmp_path / "run")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_run_killed_at_20_moments_ends_the_same(whole, tmp_path):
    directory, fresh, seconds = whole
    chance = random.Random(0)
    aimed = [
        while_writing("config.yaml"),
        while_writing("last.ckpt"),
        while_writing("best.ckpt"),
        once_there("checkpoints/last.ckpt"),
        finalized,
        while_writing("predictions.csv"),
        while_writing("report.html"),
        once_there("metrics.json"),
    ]
    kills, number = 0, 0
    report = []
    while kills < 20:
        moments = [after(chance.uniform(0, seconds))]
        if number < len(aimed):
            moments = [aimed[number]]
        if number % 3 == 0:
            moments.append(after(chance.uniform(0, seconds)))
        target = tmp_path / f"run-{number}"
        run = killed_and_resumed(target, fresh, moments)
        kills += run.kills
        report.append((number, run.kills, run.starts))
        assert_same_result(directory, target)
        assert history(directory) == history(target)
        shutil.rmtree(target)
        number += 1
    print(f"{kills} kills in {number} runs: (run, kills, starts) {report}")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="processes are signalled")
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_outlives_a_run_that_is_stopped_or_killed(start, synthetic, tmp_path, how):
    endless = ["trainer.max_epochs=1000", "callbacks.early_stopping=null", "callbacks.figures=null"]
    words = [f"data.root={synthetic}", f"hydra.run.dir={tmp_path}", "data.num_workers=2"]
    process = start(*words, *endless, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 120
        while not (log := tmp_path / "train.log").exists() or "epoch 2/" not in log.read_text():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 4  # two for training images, two for validation
        process.send_signal(signal.Signals[how])
        assert "Traceback" not in process.communicate(timeout=60)[1]
        assert not psutil.wait_procs(family, timeout=20)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
