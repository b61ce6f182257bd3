"""After the fit: calibrate and choose the operating point on the hold-out, and seal the model.

Both are chosen before the test split is opened, and travel in the checkpoint.
"""

import logging
from typing import Any, cast

from lightning import Trainer
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.metrics import sigmoid
from pneumonia.evaluation.operating_point import OperatingPoint, choose
from pneumonia.model.checkpoint import read_checkpoint, seal_checkpoint
from pneumonia.model.classifier import PneumoniaClassifier
from pneumonia.training.scores import Scores, SplitScores

log = logging.getLogger(__name__)


def freeze(
    trainer: Trainer,
    checkpoint: str,
    datamodule: ChestXrayDataModule,
    policy: DictConfig,
    facts: dict[str, Any],
) -> OperatingPoint:
    """Fit the temperature and choose the threshold on the hold-out, into the checkpoint.

    Args:
        trainer: Used for its device.
        checkpoint: The best `.ckpt` of the run; replaced by its sealed self.
        datamodule: Its hold-out is read.
        policy: `operating_point` and `target`.
        facts: How the model came to be, plain values, stored beside.

    Returns:
        The operating point, on calibrated probabilities.

    Raises:
        EvaluationError: If the hold-out cannot support the policy's target.
    """
    scores = score(trainer, checkpoint, datamodule.val_dataloader())
    samples = datamodule.splits["val"]
    temperature = fit_temperature(scores.labels, scores.logits)
    point = choose(
        scores.labels,
        sigmoid(scores.logits / temperature),
        samples.patients[scores.rows],
        policy.operating_point,
        policy.target,
    )
    if trainer.is_global_zero:
        seal_checkpoint(
            checkpoint,
            calibration={"temperature": temperature},
            operating_point=point.to_dict(),
            facts=facts,
        )
        log.info(
            "temperature %.3f; threshold %.4f by %s: the hold-out promises sensitivity %.3f and"
            " specificity %.3f",
            temperature,
            point.threshold,
            point.policy,
            point.sensitivity,
            point.specificity,
        )
    trainer.strategy.barrier()
    return point


def frozen(checkpoint: str) -> OperatingPoint | None:
    """The operating point of a checkpoint that is sealed already, else None.

    Args:
        checkpoint: A `.ckpt` file of this project.
    """
    point = read_checkpoint(checkpoint).get("operating_point")
    return None if point is None else OperatingPoint.from_dict(point)


def score(trainer: Trainer, checkpoint: str, loader: DataLoader[Any]) -> Scores:
    """Logits of a checkpoint, loaded exactly as a user will load it, on one split.

    Args:
        trainer: Used for its device and processes.
        checkpoint: A `.ckpt` file of this project.
        loader: The split's images in order.
    """
    collector = SplitScores()
    callbacks = cast(Any, trainer).callbacks
    callbacks.append(collector)
    try:
        model = PneumoniaClassifier.load_from_checkpoint(
            checkpoint, map_location="cpu", weights_only=True
        )
        trainer.predict(model, loader, return_predictions=False)
    finally:
        callbacks.remove(collector)
    return collector.scores
