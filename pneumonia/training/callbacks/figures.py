"""Figures in TensorBoard: training images as the network sees them, and the validation set."""

import logging
import math
import textwrap
from pathlib import PurePath
from typing import Any, cast

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import PositiveInt

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import ExtraError, ModelError
from pneumonia.evaluation import metrics, plots
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.threshold import choose_threshold
from pneumonia.inference.saliency import CAVEAT, Saliency, overlay_heat_map
from pneumonia.labels import CLASSES
from pneumonia.model.network import PneumoniaNetwork
from pneumonia.training.callbacks.logits import SplitLogits, latest_logits

log = logging.getLogger(__name__)

MAX_DRAWN = 15
"""Of each figure in a run. One set takes about a megabyte, and TensorBoard shows ten of a kind."""


class Figures(Callback):
    """Draw the first training batch, and after a validation its curves and worst errors.

    After every validation a temperature and an operating point are fitted to the clean images and
    logged as `operating_point/*`. Finalizing may choose the threshold on shifted images too.

    Args:
        every_n_epochs: How often figures are drawn, counted in epochs that validate; None: at
            most `MAX_DRAWN` times in the run.
        policy: How the operating point is chosen; see `pneumonia.evaluation.threshold`.
        target: Target of the policy.
    """

    def __init__(
        self,
        every_n_epochs: PositiveInt | None = None,
        policy: str = "sensitivity",
        target: float | None = None,
    ) -> None:
        self.every_n_epochs = every_n_epochs
        self.policy = policy
        self.target = target

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw the first batch of the fit."""
        if trainer.fit_loop.total_batch_idx == 0 and trainer.is_global_zero:
            keys = ("image", "label", "index")
            images, labels, rows = (batch[key][: plots.LIMIT].cpu().numpy() for key in keys)
            names = _names(trainer, "train", rows)
            captions = [f"{n}\n{CLASSES[y]}" for n, y in zip(names, labels, strict=True)]
            title = "Training images as the network sees them"
            _add(trainer, "inputs/train", plots.plot_grid(images[:, 0], captions, title))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the operating point, and draw the figures when they are due."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        found = latest_logits(trainer)
        # A pass cut short by trainer.limit_val_batches may hold one class, which has no curves.
        if len(found.rows) == len(_datamodule(trainer).splits["val"]):
            self._draw(trainer, found, pl_module)

    def is_due(self, trainer: Trainer) -> bool:
        """Whether figures are drawn in this epoch."""
        between = trainer.check_val_every_n_epoch or 1
        epochs = trainer.max_epochs or 0
        planned = epochs // between if epochs > 0 else 200  # without trainer.max_epochs
        every = self.every_n_epochs or math.ceil(planned / MAX_DRAWN) or 1
        return trainer.current_epoch // between % every == 0

    def _draw(self, trainer: Trainer, found: SplitLogits, model: LightningModule) -> None:
        labels, logits = found.labels, found.logits
        temperature = fit_temperature(labels, logits)
        probabilities = sigmoid(logits / temperature)
        patients = _datamodule(trainer).splits["val"].patients[found.rows]
        point = choose_threshold(
            labels, probabilities, patients, self.policy, self.target, quiet=True
        )
        values = {
            "operating_point/sensitivity": point.sensitivity,
            "operating_point/specificity": point.specificity,
            "operating_point/threshold": point.threshold,
            "operating_point/temperature": temperature,
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        if not self.is_due(trainer):
            return
        predicted = probabilities >= point.threshold
        confusion = metrics.confusion(labels, predicted)
        figures = {
            "roc": plots.plot_roc(labels, logits, confusion),
            "precision_recall": plots.plot_precision_recall(labels, logits, confusion),
            "confusion_matrix": plots.plot_confusion_matrix(confusion),
            "probabilities": plots.plot_histogram(labels, probabilities, point.threshold),
            "reliability": plots.plot_reliability(labels, probabilities, logits),
        }
        worst = plots.worst_errors(labels, logits / temperature, point.threshold)
        captions = [
            f"{name}\n{CLASSES[labels[i]]}, probability {probabilities[i]:.3f}"
            for name, i in zip(_names(trainer, "val", found.rows[worst]), worst, strict=True)
        ]
        validation = _datamodule(trainer).dataset("val")
        images = [validation[int(row)]["image"][0].numpy() for row in found.rows[worst]]
        title = "Worst errors on the validation set, then the images nearest to the threshold"
        figures["worst_errors"] = plots.plot_grid(images, captions, title)
        try:
            saliency = Saliency(cast(PneumoniaNetwork, model.network), images[0].shape[0])
        except (ExtraError, ModelError) as error:
            if trainer.current_epoch == 0:
                log.info("no heat maps of the worst errors in TensorBoard: %s", error)
        else:
            pairs = zip(images, predicted[worst].astype(int).tolist(), strict=True)
            hot = [overlay_heat_map(image, saliency(image, one)) for image, one in pairs]
            title = f"Evidence for the predicted class ({saliency.method})"
            title = f"{title}\n{textwrap.fill(CAVEAT, 90)}"
            figures["worst_errors_heat"] = plots.plot_grid(hot, captions, title)
        for name, figure in figures.items():
            _add(trainer, f"val/{name}", figure)


def _datamodule(trainer: Trainer) -> ChestXrayDataModule:
    return trainer.datamodule  # type: ignore[attr-defined,no-any-return]


def _names(trainer: Trainer, split: str, rows: NDArray[np.int64]) -> list[str]:
    paths = _datamodule(trainer).splits[split].paths
    return [PurePath(str(paths[row])).name for row in rows]


def _add(trainer: Trainer, tag: str, figure: Figure) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(tag, figure, global_step=trainer.global_step)
