"""Around the command line: a user's mistake ends in one sentence, a bug in its traceback."""

import errno
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from lightning import Callback, LightningModule, Trainer
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
from pneumonia.training.config import refuse_renamed_keys
from pneumonia.training.distributed import check_strategy, is_rank_zero, rank, silence_other_ranks
from pneumonia.training.run_record import CONFIG_FILE, record_failure

_LOST = re.compile(
    r"Connection (closed|reset) by peer|\[.*/gloo/|NCCL|Broken pipe|Timed out waiting|"
    r"[Ss]ocket [Tt]imeout|wait timeout"
)
_KEY = "pneumonia/failure"
_ANSWER = timedelta(seconds=5)
_PATIENCE = 20.0
"""Seconds in which a process mostly hears of the end of another by itself."""


class ProcessLostError(TrainingError):
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


def is_process_lost(error: BaseException) -> bool:
    """Whether an error only says that another process can no longer be reached."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return together and isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))


def report_first_failure(words: str, lost: bool = False) -> str | None:
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
        return "" if lost and not is_rank_zero() else None
    return None if said == mine else said.partition(" ")[2]


def exit_with_rank_zero() -> None:
    """Of processes that train together, the others would wait half an hour for a killed one."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.environ.get("LOCAL_RANK", "0") != "0":
        threading.Thread(target=watch, daemon=True).start()


class ProcessWatch(Callback):
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
        lost = ProcessLostError(str(self.directory))
        heard = report_first_failure(str(lost), lost=True)
        record_failure(self.directory, TrainingError(heard) if heard else lost)
        if heard is None:
            sys.stderr.write(f"Error: {lost}\n")
        for process in started:
            process.kill()
        os._exit(1)


_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|CUDA out of memory", re.IGNORECASE
)
_NO_WORKER = re.compile(r"DataLoader worker \(pid\S* [\d, ]+\) (is killed by|exited)")
_UNUSED = "Expected to have finished reduction in the prior iteration"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


def explain_system_error(  # noqa: PLR0911  one answer for each kind of mishap
    error: BaseException, directory: str, config: DictConfig | None
) -> PneumoniaError | None:
    """A mishap as an error that a user can mend.

    Args:
        error: Whatever ended the run.
        directory: Of the run.
        config: Its configuration, where it got that far.

    Returns:
        None if it is no known mishap, but probably a bug.
    """
    text = sentence(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(text)
    ):
        return TrainingError(
            f"out of memory with {_present(config, 'data.batch_size')},"
            f" {_present(config, 'data.image_size')} and"
            f" {_present(config, 'trainer.accumulate_grad_batches')}; halve the first and double"
            " the last, which trains on as many images a step, or lower the second."
        )
    if isinstance(error, RuntimeError) and _NO_WORKER.search(text):
        return DataError(
            f"a data worker died ({_first_clause(text)}), most often because memory ran out;"
            f" lower {_present(config, 'data.num_workers')}, 0 reads in the process itself."
            f" {_resume(directory)}"
        )
    if isinstance(error, RuntimeError) and _UNUSED in text:
        return ConfigError(
            f"some weights of {_present(config, 'model.backbone')} take no part in the loss, which"
            " trainer.strategy=ddp does not expect; set"
            " trainer.strategy=ddp_find_unused_parameters_true, which is slower."
        )
    if is_process_lost(error):
        return ProcessLostError(directory)
    if isinstance(error, OSError) and error.errno in _FULL:
        return TrainingError(
            f"no space is left to write {error.filename or directory} ({error.strerror}); free"
            f" some. {_resume(directory)}"
        )
    if isinstance(error, OSError) and error.errno in _CLOSED:
        return TrainingError(
            f"{error.filename or directory} cannot be written ({error.strerror}); give a folder"
            " that can by hydra.run.dir=DIR."
        )
    return None


def _present(config: DictConfig | None, key: str) -> str:
    value = None if config is None else OmegaConf.select(config, key)
    return f"{key}={'null' if value is None else value}"


def _first_clause(text: str) -> str:
    return text.partition(". ")[0]


def _resume(directory: str) -> str:
    return f"Then go on with: python train.py resume=true hydra.run.dir={directory}"


_SHOW_TRACEBACK = "HYDRA_FULL_ERROR"
_MOST_SEED = 2**32 - 1

_APPENDICES = ("Config search path:", "full_key:")
"""What Hydra and OmegaConf put behind their sentence."""

_BEFORE_THE_RECORD = (".hydra", "train.log", "hparams.yaml", "events.out.tfevents")
"""What lies in a run directory before the run has claimed it."""

Main = Callable[[DictConfig], float | None]


class _Carried(BaseException):
    """Takes a user's mistake past Hydra, which would print words of its own first."""

    def __init__(self, error: PneumoniaError, *, said: bool) -> None:
        super().__init__()
        self.error = error
        self.said = said
        """Whether another process has told the user."""


class _Hydra:
    """Whether Hydra was told to raise errors; else it prints a digest of its own and exits."""

    told = False
    job_began = False

    @classmethod
    @contextmanager
    def raises(cls) -> Iterator[None]:
        os.environ[_SHOW_TRACEBACK] = "1"
        cls.told, cls.job_began = True, False
        try:
            yield
        finally:
            cls.told = False
            os.environ.pop(_SHOW_TRACEBACK, None)

    @classmethod
    @contextmanager
    def job(cls) -> Iterator[None]:
        """Processes that a job starts must find the environment that the user gave."""
        cls.job_began = True
        if cls.told:
            os.environ.pop(_SHOW_TRACEBACK, None)
        try:
            yield
        finally:
            if cls.told:
                os.environ[_SHOW_TRACEBACK] = "1"


