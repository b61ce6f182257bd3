"""Loader processes ignore signals from outside, and end with the training process."""

import os
import signal
import subprocess
import time

import psutil
import pytest
from torch.utils.data import DataLoader

from pneumonia.data.parallel import init_worker

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="needs sigwaitinfo")


@pytest.fixture
def loader():
    loader = DataLoader(
        range(8), num_workers=1, persistent_workers=True, worker_init_fn=init_worker
    )
    next(iter(loader))
    return loader


def only_worker():
    (worker,) = (c for c in psutil.Process().children() if c.name().startswith("pt_data_worker"))
    return worker


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_from_another_process_is_ignored(loader, number):
    worker = only_worker()
    subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
    time.sleep(0.2)
    assert worker.is_running()
    assert len(list(loader)) == 8
    worker.terminate()
    worker.wait(5)


def test_sigterm_from_the_training_process_ends_it(loader):
    worker = only_worker()
    os.kill(worker.pid, signal.SIGTERM)
    worker.wait(5)
