"""The processes that train one model together: which of them speaks, and what they cannot do."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from lightning import Trainer
from lightning.pytorch.accelerators import CPUAccelerator

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import ConfigError

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Of torchrun, of Lightning's own processes, of srun."""

_STRATEGIES = (
    "auto",
    "single_device",
    "ddp",
    "ddp_find_unused_parameters_false",
    "ddp_find_unused_parameters_true",
)


def rank() -> int:
    """Number of this process among those that train together; known before anything is built."""
    return int(next((os.environ[name] for name in _RANKS if name in os.environ), 0))


def is_rank_zero() -> bool:
    """Whether this is the process that speaks and writes."""
    return rank() == 0


def detect_launcher() -> tuple[str, int]:
    """What started this process, `torchrun`, `srun` or nothing, and how many it started."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun", int(os.environ["WORLD_SIZE"])
    return "srun", int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def log_handlers() -> list[str]:
    """Where Hydra sends the log of this process: `console` and `file`, or `nowhere`."""
    return ["console", "file"] if is_rank_zero() else ["nowhere"]


def output_subdir() -> str | None:
    """Where Hydra keeps its own notes; None for all processes but the first."""
    return ".hydra" if is_rank_zero() else None


def silence_other_ranks() -> None:
    """Keep all processes but the first from repeating what that one says."""
    if not is_rank_zero():
        logging.captureWarnings(True)  # to the log, which goes nowhere
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)


def check_strategy(trainer: Mapping[str, Any], sweep: bool) -> None:
    """Refuse what several processes could not do, before anything is built.

    Args:
        trainer: The configuration of the Trainer.
        sweep: Whether this is one job of a multirun.

    Raises:
        ConfigError: If a sweep would run in several processes, each of which would be a sweep;
            or if the strategy is not one of those that are tested.
    """
    strategy, devices = trainer.get("strategy", "auto"), trainer.get("devices", 1)
    nodes, (tool, started) = trainer.get("num_nodes", 1), detect_launcher()
    advice = "sweep with one device for each job, or run the jobs one by one."
    if sweep and started > 1:
        raise ConfigError(
            f"a multirun in the {started} processes that {tool} started would be {started} sweeps;"
            f" {advice}"
        )
    if sweep and (strategy not in ("auto", "single_device") or devices != 1 or nodes != 1):
        raise ConfigError(
            f"a multirun with trainer.strategy={strategy} trainer.devices={devices} would start a"
            f" whole sweep in each process; {advice}"
        )
    if isinstance(strategy, str) and strategy not in _STRATEGIES:
        raise ConfigError(
            f"trainer.strategy={strategy} is not supported: the networks here fit on one device and"
            f" their checkpoints are whole; use ddp, or one of {', '.join(_STRATEGIES)}."
        )


def check_devices(
    trainer: Trainer, settings: Mapping[str, Any], datamodule: ChestXrayDataModule
) -> None:
    """Check that the processes can share out the work, before they are started.

    Args:
        trainer: Before its fit.
        settings: The configuration it was built from.
        datamodule: Whose batches are shared out.

    Raises:
        ConfigError: If not.
    """
    count = trainer.num_nodes * trainer.num_devices
    product = (
        f"trainer.num_nodes={trainer.num_nodes} x {trainer.num_devices} devices are"
        f" {count} process{'es' if count > 1 else ''}"
    )
    tool, started = detect_launcher()
    if started not in (1, count):
        raise ConfigError(
            f"{tool} started {started} processes, and {product}; set trainer=ddp trainer.num_nodes"
            f" and trainer.devices (those of each machine) to make {started}."
        )
    if trainer.num_nodes > 1 and started == 1:
        raise ConfigError(
            f"{product}, and nothing started them on each machine; start them with torchrun or"
            " srun: README, Several GPUs and machines."
        )
    if count == 1:
        return
    if datamodule.batch_size % count:
        raise ConfigError(
            f"data.batch_size={datamodule.batch_size} is global and cannot be divided over"
            f" {count} processes; use a multiple of {count}."
        )
    if settings.get("sync_batchnorm") and isinstance(trainer.accelerator, CPUAccelerator):
        raise ConfigError(
            "trainer.sync_batchnorm=true needs GPUs, and trainer.accelerator is cpu; leave it"
            " false."
        )
    if settings.get("use_distributed_sampler"):
        raise ConfigError(
            "trainer.use_distributed_sampler must be false: the data module divides the"
            " images over the processes itself."
        )
    if settings.get("overfit_batches"):
        raise ConfigError(
            f"trainer.overfit_batches={settings['overfit_batches']} would show every process the"
            " same images; use it with one device."
        )
