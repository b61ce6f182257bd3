"""Configuration -> data module, model and Trainer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.errors import InstantiationException
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import ConfigError, sentence
from pneumonia.model.classifier import PneumoniaClassifier
from pneumonia.training.preflight import Preflight
from pneumonia.training.record import RunRecord
from pneumonia.training.reseed import Reseed
from pneumonia.training.schema import check
from pneumonia.training.throughput import Throughput

_LIGHTNING_REFUSALS = (ValueError, TypeError, ImportError, MisconfigurationException)


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    datamodule: ChestXrayDataModule
    model: PneumoniaClassifier
    trainer: Trainer


def build(config: DictConfig, run_directory: str | Path, test: bool = False) -> Parts:
    """Build the parts of a run from its configuration.

    Args:
        config: The composed configuration.
        run_directory: Where the run's record is written.
        test: Whether the test split will be opened after the fit.

    Raises:
        PneumoniaError: If a setting is unknown, of the wrong type, or cannot be met.
    """
    settings = plain(config)
    check(settings)
    callbacks = [
        Preflight(
            config.evaluation.operating_point,
            config.evaluation.target,
            test,
            config.evaluation.abstention_error,
        ),
        RunRecord(run_directory, settings),
        Reseed(config.seed),
        Throughput(),
        *_named("callbacks", config, Callback),
    ]
    datamodule = _instantiate("data", config.data)
    datamodule.check_root()  # before weights are downloaded for nothing
    return Parts(
        datamodule=datamodule,
        model=_instantiate("model", config.model),
        trainer=_instantiate(
            "trainer", config.trainer, callbacks=callbacks, logger=_named("logger", config, Logger)
        ),
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
