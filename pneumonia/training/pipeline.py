"""Configuration -> data module, model and Trainer; and what is written when the run is done."""

import logging
import statistics
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.errors import InstantiationException
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import ConfigError, ExtraError, sentence
from pneumonia.evaluation.evaluate import EvaluationResult, evaluate_predictions
from pneumonia.evaluation.predictions import PredictionTable, sigmoid
from pneumonia.evaluation.report.console import print_summary
from pneumonia.evaluation.report.write import CARD, write_report
from pneumonia.inference.evaluate import describe_checkpoint, thumbnail
from pneumonia.inference.export import export
from pneumonia.inference.predictor import EXPORTED
from pneumonia.model.lightning_module import PneumoniaClassifier
from pneumonia.training.callbacks.checkpoint import AtomicCheckpointIO
from pneumonia.training.callbacks.console import EpochLog
from pneumonia.training.callbacks.logits import CollectLogits, latest_logits
from pneumonia.training.callbacks.resume_state import ResumeState
from pneumonia.training.callbacks.run_files import RunFiles
from pneumonia.training.callbacks.sanity_checks import SanityChecks
from pneumonia.training.config import check_config
from pneumonia.training.distributed import check_devices, detect_launcher
from pneumonia.training.resume import RunStart
from pneumonia.training.run_record import RunSummary, write_run_summary

log = logging.getLogger(__name__)

_LIGHTNING_REFUSALS = (ValueError, TypeError, ImportError, MisconfigurationException)

_NOISE = {
    "TPU available": "nobody trains this on a TPU",
    "💡 Tip": "an advertisement",
    "Loading `train_dataloader` to estimate": "happens in every run with a schedule",
    "`Trainer.fit` stopped": "the epoch log ends with the same number",
    "Restoring states from the checkpoint": "happens in every test; a resume is logged otherwise",
    "Loaded model weights from the checkpoint": "the same",
}
"""Beginnings of Lightning's messages that tell a user nothing, each with the reason."""

_HPARAMS = (
    *("data.batch_size", "data.image_size", "model.backbone", "model.optimizer.lr"),
    *("model.optimizer.name", "seed", "trainer.max_epochs"),
)
"""Settings that TensorBoard's HParams tab shows of every run, beside the overrides."""


@dataclass(frozen=True)
class RunComponents:
    """What a run is made of."""

    start: RunStart
    datamodule: ChestXrayDataModule
    model: PneumoniaClassifier
    trainer: Trainer
    started: datetime = field(default_factory=lambda: datetime.now(UTC))


def build_run(start: RunStart) -> RunComponents:
    """Check the configuration of a run, and build data module, model and Trainer.

    Raises:
        PneumoniaError: If a setting is unknown, of the wrong type, or cannot be used.
    """
    config, settings = start.config, to_container(start.config)
    check_config(settings)
    callbacks = [
        # Always on, because the result would be wrong without them.
        SanityChecks(start),
        # Else a run could overwrite another. A resumed job of a sweep still belongs to it.
        RunFiles(
            start,
            settings | {"test": start.test, "export": config.export if start.export else False},
        ),
        ResumeState(config.seed, start.resumed),  # else a resumed run ends differently
        CollectLogits(),  # threshold and test metrics are computed from them
        *_instantiate_all("callbacks", config),
    ]
    datamodule = _instantiate("data", config.data)
    datamodule.check_root()  # before weights are downloaded
    plugins: list[Any] = [AtomicCheckpointIO()]
    if detect_launcher()[0] == "srun" and SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # left to the job script
    _silence_lightning()
    # Without one of its own, the Trainer would add Lightning's bar, which fills a log file.
    bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    run = RunComponents(
        start=start,
        datamodule=datamodule,
        model=_instantiate("model", config.model),
        trainer=_instantiate(
            "trainer",
            config.trainer,
            callbacks=callbacks,
            enable_progress_bar=bar and config.trainer.enable_progress_bar,
            logger=_instantiate_all("logger", config),
            plugins=plugins,
        ),
    )
    check_devices(run.trainer, settings["trainer"], datamodule)
    return run


def test(run: RunComponents, path: str, checkpoint: Mapping[str, Any]) -> EvaluationResult | None:
    """Test the finalized checkpoint and write `metrics.json`, `predictions.csv` and the report.

    Returns:
        The result on rank zero, None on the other processes.
    """
    run.trainer.test(run.model, run.datamodule, ckpt_path=path, weights_only=True, verbose=False)
    if not run.trainer.is_global_zero:
        return None
    found, root = latest_logits(run.trainer), run.datamodule.root
    samples = run.datamodule.splits["test"].take(found.rows)
    table = PredictionTable(
        path=samples.paths,
        label=samples.labels,
        logit=found.logits,
        probability=sigmoid(found.logits / checkpoint["calibration"]["temperature"]),
        patient=samples.patients,
        subtype=samples.subtypes,
    )
    model = describe_checkpoint(checkpoint, path, f"split test of {root}")
    result = evaluate_predictions(table, model, load_image=thumbnail)
    write_report(result, run.start.directory, Path(path).with_name(CARD))
    return result


