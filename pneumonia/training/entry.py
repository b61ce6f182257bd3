"""Around the command line: a user's mistake ends in one sentence, a bug in its traceback."""

import functools
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pneumonia.errors import (
    CheckpointError,
    ConfigError,
    ExtraError,
    PneumoniaError,
    TrainingError,
    sentence,
)
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.closing import record_failure
from pneumonia.training.company import LostError, end_with_the_first, tell
from pneumonia.training.mishap import explain
from pneumonia.training.processes import first, hush, refuse_strategy
from pneumonia.training.record import CONFIG_FILE
from pneumonia.training.stop import Stopped

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


def guarded(main: Main) -> Main:
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
                mishap = explain(error, str(directory), config)
                if mishap is None:
                    tell(f"{type(error).__name__}: {sentence(error)}")
                    raise
                known, cause = mishap, error
            if job.mode == RunMode.RUN:
                heard = tell(sentence(known), isinstance(known, LostError))
                known = TrainingError(heard) if heard else known
                if not held and (directory / CONFIG_FILE).exists() and first():
                    record_failure(directory, known)
                _remove_unclaimed(directory)
                if _Hydra.told:
                    raise _Carried(known, said=heard is not None) from error
            raise known from cause

    return guard


def run(main: Callable[[], object]) -> None:
    """Run a Hydra entry point; on a user's mistake print one sentence and exit with 1.

    With `HYDRA_FULL_ERROR=1` in the environment everything keeps its traceback. The codes of a
    run that was asked to stop are in `pneumonia.training.stop`.

    Args:
        main: The function that `hydra.main` decorated, of a `guarded` one.
    """
    hush()
    end_with_the_first()
    if os.environ.get(_SHOW_TRACEBACK, "0") == "1":
        main()
        return
    try:
        with _Hydra.raises():
            main()
    except _Carried as carried:
        _refuse(carried.error, said=carried.said)
    except (PneumoniaError, HydraException, OmegaConfBaseException) as error:
        _refuse(error, said=tell(sentence(error)) is not None)
    except Exception as error:
        if _Hydra.job_began:
            raise
        _refuse(explain(error, "the run directory", None) or _unnamed(error))  # from composing
    except Stopped as stopped:
        if first():
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
    found = list(directory.iterdir()) if directory.is_dir() and first() else []
    if found and all(entry.name.startswith(_BEFORE_THE_RECORD) for entry in found):
        shutil.rmtree(directory, ignore_errors=True)


def refuse_impossible(config: DictConfig, sweep: bool) -> None:
    """Refuse what could not work, before anything is built or written.

    Args:
        config: The composed configuration.
        sweep: Whether this is one job of a multirun.

    Raises:
        ConfigError: If a sweep would start further processes, each of which would be a sweep, or
            if the seed or the strategy is none.
        CheckpointError: If the checkpoint to resume is missing or is not one.
    """
    refuse_strategy(config.trainer, sweep)
    if isinstance(config.seed, int) and not 0 <= config.seed <= _MOST_SEED:
        raise ConfigError(f"seed={config.seed} must lie in 0 to {_MOST_SEED}.")
    if config.ckpt_path is not None and not config.resume:
        checkpoint = read_checkpoint(config.ckpt_path)
        if "optimizer_states" not in checkpoint:
            raise CheckpointError(
                f"{config.ckpt_path} is sealed for use and cannot be trained on; resume from the"
                " last.ckpt beside it."
            )
