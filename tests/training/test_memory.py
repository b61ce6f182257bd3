"""A long run stays as large as it began, and leaves nothing behind: memory, files, processes."""

import csv
import math
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

WORKERS = "data.num_workers=2"


@dataclass(frozen=True)
class Look:
    """One look at a run and the processes that it started."""

    epoch: int
    memory: int
    files: int
    processes: int


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


def look(process: psutil.Process, run: Path) -> Look | None:
    """None in a moment at which a process ends."""
    try:
        family = [process, *process.children(recursive=True)]
        memory = sum(one.memory_full_info().pss for one in family)
        return Look(epoch_of(run), memory, sum(one.num_fds() for one in family), len(family))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def median(looks: list[Look], of: str, epochs: range) -> float:
    return statistics.median(getattr(one, of) for one in looks if one.epoch in epochs)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells it")
def test_memory_and_open_files_stay_as_they_are_over_200_epochs(tiny, synthetic, tmp_path):
    command, settings = tiny
    kept = [word for word in settings if not word.startswith(("callbacks.", "trainer.enable"))]
    run = tmp_path / "run"
    words = [
        *command,
        *kept,
        f"data.root={synthetic}",
        f"hydra.run.dir={run}",
        WORKERS,
        "trainer.max_epochs=200",
        "callbacks.early_stopping.patience=1000",
        "callbacks.figures.every_n_epochs=1",
    ]
    looks, seen = [], set()
    with running(words) as process:
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            if (found := look(parent, run)) is not None:
                looks.append(found)
                seen.update(parent.children(recursive=True))
            time.sleep(0.2)
        assert process.returncode == 0, process.communicate()[1]
    assert not psutil.wait_procs(seen, timeout=10)[1]
    warm, end = range(30, 51), range(180, 201)
    growth = median(looks, "memory", end) / median(looks, "memory", warm) - 1
    for epochs in (warm, range(80, 101), range(130, 151), end):
        found = {name: median(looks, name, epochs) for name in ("memory", "files", "processes")}
        print(f"epochs {epochs.start} to {epochs.stop - 1}: {found}")
    print(f"memory grew by {growth:.2%} over {len(looks)} looks")
    assert growth < 0.02
    for name in ("files", "processes"):
        assert median(looks, name, end) <= median(looks, name, warm)


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


@pytest.mark.soak
@pytest.mark.shared
@pytest.mark.timeout(3600)
def test_what_tensorboard_reads_of_50_epochs_of_real_x_rays_is_under_20_megabytes(
    tiny, shared, tmp_path
):
    """As of real size: its figures are drawn of real X-rays at 224 px and of the whole
    validation set.

    What does not count is saved: the network is a toy, and of the steps of an epoch only those
    are run that would be logged.
    """
    command, _ = tiny
    run, root = tmp_path / "run", shared / "data" / "chest_xray"
    logged = math.ceil(len(list((root / "train").glob("*/*.jpeg"))) / 32 / 10)
    words = [
        *command,
        "trainer=cpu",
        f"data.root={root}",
        "model.backbone=test_resnet",
        "model.pretrained=false",
        f"trainer.limit_train_batches={logged}",
        "trainer.log_every_n_steps=1",
        "trainer.max_epochs=50",
        "callbacks.early_stopping.patience=1000",
        "test=false",
        f"hydra.run.dir={run}",
    ]
    with running(words) as process:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    size = sum(file.stat().st_size for file in run.glob("events.out.tfevents.*"))
    drawn = len(steps(run, "val/worst_errors_heat"))
    points = len(steps(run, "lr-AdamW/pg1"))
    print(f"{size / 1e6:.1f} MB with {drawn} sets of figures, {points} learning rates")
    assert drawn > 10
    assert points >= 50 * logged
    assert size < 20e6
