"""Around the command line: a user's mistake ends in one sentence, a bug in its traceback."""

import os
import sys
from collections.abc import Callable

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pneumonia.errors import CheckpointError, ConfigError, PneumoniaError, sentence
from pneumonia.model.checkpoint import read_checkpoint

_SHOW_TRACEBACK = "HYDRA_FULL_ERROR"
_MOST_SEED = 2**32 - 1

_APPENDICES = ("Config search path:", "full_key:")
"""What Hydra and OmegaConf put behind their sentence."""


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
        text = sentence(error)
        for appendix in _APPENDICES:
            text = text.partition(appendix)[0].rstrip()
        if isinstance(error, MissingConfigException) and "submitit" in text:
            text = (
                "hydra/launcher=slurm needs its plugin: pip install 'pneumonia[slurm]', in a"
                " checkout pip install -e '.[slurm]'."
            )
        sys.exit(f"Error: {text}\n({_SHOW_TRACEBACK}=1 shows the traceback.)")
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
    strategy, devices = config.trainer.get("strategy", "auto"), config.trainer.get("devices", 1)
    if sweep and (strategy not in ("auto", "single_device") or devices != 1):
        raise ConfigError(
            f"a multirun with trainer.strategy={strategy} trainer.devices={devices} would start a"
            " whole sweep in each process; sweep with one device for each job, or run the jobs"
            " one by one."
        )
    if isinstance(config.seed, int) and not 0 <= config.seed <= _MOST_SEED:
        raise ConfigError(f"seed={config.seed} must lie in 0 to {_MOST_SEED}.")
    if config.ckpt_path is not None:
        checkpoint = read_checkpoint(config.ckpt_path)
        if "optimizer_states" not in checkpoint:
            raise CheckpointError(
                f"{config.ckpt_path} is sealed for use and cannot be trained on; resume from the"
                " last.ckpt beside it."
            )
