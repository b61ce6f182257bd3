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
from omegaconf import DictConfig, OmegaConf
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
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.callbacks.graceful_shutdown import Stopped
from pneumonia.training.config import explain_unknown_key, refuse_renamed_keys
from pneumonia.training.distributed import (
    check_strategy,
    exit_with_parent,
    is_rank_zero,
    silence_other_ranks,
)
from pneumonia.training.run_record import CONFIG_FILE, record_failure

Main = Callable[[DictConfig], float | None]

_FULL_ERROR = "HYDRA_FULL_ERROR"
_SET_HERE = "PNEUMONIA_SET_HYDRA_FULL_ERROR"
"""Tells this process, and those it starts, that the user did not set `HYDRA_FULL_ERROR`."""

_MAX_SEED = 2**32 - 1
_APPENDICES = ("Config search path:", "full_key:")
"""What Hydra and OmegaConf append to their sentence."""

_BEFORE_CONFIG = (".hydra", "train.log", "hparams.yaml", "events.out.tfevents")
"""What lies in a run directory before the run has written its configuration."""


def check_run(config: DictConfig, sweep: bool) -> None:
    """Refuse what could not work, before anything is built or written.

    Args:
        config: The composed configuration.
        sweep: Whether this is one job of a multirun.

    Raises:
        ConfigError: If the seed or the strategy cannot be used.
        CheckpointError: If `ckpt_path` cannot be trained further.
    """
    check_strategy(config.trainer, sweep)
    if isinstance(config.seed, int) and not 0 <= config.seed <= _MAX_SEED:
        raise ConfigError(f"seed={config.seed} must lie in 0 to {_MAX_SEED}.")
    if config.ckpt_path is None or config.resume:
        return
    if "optimizer_states" not in read_checkpoint(config.ckpt_path):
        raise CheckpointError(
            f"ckpt_path={config.ckpt_path} is finalized and cannot be trained further; use the"
            " last.ckpt beside it."
        )


def run(main: Callable[[], object]) -> None:
    """Run a Hydra entry point; on a user's mistake print one sentence and exit with 1.

    With `HYDRA_FULL_ERROR=1` in the environment every error keeps its traceback. The exit codes
    of a run that was asked to stop are in `pneumonia.training.callbacks.graceful_shutdown`.

    Args:
        main: The function that `hydra.main` decorated, of one decorated by `handle_errors`.
    """
    silence_other_ranks()
    exit_with_parent()
    if not _wants_traceback():
        os.environ |= {_FULL_ERROR: "1", _SET_HERE: "1"}  # else Hydra prints a digest of its own
    try:
        refuse_renamed_keys(sys.argv[1:])
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
    except Exception as error:  # of a job they end in `handle_errors`: this is from Hydra
        if _wants_traceback():
            raise
        known = isinstance(error, (PneumoniaError, HydraException, OmegaConfBaseException))
        system = explain_system_error(error, "the run directory", None)
        unknown_key = explain_unknown_key(error)
        _exit_with(unknown_key or (error if known else system or _unparsed(error)))


def handle_errors(main: Main) -> Main:
    """Record how a job failed, and say a user's mistake or a full disk in one sentence.

    A job of a multirun raises the error, so that the sweep goes on.

    Args:
        main: The function that `hydra.main` is to decorate.
    """

    @functools.wraps(main)
    def guard(config: DictConfig) -> float | None:
        job = HydraConfig.get()
        directory = Path(job.runtime.output_dir)
        used = (directory / CONFIG_FILE).exists()
        try:
            return main(config)
        except Exception as error:  # noqa: BLE001  whatever it is, it is recorded
            known: Exception | None = error
            if not isinstance(error, (PneumoniaError, OmegaConfBaseException)):  # a missing key
                known = explain_system_error(error, str(directory), config)
            single = job.mode == RunMode.RUN
            if is_rank_zero():
                started = (directory / CONFIG_FILE).exists()
                if not used and (started or not single):
                    with contextlib.suppress(OSError):  # such as the full disk that is reported
                        record_failure(directory, known or error)
                elif single:
                    _remove_unused(directory)
            if not single or _wants_traceback():
                raise (known or error) from (None if known is error else error)
            if known is None:
                traceback.print_exc()
                sys.exit(1)
            _exit_with(known)

    return guard


