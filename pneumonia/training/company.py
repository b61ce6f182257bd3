"""How a run ends when one of its processes fails: soon, and in one sentence."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from pneumonia.errors import TrainingError
from pneumonia.training.closing import record_failure
from pneumonia.training.processes import first, rank

_LOST = re.compile(
    r"Connection (closed|reset) by peer|\[.*/gloo/|NCCL|Broken pipe|Timed out waiting|"
    r"[Ss]ocket [Tt]imeout|wait timeout"
)
_KEY = "pneumonia/failure"
_ANSWER = timedelta(seconds=5)
_PATIENCE = 20.0
"""Seconds in which a process mostly hears of the end of another by itself."""


class LostError(TrainingError):
    """Another process of the run is gone.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(
            "another process of this run is gone, killed by the system (most often because memory"
            " ran out) or cut off from the network. Go on with: python train.py resume=true"
            f" hydra.run.dir={directory}"
        )


def is_lost(error: BaseException) -> bool:
    """Whether an error only says that another process can no longer be reached."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return together and isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))


def tell(words: str, lost: bool = False) -> str | None:
    """Tell the other processes why this one fails, unless one of them failed before.

    The process that fails first is the one that knows why; the others only lose touch with it.

    Args:
        words: What to say.
        lost: Whether that is only that another one is gone.

    Returns:
        None if this process is the one to say it to the user. Else what another one has said;
        empty if that is no longer known.
    """
    address, port = (os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not address or not port:
        return None
    mine = f"{rank()} {words}"
    key = f"{_KEY}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            address, int(port), is_master=False, timeout=_ANSWER, wait_for_workers=False
        )
        said = store.compare_set(key, "", mine).decode()
    except RuntimeError:  # the store ended with the first process, which had its say
        return "" if lost and not first() else None
    return None if said == mine else said.partition(" ")[2]


def end_with_the_first() -> None:
    """Of processes that train together, the others would wait half an hour for a killed one."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.environ.get("LOCAL_RANK", "0") != "0":
        threading.Thread(target=watch, daemon=True).start()


class Company(Callback):
    """End the first process if one of those that it started has failed.

    Mostly it hears of that by itself. Where it waits for a GPU it may not; Lightning would then
    kill it, too, without a word.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over from Lightning's watch."""
        started = getattr(trainer.strategy.launcher, "procs", [])
        if stage == "fit" and started:
            for thread in threading.enumerate():
                if thread.name == "child-process-observer":
                    thread._child_processes = []  # type: ignore[attr-defined]  # noqa: SLF001
            threading.Thread(target=self._watch, args=[started], daemon=True).start()

    def _watch(self, started: Sequence[subprocess.Popen[bytes]]) -> None:
        while not any(process.poll() for process in started):
            time.sleep(1)
        time.sleep(_PATIENCE)
        lost = LostError(str(self.directory))
        heard = tell(str(lost), lost=True)
        record_failure(self.directory, TrainingError(heard) if heard else lost)
        if heard is None:
            sys.stderr.write(f"Error: {lost}\n")
        for process in started:
            process.kill()
        os._exit(1)
