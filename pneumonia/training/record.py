"""The run directory: claimed once, and what is written there for later readers."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from pneumonia.errors import TrainingError
from pneumonia.files import whole_file
from pneumonia.labels import CLASSES

CONFIG_FILE = "config.yaml"
HOLDOUT_FILE = "holdout.csv"

_SHOWN = (
    "data.batch_size",
    "data.image_size",
    "model.backbone",
    "model.optimizer.lr",
    "model.optimizer.name",
    "seed",
    "trainer.max_epochs",
)
_PLACES = {"data.root", "data.cache_dir", "ckpt_path"}
"""Settings that say where things lie, not what the run is."""


class RunRecord(Callback):
    """Write the configuration and the hold-out's images into the run directory.

    Args:
        directory: The run directory.
        config: The composed and resolved configuration, plain values.

    Raises:
        TrainingError: If the directory already holds a run.
    """

    def __init__(self, directory: str | Path, config: dict[str, Any]) -> None:
        self.directory = Path(directory)
        self.config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim the directory, and write the record, before a fit."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        text = OmegaConf.to_yaml(OmegaConf.create(self.config))
        with whole_file(self.directory / CONFIG_FILE) as file:
            file.write(text)
        val = trainer.datamodule.splits["val"]  # type: ignore[attr-defined]
        rows = zip(val.paths, val.labels, val.patients, val.subtypes, strict=True)
        with whole_file(self.directory / HOLDOUT_FILE) as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "patient", "subtype"])
            writer.writerows((p, CLASSES[label], patient, s) for p, label, patient, s in rows)


def refuse_used(directory: str | Path) -> None:
    """Refuse a run directory that already holds a run.

    Args:
        directory: The run directory.

    Raises:
        TrainingError: If it holds the configuration of a run.
    """
    if (Path(directory) / CONFIG_FILE).exists():
        raise TrainingError(
            f"{directory} already holds a run, which would be overwritten; leave hydra.run.dir"
            " out for a new directory, or name another."
        )


def log_hyperparameters(
    trainer: Trainer, config: DictConfig, overrides: Sequence[str], metrics: dict[str, float]
) -> None:
    """Put a finished run into TensorBoard's HParams tab.

    Args:
        trainer: Its loggers are written to.
        config: The composed configuration.
        overrides: What the user typed, `key=value` each; shown beside a few settings that every
            run has.
        metrics: Final metrics, by name.
    """
    typed = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    known = {
        key: OmegaConf.select(config, key, default=typed.get(key)) for key in [*_SHOWN, *typed]
    }
    shown = {
        key: value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in known.items()
        if key not in _PLACES and value is not None and not isinstance(value, DictConfig)
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(shown, metrics, step=trainer.global_step)
            logger.save()