def handle_errors(main: Main) -> Main:
    """Turn mishaps of the machine into errors that say how to go on, and tidy up after a refusal.

    Args:
        main: The function that `hydra.main` is to decorate.
    """

    @functools.wraps(main)
    def guard(config: DictConfig) -> float | None:
        job = HydraConfig.get()
        directory = Path(job.runtime.output_dir)
        held = (directory / CONFIG_FILE).exists()
        try:
            with _Hydra.job():
                return main(config)
        except Exception as error:
            if isinstance(error, PneumoniaError):
                known, cause = error, error.__cause__
            else:
                mishap = explain_system_error(error, str(directory), config)
                if mishap is None:
                    report_first_failure(f"{type(error).__name__}: {sentence(error)}")
                    raise
                known, cause = mishap, error
            if job.mode == RunMode.RUN:
                heard = report_first_failure(sentence(known), isinstance(known, ProcessLostError))
                known = TrainingError(heard) if heard else known
                if not held and (directory / CONFIG_FILE).exists() and is_rank_zero():
                    record_failure(directory, known)
                _remove_unclaimed(directory)
                if _Hydra.told:
                    raise _Carried(known, said=heard is not None) from error
            raise known from cause

    return guard


def run(main: Callable[[], object]) -> None:
    """Run a Hydra entry point; on a user's mistake print one sentence and exit with 1.

    With `HYDRA_FULL_ERROR=1` in the environment everything keeps its traceback. The codes of a
    run that was asked to stop are in `pneumonia.training.callbacks.graceful_shutdown`.

    Args:
        main: The function that `hydra.main` decorated, of a `guarded` one.
    """
    silence_other_ranks()
    exit_with_rank_zero()
    if os.environ.get(_SHOW_TRACEBACK, "0") == "1":
        main()
        return
    try:
        with _Hydra.raises():
            refuse_renamed_keys(sys.argv[1:])
            main()
    except _Carried as carried:
        _refuse(carried.error, said=carried.said)
    except (PneumoniaError, HydraException, OmegaConfBaseException) as error:
        _refuse(error, said=report_first_failure(sentence(error)) is not None)
    except Exception as error:
        if _Hydra.job_began:
            raise
        _refuse(
            explain_system_error(error, "the run directory", None) or _unnamed(error)
        )  # from composing
    except Stopped as stopped:
        if is_rank_zero():
            sys.stderr.write(f"{stopped.sentence}\n")
        raise
    except (KeyboardInterrupt, SystemExit) as end:
        # Lightning turns the one into the other.
        if isinstance(end, KeyboardInterrupt) or isinstance(end.__context__, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        raise


def _refuse(error: BaseException, *, said: bool = False) -> NoReturn:
    if said:
        sys.exit(1)
    text = sentence(error)
    for appendix in _APPENDICES:
        text = text.partition(appendix)[0].rstrip()
    if isinstance(error, MissingConfigException) and "submitit" in text:
        text = str(ExtraError("hydra/launcher=slurm", "slurm"))
    sys.exit(f"Error: {text}\n({_SHOW_TRACEBACK}=1 shows the traceback.)")


def _unnamed(error: Exception) -> ConfigError:
    """Hydra does not say which group cannot be null, nor much of a line it cannot take apart."""
    nulls = [word for word in sys.argv[1:] if word.endswith("=null")]
    if isinstance(error, (ValueError, OSError)):
        return ConfigError(f"{', '.join(nulls) or 'the command line'}: {sentence(error)}")
    return ConfigError(
        f"the command line cannot be understood ({type(error).__name__} in Hydra); look for a"
        f" misspelt word in: {shlex.join(sys.argv[1:])}"
    )


def _remove_unclaimed(directory: Path) -> None:
    """Remove the directory of a run that never began."""
    found = list(directory.iterdir()) if directory.is_dir() and is_rank_zero() else []
    if found and all(entry.name.startswith(_BEFORE_THE_RECORD) for entry in found):
        shutil.rmtree(directory, ignore_errors=True)


def check_run(config: DictConfig, sweep: bool) -> None:
    """Refuse what could not work, before anything is built or written.

    Args:
        config: The composed configuration.
        sweep: Whether this is one job of a multirun.

    Raises:
        ConfigError: If a sweep would start further processes, each of which would be a sweep, or
            if the seed or the strategy is none.
        CheckpointError: If the checkpoint to resume is missing or is not one.
    """
    check_strategy(config.trainer, sweep)
    if isinstance(config.seed, int) and not 0 <= config.seed <= _MOST_SEED:
        raise ConfigError(f"seed={config.seed} must lie in 0 to {_MOST_SEED}.")
    if config.ckpt_path is not None and not config.resume:
        checkpoint = read_checkpoint(config.ckpt_path)
        if "optimizer_states" not in checkpoint:
            raise CheckpointError(
                f"{config.ckpt_path} is sealed for use and cannot be trained on; resume from the"
                " last.ckpt beside it."
            )
