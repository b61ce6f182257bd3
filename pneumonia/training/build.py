"""Configuration -> data module, model and Trainer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.errors import InstantiationException
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import ConfigError, sentence
from pneumonia.model.classifier import PneumoniaClassifier
from pneumonia.training.checkpoint import WholeCheckpoints
from pneumonia.training.company import Company
from pneumonia.training.continuation import Continuation
from pneumonia.training.divergence import Divergence
from pneumonia.training.preflight import Preflight
from pneumonia.training.processes import check_devices, launched
from pneumonia.training.record import RunRecord
from pneumonia.training.reseed import Reseed
from pneumonia.training.schema import check
from pneumonia.training.start import Start
from pneumonia.training.stop import Stop
from pneumonia.training.throughput import Throughput

_LIGHTNING_REFUSALS = (ValueError, TypeError, ImportError, MisconfigurationException)


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    datamodule: ChestXrayDataModule
    model: PneumoniaClassifier
    trainer: Trainer


def build(
    config: DictConfig, run_directory: str | Path, test: bool = False, start: Start | None = None
) -> Parts:
    """Build the parts of a run from its configuration.

    Args:
        config: The composed configuration.
        run_directory: Where the run's record is written.
        test: Whether the test split will be opened after the fit.
        start: What the run starts with, if that is more than its configuration.

    Raises:
        PneumoniaError: If a setting is unknown, of the wrong type, or cannot be met.
    """
    settings = plain(config)
    check(settings)
    callbacks = [
        Company(run_directory),
        Preflight(
            config.evaluation.operating_point,
            config.evaluation.target,
            test,
            config.evaluation.abstention_error,
        ),
        _record(run_directory, settings | {"test": test}, start),
        Reseed(config.seed),
        Divergence(),
        Throughput(),
        Continuation(),
        *_named("callbacks", config, Callback),
        Stop(),  # after whatever changes the model at the end of a step
    ]
    datamodule = _instantiate("data", config.data)
    datamodule.check_root()  # before weights are downloaded for nothing
    plugins: list[Any] = [WholeCheckpoints()]
    if launched()[0] == "srun" and SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # `Stop` leaves that to the script
    parts = Parts(
        datamodule=datamodule,
        model=_instantiate("model", config.model),
        trainer=_instantiate(
            "trainer",
            config.trainer,
            callbacks=callbacks,
            logger=_named("logger", config, Logger),
            plugins=plugins,
        ),
    )
    check_devices(parts.trainer, settings["trainer"], datamodule)
    return parts


def _record(directory: str | Path, settings: dict[str, Any], start: Start | None) -> RunRecord:
    if start is None:
        return RunRecord(directory, settings)
    return RunRecord(
        directory, settings, start.overrides, start.choices, start.resumed, start.fingerprint
    )


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain dictionaries, all references resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def _named(group: str, config: DictConfig, kind: type) -> list[Any]:
    """The entries of a group; an entry set to null is left out."""
    entries = config.get(group) or {}
    parts = [_instantiate(f"{group}.{key}", node) for key, node in entries.items() if node]
    for part in parts:
        if not isinstance(part, kind):
            raise ConfigError(
                f"{group} holds a {type(part).__name__}, which is no {kind.__name__}."
            )
    return parts


def _instantiate(key: str, node: DictConfig, **extra: Any) -> Any:
    try:
        return hydra.utils.instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, _LIGHTNING_REFUSALS):
            raise ConfigError(f"{key}: {sentence(cause)}") from error
        raise (cause or error) from None