def explain_system_error(  # noqa: PLR0911  one answer for each kind
    error: BaseException, directory: str, config: DictConfig | None
) -> PneumoniaError | None:
    """Explain a failure of memory, disk or another process.

    Args:
        error: Whatever ended the run.
        directory: The run directory.
        config: Its configuration, if it got that far.

    Returns:
        An error that says what to do; None if the error is probably a bug.
    """

    def given(key: str) -> str:
        return f"{key}={None if config is None else OmegaConf.select(config, key)}"

    text = sentence(error)
    resume = f"Then continue with: python train.py resume=true hydra.run.dir={directory}"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(text)
    ):
        return TrainingError(
            f"out of memory with {given('data.batch_size')}, {given('data.image_size')} and"
            f" {given('trainer.accumulate_grad_batches')}. Halve the first and double the last, or"
            " lower the image size."
        )
    if isinstance(error, RuntimeError) and (died := _DEAD_WORKER.search(text)):
        return DataError(
            f"{died[0]} the system, most often because memory ran out. Lower"
            f" {given('data.num_workers')}. {resume}"
        )
    if isinstance(error, RuntimeError) and _UNUSED_WEIGHTS in text:
        return ConfigError(
            f"some weights of {given('model.backbone')} have no gradient. Set"
            " trainer.strategy=ddp_find_unused_parameters_true, which is slower."
        )
    if isinstance(error, RuntimeError) and _LOST_PROCESS.search(text) and _is_distributed():
        return TrainingError(
            "another process of this run has ended; its own message says why. Without one it was"
            f" killed, most often because memory ran out. {resume}"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TrainingError(
            f"{error.filename or directory} cannot be written ({error.strerror}). Free some space."
            f" {resume}"
        )
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return TrainingError(
            f"{error.filename or directory} cannot be written ({error.strerror}). Choose another"
            " folder: hydra.run.dir=DIR"
        )
    return None


_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|CUDA out of memory", re.IGNORECASE
)
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid\S* [\d, ]+\) (is killed by|exited)")
_UNUSED_WEIGHTS = "Expected to have finished reduction in the prior iteration"
_LOST_PROCESS = re.compile(
    r"Connection (closed|reset) by peer|\[.*/gloo/|NCCL|Broken pipe|Timed out waiting|"
    r"[Ss]ocket [Tt]imeout|wait timeout"
)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _wants_traceback() -> bool:
    return os.environ.get(_FULL_ERROR) == "1" and _SET_HERE not in os.environ


def _exit_with(error: BaseException) -> NoReturn:
    text = sentence(error)
    for appendix in _APPENDICES:
        text = text.partition(appendix)[0].rstrip()
    if isinstance(error, MissingConfigException) and "submitit" in text:
        text = str(ExtraError("hydra/launcher=slurm", "slurm"))
    sys.exit(f"Error: {text}\n({_FULL_ERROR}=1 shows the traceback.)")


def _unparsed(error: Exception) -> ConfigError:
    """Hydra does not say which group cannot be null, nor which word it cannot parse."""
    nulls = [word for word in sys.argv[1:] if word.endswith("=null")]
    if isinstance(error, (ValueError, OSError)):
        return ConfigError(f"{', '.join(nulls) or 'the command line'}: {sentence(error)}")
    return ConfigError(
        f"the command line cannot be parsed ({type(error).__name__} in Hydra); look for a misspelt"
        f" word in: {shlex.join(sys.argv[1:])}"
    )


def _remove_unused(directory: Path) -> None:
    """Remove the directory of a run that was refused before it started."""
    found = list(directory.iterdir()) if directory.is_dir() else []
    if found and all(entry.name.startswith(_BEFORE_CONFIG) for entry in found):
        shutil.rmtree(directory, ignore_errors=True)
