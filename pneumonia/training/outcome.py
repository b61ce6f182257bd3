"""The result of a run: the best checkpoint on the test split, in files and in words."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.table import Table

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.evaluation import metrics
from pneumonia.evaluation.predictions import Predictions
from pneumonia.evaluation.result import write_metrics
from pneumonia.evaluation.verdict import degenerate, table
from pneumonia.model.classifier import PneumoniaClassifier
from pneumonia.training.scores import Collector, Scores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What the test gave.

    Attributes:
        metrics: Plain metric names and numbers.
        table: The same for a person.
    """

    metrics: dict[str, float]
    table: Table


class TestScores(Callback):
    """Gather the logits of the test split."""

    def __init__(self) -> None:
        self._collector = Collector()
        self.scores: Scores

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's logits."""
        self._collector.add(outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the logits of all processes."""
        self.scores = self._collector.gather()


def test_checkpoint(
    trainer: Trainer, checkpoint: str, datamodule: ChestXrayDataModule, directory: str | Path
) -> Outcome:
    """Test a checkpoint exactly as a user will load it, and write down what it said.

    Writes `metrics.json` and `predictions.csv` into the directory.

    Args:
        trainer: Used for its device and loggers.
        checkpoint: A `.ckpt` file of this project.
        datamodule: Its `test` split is opened.
        directory: Where the files go.

    Raises:
        DataError: If there is no sound test split.
    """
    collector = TestScores()
    trainer.callbacks.append(collector)  # type: ignore[attr-defined]
    model = PneumoniaClassifier.load_from_checkpoint(
        checkpoint, map_location="cpu", weights_only=True
    )
    logged = trainer.test(model, datamodule=datamodule, verbose=False)
    trainer.callbacks.remove(collector)  # type: ignore[attr-defined]
    scores, samples = collector.scores, datamodule.splits["test"]
    rows = scores.rows
    probabilities = metrics.sigmoid(scores.logits)
    counted = metrics.confusion(scores.labels, metrics.called_pneumonia(probabilities))
    numbers = metrics.evaluate(scores.labels, scores.logits)
    numbers["loss"] = float(logged[0]["test/loss"])
    if trainer.is_global_zero:
        Predictions(
            path=samples.paths[rows],
            label=samples.labels[rows],
            logit=scores.logits,
            probability=probabilities,
            patient=samples.patients[rows],
            subtype=samples.subtypes[rows],
        ).write(Path(directory) / "predictions.csv")
        write_metrics(Path(directory) / "metrics.json", numbers)
    verdict = degenerate(counted)
    if verdict and trainer.is_global_zero:
        log.warning(verdict)
    title = f"Test split, {len(rows)} images, at probability 0.5"
    return Outcome(numbers, table(numbers, counted, title))
