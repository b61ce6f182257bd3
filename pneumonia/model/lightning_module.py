"""The LightningModule: network, loss, metrics, optimizer."""

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics import MeanMetric, MetricCollection

from pneumonia.errors import ConfigError
from pneumonia.labels import VAL_SETS
from pneumonia.model.checkpoint import check_format, describe
from pneumonia.model.metrics import all_metrics, threshold_metrics
from pneumonia.model.network import PneumoniaNetwork
from pneumonia.model.optim import build_optimizer, build_schedule

Batch = Mapping[str, Tensor]
"""`image` uint8 [N, 1, H, W], `label` int64 [N], `index` int64 [N] (row in the split)."""


class PneumoniaClassifier(LightningModule):
    """NORMAL against PNEUMONIA with one logit and binary cross-entropy.

    All arguments are plain values and are stored in the checkpoint as hyperparameters.

    Args:
        backbone: A timm architecture, with or without a weights tag.
        pretrained: Start from timm's pretrained weights.
        weights: Start from a local file of pretrained weights instead.
        image_size: Side of the input square, pixels.
        resize_mode: How an image becomes that square: `squash`, `pad` or `crop`.
        interpolation: How it is resized: `nearest`, `bilinear` or `bicubic`.
        drop_rate: Dropout before the head, 0 to below 1.
        drop_path_rate: Stochastic depth, 0 to below 1.
        pos_weight: Weight of PNEUMONIA in the training loss: a number above 0, `balanced`
            (NORMAL over PNEUMONIA images of the training split), or None for 1.
        label_smoothing: Fraction by which training targets move towards 0.5, 0 to below 1.
        tta: Test-time augmentation, a name in `pneumonia.model.network.TTA`, or None: the logits of
            several views are averaged after the fit, from finalizing on.
        optimizer: `name` and keywords; see `build_optimizer`.
        schedule: `name` and keywords, see `build_schedule`; None: a constant learning rate.
        channels_last: Keep weights and activations in channels-last memory order.
        compile: Compile the network with `torch.compile` at the start of a fit.

    Raises:
        ModelError: If the backbone is unknown, or weights are not available or do not fit.
        ConfigError: If an argument is out of range.
    """

    pos_weight: Tensor

    def __init__(
        self,
        backbone: str = "resnetv2_50",
        pretrained: bool = True,
        weights: str | None = None,
        image_size: int = 224,
        resize_mode: str = "squash",
        interpolation: str = "bilinear",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        pos_weight: float | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        tta: str | None = None,
        optimizer: dict[str, Any] | None = None,
        schedule: dict[str, Any] | None = None,
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002  the name users know
    ) -> None:
        super().__init__()
        for name, rate in (
            ("label_smoothing", label_smoothing),
            ("drop_rate", drop_rate),
            ("drop_path_rate", drop_path_rate),
        ):
            if not 0 <= rate < 1:
                raise ConfigError(f"model.{name}={rate} must be at least 0 and below 1.")
        lr = (optimizer or {}).get("lr", 0.0)
        if isinstance(lr, bool) or not isinstance(lr, (int, float)):
            raise ConfigError(f"model.optimizer.lr={lr!r} must be a number.")
        weight = 1.0 if pos_weight in (None, "balanced") else pos_weight
        if not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise ConfigError(
                f"model.pos_weight={pos_weight!r} must be a number above 0, balanced or null."
            )
        self.save_hyperparameters(logger=False)
        self.network = PneumoniaNetwork(
            backbone,
            pretrained=pretrained,
            weights=weights,
            image_size=image_size,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            tta=tta,
        )
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.register_buffer("pos_weight", torch.tensor(float(weight)))
        self.train_metrics = threshold_metrics().clone(prefix="train/")
        self.val_metrics = nn.ModuleList(all_metrics().clone(prefix=f"{n}/") for n in VAL_SETS)
        # Metrics, not plain logs: exact where processes have unequal numbers of images.
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.val_losses = nn.ModuleList(MeanMetric(nan_strategy="disable") for _ in VAL_SETS)
        self.test_loss = MeanMetric(nan_strategy="disable")

    def setup(self, stage: str) -> None:
        """Count the classes of the training split for `pos_weight`, and compile, before a fit."""
        if stage != "fit":
            return
        if self.hparams["pos_weight"] == "balanced":
            datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
            if datamodule is None:
                raise ConfigError("model.pos_weight=balanced needs a data module to count classes.")
            normal, pneumonia = datamodule.splits["train"].class_counts()
            self.pos_weight.fill_(normal / pneumonia)
        if self.hparams["compile"]:
            self.network.backbone.compile()  # in place: the checkpoint's keys stay as they are

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of PNEUMONIA, averaged over the views of test-time augmentation.

        Args:
            images: uint8 [N, 1, H, W], 0 black to 255 white.

        Returns:
            float32 [N], raw: the probability is their sigmoid.
        """
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the training loss of a batch, a scalar."""
        labels = batch["label"]
        smoothing = self.hparams["label_smoothing"]
        targets = labels.float() * (1 - smoothing) + smoothing / 2
        logits = self.network.single_view(batch["image"])
        loss = binary_cross_entropy_with_logits(logits, targets, pos_weight=self.pos_weight)
        self.train_metrics.update(torch.sigmoid(logits.detach()), labels)
        self._log("train", loss.detach(), self.train_loss, self.train_metrics, len(labels))
        return loss

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Return `logit`, `label` and `index` of a batch, each [N].

        There is a dataloader for each of `VAL_SETS`.
        """
        labels = batch["label"]
        logits = self.network.single_view(batch["image"])
        # Unweighted and unsmoothed, so that it compares across recipes.
        loss = binary_cross_entropy_with_logits(logits, labels.float())
        # Given logits, torchmetrics decides batch by batch whether to apply the sigmoid.
        metrics = cast(MetricCollection, self.val_metrics[dataloader_idx])
        metrics.update(torch.sigmoid(logits), labels)
        mean = cast(MeanMetric, self.val_losses[dataloader_idx])
        self._log(VAL_SETS[dataloader_idx], loss, mean, metrics, len(labels))
        return {"logit": logits, "label": labels, "index": batch["index"]}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `logit`, `label` and `index` of a batch, each [N]; log `test/loss`.

        All other test metrics are computed from the logits, at the chosen threshold.
        """
        outputs = self.predict_step(batch, batch_idx)
        loss = binary_cross_entropy_with_logits(outputs["logit"], outputs["label"].float())
        count = len(outputs["label"])
        self.test_loss.update(loss.expand(count))
        self.log("test/loss", self.test_loss, on_step=False, on_epoch=True, batch_size=count)
        return outputs

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `logit`, `label` and `index` of a batch, each [N]."""
        # In full precision, as at inference: threshold and temperature are chosen on these.
        with torch.autocast(self.device.type, enabled=False):
            logits = self(batch["image"])
        return {"logit": logits, "label": batch["label"], "index": batch["index"]}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer, and the schedule if there is one."""
        optimizer = build_optimizer(
            self.network.backbone, self.hparams["optimizer"] or {"name": "adam", "lr": 1e-3}
        )
        if self.hparams["schedule"] is None:
            return optimizer
        schedule = build_schedule(
            optimizer,
            self.hparams["schedule"],
            self.trainer.estimated_stepping_batches,
            self.trainer.max_epochs or 1,
        )
        return cast(OptimizerLRScheduler, {"optimizer": optimizer, "lr_scheduler": schedule})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise a CheckpointError for a file of another project or format version."""
        check_format(checkpoint, "the checkpoint")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Mark the format, and make loading independent of downloads and weights files."""
        checkpoint |= describe()
        checkpoint["hyper_parameters"] |= {"pretrained": False, "weights": None}

    def monitors(self, shifted_validation: bool = True) -> dict[str, Literal["min", "max"]]:
        """Return the names of all metrics that a fit logs, each with its better direction."""
        sets = VAL_SETS if shifted_validation else VAL_SETS[:1]
        names = [f"{name}/{key}" for name in sets for key in all_metrics()]
        names += map(str, self.train_metrics.keys())
        losses: dict[str, Literal["min", "max"]] = {f"{n}/loss": "min" for n in ("train", *sets)}
        return losses | dict.fromkeys(names, "max")

    def _log(
        self, name: str, loss: Tensor, mean: MeanMetric, metrics: MetricCollection, n: int
    ) -> None:
        epoch: dict[str, Any] = {
            "on_step": False,
            "on_epoch": True,
            "batch_size": n,
            "add_dataloader_idx": False,
        }
        mean.update(loss.expand(n))  # "disable" makes torchmetrics ignore weights
        self.log(f"{name}/loss", mean, prog_bar=name in {"train", "val"}, **epoch)
        self.log_dict(cast(Any, metrics), **epoch)
