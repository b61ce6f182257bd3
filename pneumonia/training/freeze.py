"""After the fit: calibrate and choose operating point and band on the hold-out, seal the model.

All are chosen before the test split is opened, and travel in the checkpoint.
"""

import logging
from typing import Any, cast

from lightning import Trainer
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.evaluation.abstention import choose_band
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.metrics import sigmoid
from pneumonia.evaluation.operating_point import OperatingPoint, choose
from pneumonia.model.checkpoint import read_checkpoint, seal_checkpoint
from pneumonia.model.classifier import PneumoniaClassifier
from pneumonia.training.novelty import fit_detector
from pneumonia.training.scores import Scores, SplitScores

log = logging.getLogger(__name__)


def freeze(
    trainer: Trainer,
    checkpoint: str,
    datamodule: ChestXrayDataModule,
    policy: DictConfig,
    facts: dict[str, Any],
) -> OperatingPoint:
    """Choose all but the weights on the hold-out, into the checkpoint.

    That is the temperature, the threshold, the band of abstention and the detector.

    Args:
        trainer: Used for its device.
        checkpoint: The best `.ckpt` of the run; replaced by its sealed self.
        datamodule: Its hold-out is read.
        policy: `operating_point`, `target` and `abstention_error`.
        facts: How the model came to be, plain values, stored beside.

    Returns:
        The operating point, on calibrated probabilities.

    Raises:
        EvaluationError: If the hold-out cannot support the policy's target.
    """
    scores = score(trainer, checkpoint, datamodule.val_dataloader())
    patients = datamodule.splits["val"].patients[scores.rows]
    temperature = fit_temperature(scores.labels, scores.logits)
    probabilities = sigmoid(scores.logits / temperature)
    point = choose(scores.labels, probabilities, patients, policy.operating_point, policy.target)
    band = choose_band(
        scores.labels, probabilities, patients, point.threshold, policy.abstention_error
    )
    if trainer.is_global_zero:
        detector = fit_detector(
            checkpoint,
            datamodule.radiographs("val"),
            trainer.strategy.root_device,
            datamodule.batch_size,
        )
        seal_checkpoint(
            checkpoint,
            calibration={"temperature": temperature},
            operating_point=point.to_dict(),
            abstention=band.to_dict(),
            facts=facts,
            **({"detector": detector.to_dict()} if detector is not None else {}),
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
        log.info(
            "uncertain from %.4f to below %.4f, for an error of %g; the hold-out: %.1f%% decided",
            band.lower,
            band.upper,
            band.error,
            100 * (1 - band.uncertain(probabilities).mean()),
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
