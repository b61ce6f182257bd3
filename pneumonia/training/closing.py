"""The end of a run, written down whether it finished or failed."""

import statistics
import traceback
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from lightning import Trainer
from omegaconf import DictConfig

from pneumonia.errors import sentence
from pneumonia.evaluation.operating_point import OperatingPoint
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.ending import Ending, write_ending
from pneumonia.training.processes import first
from pneumonia.training.record import CONFIG_FILE
from pneumonia.training.throughput import Throughput


def close(
    trainer: Trainer,
    directory: str | Path,
    config: DictConfig,
    checkpoint: str,
    score: float,
    point: OperatingPoint,
) -> None:
    """Write `summary.json` of a run that finished.

    Args:
        trainer: After its fit.
        directory: The run directory.
        config: The composed configuration.
        checkpoint: The sealed checkpoint, whose facts say how long it took.
        score: Its monitored metric.
        point: Its operating point.
    """
    if not trainer.is_global_zero:
        return
    training = read_checkpoint(checkpoint)["facts"]["training"]
    rates = [rate for c in trainer.callbacks if isinstance(c, Throughput) for rate in c.rates]  # type: ignore[attr-defined]
    write_ending(
        directory,
        Ending(
            status="finished",
            monitor=config.monitor,
            mode=config.mode,
            score=score,
            sensitivity=point.sensitivity,
            specificity=point.specificity,
            threshold=point.threshold,
            started=training["started"],
            seconds=training["seconds"],
            images_per_second=round(statistics.median(rates), 1) if rates else None,
            epochs=training["epochs"],
            steps=training["steps"],
            checkpoint=str(Path(checkpoint).relative_to(directory)),
        ),
    )


def record_failure(directory: str | Path, error: BaseException) -> None:
    """Write `summary.json` of a run that failed, and why.

    Args:
        directory: The run directory.
        error: What ended it.
    """
    text = "".join(traceback.format_exception(error))
    write_ending(directory, Ending(status="failed", error=sentence(error), traceback=text))


class FailureRecord(Callback):
    """Hydra's callback that writes `summary.json` of a run that failed, and why.

    A run that was killed writes nothing. A directory that held a run before the job started is
    left as it was.
    """

    def __init__(self) -> None:
        self._directory: Path | None = None

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note whether the directory is this run's own."""
        directory = Path(config.hydra.runtime.output_dir)
        own = first() and not (directory / CONFIG_FILE).exists()
        self._directory = directory if own else None

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write down the error of a failed job."""
        if job_return.status != JobStatus.FAILED or self._directory is None:
            return
        record_failure(self._directory, job_return._return_value)  # noqa: SLF001  the property raises