def export_best(run: RunComponents, path: str) -> Path | None:
    """Export the finalized checkpoint at `path` to an `.onnx` file beside it, on rank zero.

    Returns:
        The file; None if the run has none. A failure is a warning.
    """
    if not run.trainer.is_global_zero:
        return None
    try:
        return export(path, Path(path).with_suffix(EXPORTED))
    except ExtraError:
        return None
    except Exception as error:  # noqa: BLE001  the run has succeeded, whatever this is
        log.warning("exporting the checkpoint failed: %s", sentence(error))
        return None


def finish(
    run: RunComponents,
    path: str,
    score: float,
    checkpoint: Mapping[str, Any],
    result: EvaluationResult | None,
    exported: Path | None,
) -> None:
    """Log the final metrics, write `summary.json`, which marks the run as finished, and print it.

    `path` is the finalized checkpoint, `score` its monitored metric, `result` None without a test,
    `exported` the checkpoint as `.onnx` file, if it was exported.
    """
    if not run.trainer.is_global_zero:
        return
    config, directory = run.start.config, run.start.directory
    tested = {} if result is None else result.values("test/")
    _log_final(run, {f"best/{config.monitor}": score} | tested)
    point, training = checkpoint["operating_point"], checkpoint["metadata"]["training"]
    callbacks = run.trainer.callbacks  # type: ignore[attr-defined]
    rates = [rate for c in callbacks if isinstance(c, EpochLog) for rate in c.rates]
    summary = RunSummary(
        status="finished",
        monitor=config.monitor,
        mode=config.mode,
        score=score,
        sensitivity=point["sensitivity"],
        specificity=point["specificity"],
        threshold=point["threshold"],
        started=training["started"],
        seconds=training["seconds"],
        images_per_second=round(statistics.median(rates), 1) if rates else None,
        epochs=training["epochs"],
        steps=training["steps"],
        checkpoint=str(Path(path).relative_to(directory)),
    )
    write_run_summary(directory, summary)
    outputs = {"Checkpoint": path}
    if exported is not None:
        outputs["ONNX model for CPUs"] = str(exported)
    outputs["TensorBoard"] = f"tensorboard --logdir {directory}"
    if result is not None:
        report = {"Report": f"{directory}/report.html"}
        print_summary(result, report | outputs)
        return
    estimate = f"recall {point['sensitivity']:.3f}, specificity {point['specificity']:.3f}"
    lines = [f"Validation estimate (optimistic): {config.monitor} {score:.3f}, {estimate}"]
    if point.get("shifted_sensitivity") is not None:
        lines.append(
            f"Shifted validation estimate: recall {point['shifted_sensitivity']:.3f}, specificity"
            f" {point['shifted_specificity']:.3f}"
        )
    lines += [f"{name}: {value}" for name, value in outputs.items()]
    print("\n".join(lines))  # noqa: T201


def to_container(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain dictionaries, all references resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def _log_final(run: RunComponents, metrics: dict[str, float]) -> None:
    """Log final metrics, in TensorBoard together with the settings of the run."""
    typed = dict(text.lstrip("+~").partition("=")[::2] for text in run.start.overrides)
    shown = {
        key: OmegaConf.select(run.start.config, key, default=typed.get(key))
        for key in [*_HPARAMS, *typed]
        if key not in ("data.root", "data.cache_dir", "ckpt_path")
    }
    plain = {k: v for k, v in shown.items() if v is not None and not isinstance(v, DictConfig)}
    for logger in run.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(plain, metrics, step=run.trainer.global_step)
        else:
            logger.log_metrics(metrics, step=run.trainer.global_step)
        logger.save()


def _instantiate_all(group: str, config: DictConfig) -> list[Any]:
    """The entries of a group; an entry set to null is left out."""
    entries = config.get(group) or {}
    return [_instantiate(f"{group}.{key}", node) for key, node in entries.items() if node]


def _instantiate(key: str, node: Any, **extra: Any) -> Any:
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{key}={node}: expected settings with a _target_, or null for none.")
    try:
        return hydra.utils.instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, _LIGHTNING_REFUSALS):
            raise ConfigError(f"{key}: {sentence(cause)}") from error
        raise (cause or error) from None


def _silence_lightning() -> None:
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    if not logger.filters:
        logger.addFilter(lambda record: not record.getMessage().startswith(tuple(_NOISE)))
    for exporter in ("onnx_ir", "onnxscript"):  # each of its passes over the graph
        logging.getLogger(exporter).setLevel(logging.WARNING)
    # Lightning's own use of torch, which a user can do nothing about.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    # The data module continues with the next image; Lightning knows only its own protocol.
    warnings.filterwarnings("ignore", message="[^.]*dataloader is not resumable")
    # A resumed run has its checkpoints there; a new one is refused earlier.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
