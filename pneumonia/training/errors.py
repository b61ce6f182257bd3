"""How the command line fails: a user's mistake with one sentence, a bug with its traceback."""

import contextlib
import errno
import functools
import os
import re
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pneumonia.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ExtraError,
    PneumoniaError,
    TrainingError,
    sentence,
)
from pneumonia.inference.export import check_export_extra
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.callbacks.graceful_shutdown import Stopped
from pneumonia.training.config import explain_unknown_key, quote_values, refuse_renamed_keys
from pneumonia.training.distributed import (
    check_strategy,
    exit_with_parent,
    is_rank_zero,
    silence_other_ranks,
)
from pneumonia.training.run_record import CONFIG_FILE, RunSummary, write_run_summary

Main = Callable[[DictConfig], float | None]

_FULL_ERROR = "HYDRA_FULL_ERROR"
_SET_HERE = "PNEUMONIA_SET_HYDRA_FULL_ERROR"  # and not by the user; inherited by other ranks
_BEFORE_CONFIG = (".hydra", "train.log", "hparams.yaml", "events.out.tfevents", "csv")
"""What lies in a run directory before the run has written its configuration."""


def check_run(config: DictConfig, sweep: bool) -> None:
    """Refuse what could not work, before anything is built or written.

    Raises:
        ConfigError: If the seed or the strategy cannot be used.
        CheckpointError: If `ckpt_path` cannot be trained further.
        ExtraError: If `export=true` needs an extra that is not installed.
    """
    check_strategy(config.trainer, sweep)
    if config.export:
        check_export_extra("export=true")
    if isinstance(config.seed, int) and not 0 <= config.seed < 2**32:
        raise ConfigError(f"seed={config.seed} must lie in 0 to {2**32 - 1}.")
    if config.ckpt_path is None or config.resume:
        return
    if "optimizer_states" not in read_checkpoint(str(config.ckpt_path)):
        raise CheckpointError(
            f"ckpt_path={config.ckpt_path} is finalized and cannot be trained further; use the"
            " last.ckpt beside it."
        )


def run(main: Callable[[], object]) -> None:
    """Run a Hydra entry point; on a user's mistake print one sentence and exit with 1.

    With `HYDRA_FULL_ERROR=1` in the environment every error keeps its traceback.
    """
    silence_other_ranks()
    exit_with_parent()
    if not _wants_traceback():
        os.environ |= {_FULL_ERROR: "1", _SET_HERE: "1"}  # else Hydra prints errors in its own way
    try:
        refuse_renamed_keys(sys.argv[1:])
        sys.argv[1:] = quote_values(sys.argv[1:])  # in place: Lightning passes them on
        main()
    except Stopped as stopped:
        if is_rank_zero():
            sys.stderr.write(f"{stopped.message}\n")
        raise
    except (KeyboardInterrupt, SystemExit) as end:
        # Lightning turns the one into the other.
        if isinstance(end, KeyboardInterrupt) or isinstance(end.__context__, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        raise
    except Exception as error:  # errors of a job end in `handle_errors`: this one is Hydra's
        if _wants_traceback():
            raise
        if not isinstance(error, (PneumoniaError, HydraException, OmegaConfBaseException)):
            error = explain_system_error(error, "the run directory") or ConfigError(
                f"the command line cannot be used ({type(error).__name__}: {sentence(error)});"
                f" look for a misspelt word in: {shlex.join(sys.argv[1:])}"
            )
        _exit_with(explain_unknown_key(error) or error)


def handle_errors(main: Main) -> Main:
    """Record how a job failed, and say a user's mistake or a full disk in one sentence.

    A job of a multirun raises the error, so that the sweep goes on.
    """

    @functools.wraps(main)
    def guard(config: DictConfig) -> float | None:
        job = HydraConfig.get()
        single = job.mode == RunMode.RUN
        directory = Path(job.runtime.output_dir)
        used = (directory / CONFIG_FILE).exists()
        try:
            return main(config)
        except Exception as error:  # noqa: BLE001  whatever it is, it is recorded
            known: Exception | None = error
            if not isinstance(error, (PneumoniaError, OmegaConfBaseException)):  # a missing key
                known = explain_system_error(error, str(directory))
            if is_rank_zero() and not used:
                if not single or (directory / CONFIG_FILE).exists():
                    with contextlib.suppress(OSError):  # such as the full disk that is reported
                        text = "".join(traceback.format_exception(known or error))
                        why = sentence(known or error)
                        failed = RunSummary(status="failed", error=why, traceback=text)
                        write_run_summary(directory, failed)
                else:
                    _remove_unused(directory)
            if not single or _wants_traceback():
                raise (known or error) from (None if known is error else error)
            if known is None:
                traceback.print_exc()
                sys.exit(1)
            _exit_with(known)

    return guard


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_MEMORY = "can't allocate memory|not enough memory|CUDA out of memory"
_WORKER = r"DataLoader worker \(pid\S* [\d, ]+\) (is killed by|exited)"
_LOST_PROCESS = (
    r"Connection (closed|reset) by peer|\[.*/gloo/|NCCL|Broken pipe|Timed out waiting|"
    "socket timeout|wait timeout"
)


def explain_system_error(error: BaseException, directory: str) -> PneumoniaError | None:
    """Say what to do about a failure of memory, disk or another process; None for a bug."""
    resume = f"Then continue with: python train.py resume=true hydra.run.dir={directory}"
    if isinstance(error, OSError) and error.errno in _DISK_FULL + _READ_ONLY:
        full = error.errno in _DISK_FULL
        advice = f"Free some space. {resume}" if full else "Choose another hydra.run.dir."
        return TrainingError(
            f"{error.filename or directory} cannot be written ({error.strerror}). {advice}"
        )

    def matches(pattern: str) -> bool:
        runtime = isinstance(error, RuntimeError)
        return runtime and re.search(pattern, sentence(error), re.IGNORECASE) is not None

    if isinstance(error, MemoryError) or matches(_MEMORY):
        return TrainingError(
            "out of memory. Halve data.batch_size and double trainer.accumulate_grad_batches, or"
            " lower data.image_size."
        )
    if matches(_WORKER):
        return DataError(
            "a DataLoader worker was killed, most often because memory ran out. Lower"
            f" data.num_workers. {resume}"
        )
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and matches(_LOST_PROCESS):
        return TrainingError(
            "another process of this run has ended; its own message says why. Without one it was"
            f" killed, most often because memory ran out. {resume}"
        )
    return None


def _wants_traceback() -> bool:
    return os.environ.get(_FULL_ERROR) == "1" and _SET_HERE not in os.environ


def _exit_with(error: BaseException) -> NoReturn:
    text = re.split("Config search path:|full_key:", sentence(error))[0].rstrip()  # Hydra's
    if isinstance(error, MissingConfigException) and "submitit" in text:
        text = str(ExtraError("hydra/launcher=slurm", "slurm"))
    sys.exit(f"Error: {text}\n({_FULL_ERROR}=1 shows the traceback.)")


def _remove_unused(directory: Path) -> None:
    """Remove the directory of a run that was refused before it started."""
    found = list(directory.iterdir()) if directory.is_dir() else []
    if found and all(entry.name.startswith(_BEFORE_CONFIG) for entry in found):
        shutil.rmtree(directory, ignore_errors=True)
