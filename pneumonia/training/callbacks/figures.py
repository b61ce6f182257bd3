"""Figures in TensorBoard: what goes in, and how the hold-out comes out."""

import logging
import math
import textwrap
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.data.dataset import ChestXrayDataset
from pneumonia.errors import ConfigError, ExtraError, ModelError
from pneumonia.evaluation import metrics, plots
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.threshold import OperatingPoint, choose_threshold
from pneumonia.inference.saliency import CAVEAT, Saliency, overlay_heat_map
from pneumonia.labels import CLASSES
from pneumonia.model.network import PneumoniaNetwork
from pneumonia.training.finalize import LogitCollector, Scores

log = logging.getLogger(__name__)

_HEAT_CAVEAT = textwrap.fill(CAVEAT, 90)

MOST_DRAWN = 15
"""Of each figure in a run. One set takes about a megabyte, and TensorBoard shows ten of a kind."""

_WITHOUT_END = 200
"""Epochs that a run without trainer.max_epochs is drawn for."""


class Figures(Callback):
    """Draw the first training batch, and after every validation its curves and errors.

    After every validation a temperature and an operating point are fitted as they will be after
    the fit, so that their course can be watched.

    Args:
        every_n_epochs: How often the hold-out's figures are drawn, of the epochs that validate, at
            least 1. None: as often as makes at most `MOST_DRAWN` of each in the run, which keeps
            TensorBoard's file small.
        policy: How the operating point is chosen; see `pneumonia.evaluation.threshold`.
        target: Of the policy.

    Raises:
        ConfigError: If `every_n_epochs` is below 1.
    """

    def __init__(
        self,
        every_n_epochs: int | None = None,
        policy: str = "sensitivity",
        target: float | None = None,
    ) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ConfigError(
                f"callbacks.plots.every_n_epochs={every_n_epochs} must be at least 1;"
                " callbacks.figures=null draws nothing."
            )
        self.every_n_epochs = every_n_epochs
        self.policy = policy
        self.target = target
        self._collector = LogitCollector()
        self._unexplained = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw the first batch of the fit, as the network sees it."""
        if trainer.fit_loop.total_batch_idx == 0 and trainer.is_global_zero:
            shown = range(min(plots.LIMIT, len(batch["label"])))
            names = _names(trainer, "train", [int(batch["index"][i]) for i in shown])
            classes = [CLASSES[int(batch["label"][i])] for i in shown]
            captions = [f"{name}\n{word}" for name, word in zip(names, classes, strict=True)]
            images = [batch["image"][i, 0].cpu().numpy() for i in shown]
            title = "Training images as the network sees them"
            _add(trainer, "inputs/train", plots.plot_grid(images, captions, title))

    def on_validation_batch_end(
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

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the operating point, and draw the hold-out's figures when it is time."""
        if trainer.sanity_checking:
            self._collector.clear()
            return
        scores = self._collector.gather()
        # A pass cut short by trainer.limit_val_batches may hold one class, which has no curves.
        whole = len(scores.rows) == len(_datamodule(trainer).splits["val"])
        if trainer.is_global_zero and whole:
            self._draw(trainer, scores, pl_module)

    def _draw(self, trainer: Trainer, scores: Scores, model: LightningModule) -> None:
        labels, logits = scores.labels, scores.logits
        temperature = fit_temperature(labels, logits)
        probabilities = sigmoid(logits / temperature)
        patients = _datamodule(trainer).splits["val"].patients[scores.rows]
        point = choose_threshold(
            labels, probabilities, patients, self.policy, self.target, quiet=True
        )
        self._log(trainer, temperature, point)
        if not self._due(trainer):
            return
        called = probabilities >= point.threshold
        counted = metrics.confusion(labels, called)
        _add(trainer, "val/roc", plots.plot_roc(labels, logits, counted))
        _add(
            trainer,
            "val/precision_recall",
            plots.plot_precision_recall(labels, logits, counted),
        )
        _add(trainer, "val/confusion_matrix", plots.plot_confusion_matrix(counted))
        _add(
            trainer,
            "val/probabilities",
            plots.plot_histogram(labels, probabilities, point.threshold),
        )
        _add(trainer, "val/reliability", plots.plot_reliability(labels, probabilities, logits))
        worst = plots.worst_errors(labels, logits / temperature, point.threshold)
        names = _names(trainer, "val", scores.rows[worst])
        captions = [
            f"{name}\n{CLASSES[labels[i]]}, probability {probabilities[i]:.3f}"
            for name, i in zip(names, worst, strict=True)
        ]
        images = _images(trainer, scores.rows[worst])
        title = "Worst errors on the hold-out (then its closest calls)"
        _add(trainer, "val/worst_errors", plots.plot_grid(images, captions, title))
        saliency = self._saliency(model, images[0].shape[0])
        if saliency is not None:
            calls = called[worst].astype(int).tolist()
            pairs = zip(images, calls, strict=True)
            hot = [overlay_heat_map(image, saliency(image, call)) for image, call in pairs]
            title = f"What speaks for the call made in each ({saliency.method})\n{_HEAT_CAVEAT}"
            _add(trainer, "val/worst_errors_heat", plots.plot_grid(hot, captions, title))

    def _due(self, trainer: Trainer) -> bool:
        between = trainer.check_val_every_n_epoch or 1
        epochs = trainer.max_epochs or 0
        planned = epochs // between if epochs > 0 else _WITHOUT_END
        every = self.every_n_epochs or math.ceil(planned / MOST_DRAWN) or 1
        return trainer.current_epoch // between % every == 0

    def _saliency(self, model: LightningModule, image_size: int) -> Saliency | None:
        """What draws heat maps of the model; None, said once, where it can give none."""
        network = model.network
        if not isinstance(network, PneumoniaNetwork) or self._unexplained:
            return None
        try:
            return Saliency(network, image_size)
        except (ExtraError, ModelError) as error:
            self._unexplained = True
            log.info("TensorBoard gets no heat maps of the worst errors: %s", error)
            return None

    @staticmethod
    def _log(trainer: Trainer, temperature: float, point: OperatingPoint) -> None:
        values = {
            "sensitivity": point.sensitivity,
            "specificity": point.specificity,
            "threshold": point.threshold,
            "temperature": temperature,
        }
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"operating_point/{name}": value for name, value in values.items()},
                step=trainer.global_step,
            )


def _datamodule(trainer: Trainer) -> ChestXrayDataModule:
    return trainer.datamodule  # type: ignore[attr-defined,no-any-return]


def _names(trainer: Trainer, split: str, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
    paths = _datamodule(trainer).splits[split].paths
    return [PurePath(str(paths[row])).name for row in rows]


def _images(trainer: Trainer, rows: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    datamodule = _datamodule(trainer)
    shown = ChestXrayDataset(datamodule.splits["val"], datamodule.preprocessing)
    return [shown[int(row)]["image"][0].numpy() for row in rows]


def _add(trainer: Trainer, tag: str, figure: Figure) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(tag, figure, global_step=trainer.global_step)
