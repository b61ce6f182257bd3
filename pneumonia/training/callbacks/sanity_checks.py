"""Refuse a run that could only fail or mislead, before its first step."""

from collections.abc import Mapping
from typing import Any, Literal, cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import ConfigError, DataError
from pneumonia.evaluation.abstention import check_alpha
from pneumonia.evaluation.threshold import check_support
from pneumonia.labels import CLASSES
from pneumonia.model.lightning_module import PneumoniaClassifier
from pneumonia.training.resume import RunStart


class SanityChecks(Callback):
    """Check splits, batch size, monitors and the operating point before a fit."""

    def __init__(self, start: RunStart) -> None:
        self.start = start

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check everything that is known before the first step.

        Raises:
            PneumoniaError: If a split, a monitored metric or the operating point cannot work.
        """
        if stage != "fit":
            return
        policy = self.start.config.evaluation
        check_alpha(policy.alpha)
        datamodule: ChestXrayDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if self.start.test:
            if not datamodule.has_split("test"):
                raise DataError(
                    f"{datamodule.root} has no test split to open after the fit. Add one, or set"
                    " test=false."
                )
            if trainer.is_global_zero:  # it makes the cache, which the others open
                datamodule.setup("test")
            trainer.strategy.barrier()
            datamodule.setup("test")  # a fault in it must not appear after hours of training
        _check_splits(datamodule, trainer.world_size)
        if datamodule.sampler == "balanced" and pl_module.hparams.get("pos_weight") == "balanced":
            raise ConfigError(
                "data.sampler=balanced and model.pos_weight=balanced would correct the class"
                " balance twice; set one of them to null."
            )
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for name, value in vars(datamodule.preprocessing).items():
                if pl_module.hparams[name] != value:
                    raise ConfigError(
                        f"model.{name}={pl_module.hparams[name]} contradicts data.{name}={value};"
                        f" set data.{name} only, which model.{name} follows."
                    )
            logged = cast(PneumoniaClassifier, pl_module).monitors(datamodule.shifted_validation)
            _check_monitors(trainer, pl_module.hparams["schedule"] or {}, logged)
            val = datamodule.splits["val"]
            normal, pneumonia = (len(set(val.patients[val.labels == label])) for label in (0, 1))
            check_support(
                policy.operating_point, policy.target, val.class_counts(), (normal, pneumonia)
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that a resumed schedule is as long as this run.

        Raises:
            ConfigError: If the checkpoint's schedule was made for another number of steps.
        """
        given = pl_module.hparams.get("schedule") or {}
        for config in trainer.lr_scheduler_configs:
            length = trainer.estimated_stepping_batches
            if config.interval == "epoch":
                length = trainer.max_epochs or 0
            for name in ("total_steps", "T_max", "total_iters"):
                planned = getattr(config.scheduler, name, length)
                if trainer.global_step and name not in given and planned != length:
                    raise ConfigError(
                        f"the checkpoint's schedule has {planned} {config.interval}s ({name}) and"
                        f" this run {length}. Resume with the same trainer.max_epochs, data and"
                        " data.batch_size, or train from scratch."
                    )


def _check_splits(datamodule: ChestXrayDataModule, processes: int) -> None:
    for name, samples in datamodule.splits.items():
        counts = dict(zip(CLASSES, samples.class_counts(), strict=True))
        found = f"the {name} split of {datamodule.root} has {counts}"
        if min(counts.values()) == 0:
            raise DataError(
                f"{found}; expected both. Change data.split.fraction or data.split.strategy, or add"
                " patients."
            )
        if len(samples) < processes:
            raise ConfigError(f"{found} for {processes} processes; use fewer trainer.devices.")
    size = len(datamodule.splits["train"])
    if datamodule.batch_size > size:
        raise ConfigError(
            f"data.batch_size={datamodule.batch_size} is more than the {size} training images."
        )


def _check_monitors(
    trainer: Trainer, schedule: Mapping[str, Any], logged: Mapping[str, Literal["min", "max"]]
) -> None:
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if trainer.limit_val_batches == 0 or (every and epochs and 0 < epochs < every):
        raise ConfigError(
            "validation would never run, so no checkpoint could be chosen. Set"
            " trainer.limit_val_batches above 0 and trainer.check_val_every_n_epoch to at most"
            " trainer.max_epochs."
        )
    if schedule.get("name") == "ReduceLROnPlateau":
        monitor, mode = schedule.get("monitor", "val/loss"), schedule.get("mode", "min")
        _check_monitor("model.schedule (ReduceLROnPlateau)", monitor, mode, logged)
        if every != 1 and monitor.startswith("val"):
            raise ConfigError(
                f"model.schedule (ReduceLROnPlateau) reads {monitor} after every epoch, but"
                f" trainer.check_val_every_n_epoch={every}; set it to 1."
            )
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not any(isinstance(c, ModelCheckpoint) and c.monitor for c in callbacks):
        raise ConfigError("no best checkpoint would be kept; keep callbacks.best.")
    for callback in callbacks:
        if isinstance(callback, (ModelCheckpoint, EarlyStopping)) and callback.monitor:
            _check_monitor(type(callback).__name__, callback.monitor, callback.mode, logged)


def _check_monitor(
    name: str, monitor: str, mode: str, logged: Mapping[str, Literal["min", "max"]]
) -> None:
    if monitor not in logged:
        raise ConfigError(
            f"{name} monitors {monitor}, which is never logged; expected one of"
            f" {', '.join(logged)}."
        )
    if mode != logged[monitor]:
        raise ConfigError(
            f"{name} monitors {monitor} with mode={mode}; expected mode={logged[monitor]}."
        )
