"""Configuration -> data module, model and Trainer."""

import logging
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
from pneumonia.evaluation.evaluate import EvaluationResult
from pneumonia.evaluation.predictions import PredictionTable, sigmoid
from pneumonia.evaluation.report.wording import degenerate
from pneumonia.inference.evaluate import write_evaluation
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.model.lightning_module import PneumoniaClassifier
from pneumonia.training.callbacks.checkpoint import AtomicCheckpointIO
from pneumonia.training.callbacks.graceful_shutdown import GracefulShutdown
from pneumonia.training.callbacks.nan_guard import NanGuard
from pneumonia.training.callbacks.resume_state import ReseedSteps, ResumeState
from pneumonia.training.callbacks.sanity_checks import SanityChecks
from pneumonia.training.callbacks.throughput import Throughput
from pneumonia.training.config import check_config
from pneumonia.training.distributed import check_devices, detect_launcher
from pneumonia.training.errors import ProcessWatch
from pneumonia.training.finalize import predict_logits
from pneumonia.training.resume import RunStart
from pneumonia.training.run_record import RunRecord

_LIGHTNING_REFUSALS = (ValueError, TypeError, ImportError, MisconfigurationException)


@dataclass(frozen=True)
class RunComponents:
    """What a run is made of."""

    datamodule: ChestXrayDataModule
    model: PneumoniaClassifier
    trainer: Trainer


def build_run(
    config: DictConfig, run_directory: str | Path, test: bool = False, start: RunStart | None = None
) -> RunComponents:
    """Build the parts of a run from its configuration.

    Args:
        config: The composed configuration.
        run_directory: Where the run's record is written.
        test: Whether the test split will be opened after the fit.
        start: What the run starts with, if that is more than its configuration.

    Raises:
        PneumoniaError: If a setting is unknown, of the wrong type, or cannot be met.
    """
    settings = to_container(config)
    check_config(settings)
    callbacks = [
        ProcessWatch(run_directory),
        SanityChecks(
            config.evaluation.operating_point,
            config.evaluation.target,
            test,
            config.evaluation.alpha,
        ),
        _record(run_directory, settings | {"test": test}, start),
        ReseedSteps(config.seed),
        NanGuard(),
        Throughput(),
        ResumeState(),
        *_named("callbacks", config, Callback),
        GracefulShutdown(),  # after whatever changes the model at the end of a step
    ]
    datamodule = _instantiate("data", config.data)
    datamodule.check_root()  # before weights are downloaded for nothing
    plugins: list[Any] = [AtomicCheckpointIO()]
    if detect_launcher()[0] == "srun" and SLURMEnvironment.detect():
        plugins.append(
            SLURMEnvironment(auto_requeue=False)
        )  # `GracefulShutdown` leaves that to the script
    parts = RunComponents(
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


def _record(directory: str | Path, settings: dict[str, Any], start: RunStart | None) -> RunRecord:
    if start is None:
        return RunRecord(directory, settings)
    return RunRecord(
        directory, settings, start.overrides, start.choices, start.resumed, start.fingerprint
    )


def to_container(config: DictConfig) -> dict[str, Any]:
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


log = logging.getLogger(__name__)


def test_checkpoint(
    trainer: Trainer, checkpoint: str, datamodule: ChestXrayDataModule, directory: str | Path
) -> EvaluationResult | None:
    """Test a sealed checkpoint exactly as a user will load it, and write down what it said.

    Writes `metrics.json`, `predictions.csv` and `report.html` into the directory, and
    `MODEL_CARD.md` beside the checkpoint.

    Args:
        trainer: Used for its device and processes.
        checkpoint: A sealed `.ckpt` file.
        datamodule: Its `test` split is opened.
        directory: Where the files go.

    Returns:
        The result on the first process, None on the others.

    Raises:
        DataError: If there is no sound test split.
    """
    datamodule.setup("test")
    scores = predict_logits(trainer, checkpoint, datamodule.test_dataloader())
    if not trainer.is_global_zero:
        return None
    samples = datamodule.splits["test"].take(scores.rows)
    temperature = float(read_checkpoint(checkpoint)["calibration"]["temperature"])
    predictions = PredictionTable(
        path=samples.paths,
        label=samples.labels,
        logit=scores.logits,
        probability=sigmoid(scores.logits / temperature),
        patient=samples.patients,
        subtype=samples.subtypes,
    )
    dossier = write_evaluation(
        checkpoint, predictions, directory, f"split test of {datamodule.root}"
    )
    verdict = degenerate(dossier.confusion)
    if verdict:
        log.warning(verdict)
    return dossier
