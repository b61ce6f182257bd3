"""Around the command line: a user's mistake ends in one sentence, a bug in its traceback."""

import os
import sys
from collections.abc import Callable

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pneumonia.errors import ConfigError, PneumoniaError, sentence
from pneumonia.model.checkpoint import read_checkpoint

_SHOW_TRACEBACK = "HYDRA_FULL_ERROR"


def run(main: Callable[[], object]) -> None:
    """Run a Hydra entry point; on a user's mistake print one sentence and exit with 1.

    With `HYDRA_FULL_ERROR=1` in the environment everything keeps its traceback.

    Args:
        main: The function that `hydra.main` decorated.
    """
    if os.environ.get(_SHOW_TRACEBACK, "0") == "1":
        main()
        return
    # Hydra prints a digest of its own and exits unless told to raise.
    os.environ[_SHOW_TRACEBACK] = "1"
    try:
        main()
    except (PneumoniaError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"Error: {sentence(error)}\n({_SHOW_TRACEBACK}=1 shows the traceback.)")
    finally:
        del os.environ[_SHOW_TRACEBACK]


def refuse_impossible(config: DictConfig, sweep: bool) -> None:
    """Refuse what could not work, before anything is built or written.

    Args:
        config: The composed configuration.
        sweep: Whether this is one job of a multirun.

    Raises:
        ConfigError: If a sweep would start further processes, each of which would be a sweep.
        CheckpointError: If the checkpoint to resume is missing or is not one.
    """
    strategy = str(config.trainer.get("strategy", "auto"))
    if sweep and strategy.startswith("ddp"):
        raise ConfigError(
            f"a multirun with trainer.strategy={strategy} would start a whole sweep in each"
            " process; sweep with one device for each job, or run the jobs one by one."
        )
    if config.ckpt_path is not None:
        read_checkpoint(config.ckpt_path)
