"""After the fit: calibrate and choose operating point and band on the hold-out, seal the model.

All are chosen before the test split is opened, and travel in the checkpoint.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.utilities.distributed import gather_all_tensors

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.data.dataset import ChestXrayDataset
from pneumonia.errors import EvaluationError
from pneumonia.evaluation.abstention import fit_abstention
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.threshold import OperatingPoint, choose_threshold
from pneumonia.model.checkpoint import finalize_checkpoint, read_checkpoint
from pneumonia.model.lightning_module import PneumoniaClassifier
from pneumonia.model.ood_detector import OODDetector


@dataclass(frozen=True)
class Scores:
    """One pass over a split, in the split's order.

    Attributes:
        rows: int64 [N], row of each image in the split's samples, ascending and unique.
        labels: int64 [N], 0 or 1.
        logits: float64 [N].
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]


class LogitCollector:
    """Keeps what evaluation steps return, on their device, until the pass ends."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, outputs: Mapping[str, Tensor]) -> None:
        """Keep a batch: `index`, `label` and `logit`, each [N]."""
        self._batches.append((outputs["index"], outputs["label"], outputs["logit"].detach()))

    def clear(self) -> None:
        """Forget all batches."""
        self._batches.clear()

    def gather(self) -> Scores:
        """Join the batches of all processes; every process must call this. Forgets them."""
        columns = [torch.cat(column) for column in zip(*self._batches, strict=True)]
        self.clear()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            columns = [torch.cat(gather_all_tensors(column)) for column in columns]
        rows, labels, logits = (column.cpu().numpy() for column in columns)
        rows, first = np.unique(rows, return_index=True)
        return Scores(rows, labels[first], logits[first].astype(np.float64))


class SplitLogits(Callback):
    """Gather the logits of one `Trainer.predict` pass.

    Attributes:
        scores: Of the whole pass, on every process; there after the pass.
    """

    scores: Scores

    def __init__(self) -> None:
        self._collector = LogitCollector()

    def on_predict_batch_end(
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

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the logits of all processes."""
        self.scores = self._collector.gather()


log = logging.getLogger(__name__)


def fit_detector(
    checkpoint: str, holdout: ChestXrayDataset, device: torch.device, batch_size: int
) -> OODDetector | None:
    """Fit the detector of unlike images to the hold-out, in one process.

    Args:
        checkpoint: A `.ckpt` file of this project.
        holdout: Its images and patients, not augmented.
        device: Where the network runs.
        batch_size: Images at once.

    Returns:
        None if the hold-out is too small for one; that is logged.
    """
    model = PneumoniaClassifier.load_from_checkpoint(
        checkpoint, map_location=device, weights_only=True
    )
    network = model.network.eval()
    loader = DataLoader(holdout, batch_size)
    with torch.inference_mode():
        found = [network.embed(batch["image"].to(device))[1].cpu() for batch in loader]
    try:
        detector = OODDetector.fit(
            (batch["image"] for batch in loader), torch.cat(found), holdout.samples.patients
        )
    except EvaluationError as error:
        log.warning("The model will not tell images that are unlike its training's: %s", error)
        return None
    log.info(
        "unlike the training data: a score above %.3f, as of %.1f%% of images like the hold-out's",
        detector.threshold,
        100 * detector.share,
    )
    return detector


log = logging.getLogger(__name__)


def finalize(
    trainer: Trainer,
    checkpoint: str,
    datamodule: ChestXrayDataModule,
    policy: DictConfig,
    metadata: dict[str, Any],
) -> OperatingPoint:
    """Choose all but the weights on the hold-out, into the checkpoint.

    That is the temperature, the threshold, the band of abstention and the detector.

    Args:
        trainer: Used for its device.
        checkpoint: The best `.ckpt` of the run; replaced by its sealed self.
        datamodule: Its hold-out is read.
        policy: `operating_point`, `target` and `alpha`.
        metadata: How the model came to be, plain values, stored beside.

    Returns:
        The operating point, on calibrated probabilities.

    Raises:
        EvaluationError: If the hold-out cannot support the policy's target.
    """
    scores = predict_logits(trainer, checkpoint, datamodule.val_dataloader())
    patients = datamodule.splits["val"].patients[scores.rows]
    temperature = fit_temperature(scores.labels, scores.logits)
    probabilities = sigmoid(scores.logits / temperature)
    point = choose_threshold(
        scores.labels, probabilities, patients, policy.operating_point, policy.target
    )
    band = fit_abstention(scores.labels, probabilities, patients, point.threshold, policy.alpha)
    if trainer.is_global_zero:
        detector = fit_detector(
            checkpoint,
            datamodule.radiographs("val"),
            trainer.strategy.root_device,
            datamodule.batch_size,
        )
        finalize_checkpoint(
            checkpoint,
            calibration={"temperature": temperature},
            operating_point=point.to_dict(),
            abstention=band.to_dict(),
            metadata=metadata,
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
            band.alpha,
            100 * (1 - band.uncertain(probabilities).mean()),
        )
    trainer.strategy.barrier()
    return point


def load_operating_point(checkpoint: str) -> OperatingPoint | None:
    """The operating point of a checkpoint that is sealed already, else None.

    Args:
        checkpoint: A `.ckpt` file of this project.
    """
    point = read_checkpoint(checkpoint).get("operating_point")
    return None if point is None else OperatingPoint.from_dict(point)


def predict_logits(trainer: Trainer, checkpoint: str, loader: DataLoader[Any]) -> Scores:
    """Logits of a checkpoint, loaded exactly as a user will load it, on one split.

    Args:
        trainer: Used for its device and processes.
        checkpoint: A `.ckpt` file of this project.
        loader: The split's images in order.
    """
    collector = SplitLogits()
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
