"""A stopped run leaves no process behind; a long one draws few figures."""

import csv
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

WORKERS = "data.num_workers=2"


def test_the_operating_point_is_logged_where_no_figure_is_drawn(train, tmp_path):
    train("trainer.max_epochs=3", "callbacks.figures.every_n_epochs=2", "test=false")
    assert len(steps(tmp_path / "run", "operating_point/threshold")) == 3
    assert len(steps(tmp_path / "run", "val/roc")) == 2


def steps(run: Path, tag: str) -> list[int]:
    log = EventAccumulator(str(run), size_guidance={"tensors": 0, "images": 0, "scalars": 0})
    log.Reload()
    found = log.Scalars(tag) if tag in log.Tags()["scalars"] else log.Images(tag)
    return [event.step for event in found]


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that leads a group of its own, none of which outlives the block."""
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def epoch_of(run: Path) -> int:
    """The last epoch that is in the log; -1 before there is any."""
    try:
        with (run / "csv" / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["epoch"]]  # not of every step
            return max((int(float(row["epoch"])) for row in rows), default=-1)
    except (FileNotFoundError, KeyError, TypeError, ValueError):  # half a line is being written
        return -1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="processes are signalled")
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_outlives_a_run_that_is_stopped_or_killed(tiny, synthetic, tmp_path, how):
    command, settings = tiny
    words = [*command, *settings, f"data.root={synthetic}", f"hydra.run.dir={tmp_path / 'run'}"]
    endless = ["trainer.max_epochs=1000", "callbacks.early_stopping=null", "callbacks.figures=null"]
    with running([*words, WORKERS, *endless]) as process:
        parent = psutil.Process(process.pid)
        until = time.monotonic() + 120
        while epoch_of(tmp_path / "run") < 1 and time.monotonic() < until:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        family = parent.children(recursive=True)
        assert len(family) >= 4  # two for training images, two for validation
        process.send_signal(signal.Signals[how])
        errors = process.communicate(timeout=60)[1]
        assert "Traceback" not in errors
        assert not psutil.wait_procs(family, timeout=20)[1]
