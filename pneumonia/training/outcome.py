"""The result of a run: the sealed checkpoint on the test split, in files and in words."""

import logging
from pathlib import Path

from lightning import Trainer

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.evaluation.dossier import Dossier
from pneumonia.evaluation.metrics import sigmoid
from pneumonia.evaluation.predictions import Predictions
from pneumonia.evaluation.verdict import degenerate
from pneumonia.inference.evaluate import write_evaluation
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.freeze import score

log = logging.getLogger(__name__)


def test_checkpoint(
    trainer: Trainer, checkpoint: str, datamodule: ChestXrayDataModule, directory: str | Path
) -> Dossier | None:
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
    scores = score(trainer, checkpoint, datamodule.test_dataloader())
    if not trainer.is_global_zero:
        return None
    samples = datamodule.splits["test"].take(scores.rows)
    temperature = float(read_checkpoint(checkpoint)["calibration"]["temperature"])
    predictions = Predictions(
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
    verdict = degenerate(dossier.assessment.confusion)
    if verdict:
        log.warning(verdict)
    return dossier
