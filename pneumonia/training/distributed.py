"""The processes that train one model together: who writes and logs, what they cannot do."""

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from lightning import Trainer

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import ConfigError

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # of torchrun, Lightning and srun
_STRATEGIES = ("auto", "single_device", "ddp", "ddp_find_unused_parameters_true")


def is_rank_zero() -> bool:
    """Whether this is the process that logs and writes; known before anything is built."""
    return int(next((os.environ[name] for name in _RANKS if name in os.environ), 0)) == 0


def detect_launcher() -> tuple[str, int]:
    """What started this process, `torchrun` or `srun`, and how many processes it started."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun", int(os.environ["WORLD_SIZE"])
    return "srun", int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def silence_other_ranks() -> None:
    """Keep processes other than rank zero from repeating what it logs."""
    if not is_rank_zero():
        logging.captureWarnings(True)  # they go to the log, which has no handler here
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)


def exit_with_parent() -> None:
    """End this process soon after the one that started it, if Lightning started it.

    A process that waits for a killed one on a GPU would otherwise stay until NCCL's timeout.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.environ.get("LOCAL_RANK", "0") != "0":
        threading.Thread(target=watch, daemon=True).start()


def check_strategy(trainer: Mapping[str, Any], sweep: bool) -> None:
    """Refuse strategies that are not supported, before anything is built.

    Raises:
        ConfigError: If the strategy was never tested, or a multirun would use several processes.
    """
    strategy, devices = trainer.get("strategy", "auto"), trainer.get("devices", 1)
    several = strategy not in ("auto", "single_device") or devices != 1
    tool, started = detect_launcher()
    if sweep and (several or started > 1 or trainer.get("num_nodes", 1) != 1):
        by = f" that {tool} started" if started > 1 else ""
        raise ConfigError(
            f"with trainer.strategy={strategy} trainer.devices={devices} each process{by} would"
            " run the whole multirun. Give each job one device, or run the jobs one by one."
        )
    if isinstance(strategy, str) and strategy not in _STRATEGIES:
        raise ConfigError(
            f"trainer.strategy={strategy} is not supported; expected one of"
            f" {', '.join(_STRATEGIES)}."
        )


def check_devices(
    trainer: Trainer, settings: Mapping[str, Any], datamodule: ChestXrayDataModule
) -> None:
    """Check that the processes of a Trainer can divide the work, before they are started.

    Raises:
        ConfigError: If a setting does not fit the number of processes.
    """
    count = trainer.num_nodes * trainer.num_devices
    tool, started = detect_launcher()
    if started not in (1, count) or (trainer.num_nodes > 1 and started == 1):
        by = f"{tool} started {started}" if started > 1 else "neither torchrun nor srun started any"
        raise ConfigError(
            f"trainer.num_nodes={trainer.num_nodes} x {trainer.num_devices} devices need {count}"
            f" processes, but {by}. conf/trainer/ddp.yaml shows how to start them."
        )
    if count > 1 and datamodule.batch_size % count:
        raise ConfigError(
            f"data.batch_size={datamodule.batch_size} counts the images of all processes and"
            f" cannot be divided by {count}; use a multiple of {count}."
        )
    if count > 1 and settings.get("overfit_batches"):
        raise ConfigError(
            f"trainer.overfit_batches={settings['overfit_batches']} would give all {count}"
            " processes the same images; use one device."
        )
    if count > 1 and settings.get("use_distributed_sampler"):
        raise ConfigError(
            "trainer.use_distributed_sampler must be false: the data module divides the images"
            " over the processes itself."
        )
