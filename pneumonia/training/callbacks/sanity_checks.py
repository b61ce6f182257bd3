"""What must hold before the first step, and after the last."""

import difflib
from collections.abc import Mapping
from typing import Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import ConfigError, DataError, TrainingError
from pneumonia.evaluation.abstention import DEFAULT_ALPHA, check_alpha
from pneumonia.evaluation.threshold import check_support
from pneumonia.labels import CLASSES
from pneumonia.model.lightning_module import PneumoniaClassifier


class SanityChecks(Callback):
    """Refuse a run that could only fail, or worse, succeed without meaning.

    Args:
        policy: How the operating point will be chosen.
        target: Of the policy.
        test: Whether the test split will be opened after the fit.
        alpha: That the band of abstention will be chosen for.
    """

    def __init__(
        self,
        policy: str = "sensitivity",
        target: float | None = None,
        test: bool = False,
        alpha: float = DEFAULT_ALPHA,
    ) -> None:
        self.policy = policy
        self.target = target
        self.test = test
        self.alpha = alpha

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check splits, batch size and monitors before a fit.

        Raises:
            DataError: If a split is empty or has one class.
            ConfigError: If the batch is larger than the split, validation would never run,
                or a monitored metric would never be logged.
            EvaluationError: If the hold-out cannot support the operating point asked for, or the
                error of the band is none.
        """
        if stage != "fit":
            return
        check_alpha(self.alpha)
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if self.test:
            if not datamodule.has("test"):
                raise DataError(
                    f"{datamodule.root} has no test split to open after the fit; add one, or train"
                    " without it by test=false."
                )
            datamodule.setup("test")  # lists it: a fault must not show after hours of training
        _check_splits(datamodule, trainer.world_size)
        if datamodule.sampler == "balanced" and pl_module.hparams.get("pos_weight") == "balanced":
            raise ConfigError(
                "data.sampler=balanced and model.pos_weight=balanced would correct the balance"
                " twice; set one of them to null."
            )
        if not is_fast_dev_run(trainer) and isinstance(pl_module, PneumoniaClassifier):
            _check_input(datamodule, pl_module)
            _check_monitors(trainer, pl_module)
            val = datamodule.splits["val"]
            patients = [len(set(val.patients[val.labels == label])) for label in (0, 1)]
            check_support(self.policy, self.target, val.class_counts(), (patients[0], patients[1]))

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
                        f"the checkpoint goes on with a schedule of {planned} {config.interval}s"
                        f" ({name}) and this run has {length}; resume with the trainer.max_epochs,"
                        " data and batch size it was made with, or train anew."
                    )


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Whether the Trainer only tries the code out, and saves nothing."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # set from outside


def best_checkpoint(trainer: Trainer) -> tuple[str, float]:
    """Path of the best checkpoint of a finished fit, and its monitored metric.

    Raises:
        TrainingError: If none was saved.
    """
    callback = trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or callback.best_model_score is None:
        raise TrainingError(
            f"the fit ended after {trainer.current_epoch} epochs and {trainer.global_step} steps"
            " without saving a best checkpoint, so there is no model to test; train at least one"
            " whole epoch, and keep callbacks.best."
        )
    return callback.best_model_path, float(callback.best_model_score)


def _check_splits(datamodule: ChestXrayDataModule, processes: int) -> None:
    for name, samples in datamodule.splits.items():
        if len(samples) < processes:
            raise ConfigError(
                f"the {name} split of {datamodule.root} has {len(samples)} images, fewer than the"
                f" {processes} processes that share it; use fewer trainer.devices."
            )
        for count, label in zip(samples.class_counts(), CLASSES, strict=True):
            if count == 0:
                raise DataError(
                    f"the {name} split of {datamodule.root} has {len(samples)} images and none of"
                    f" {label}; change data.holdout.fraction or data.holdout.strategy, or add"
                    " patients."
                )
    size = len(datamodule.splits["train"])
    if datamodule.batch_size > size:
        raise ConfigError(
            f"data.batch_size={datamodule.batch_size} is more than the {size} training images;"
            f" use at most {size}."
        )


def _check_input(datamodule: ChestXrayDataModule, model: PneumoniaClassifier) -> None:
    for name, given in vars(datamodule.preprocessing).items():
        if model.hparams[name] != given:
            raise ConfigError(
                f"model.{name}={model.hparams[name]} contradicts data.{name}={given}, and it is"
                f" the model's that its users would read images with; set data.{name} only."
            )


def _check_monitors(trainer: Trainer, model: PneumoniaClassifier) -> None:
    epochs = trainer.max_epochs
    every = trainer.check_val_every_n_epoch
    if trainer.limit_val_batches == 0 or (every and epochs and 0 < epochs < every):
        raise ConfigError(
            "validation would never run, so no checkpoint could be chosen; set"
            " trainer.limit_val_batches above 0 and trainer.check_val_every_n_epoch within"
            " trainer.max_epochs."
        )
    _check_plateau(trainer, model)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not any(isinstance(c, ModelCheckpoint) and c.monitor for c in callbacks):
        raise ConfigError(
            "nothing keeps the best checkpoint, so there would be no model to test; keep"
            " callbacks.best."
        )
    for callback in callbacks:
        if not isinstance(callback, (ModelCheckpoint, EarlyStopping)) or not callback.monitor:
            continue
        logged = model.monitors()
        _check_monitor(type(callback).__name__, callback.monitor, callback.mode, logged)


def _check_plateau(trainer: Trainer, model: PneumoniaClassifier) -> None:
    schedule = model.hparams["schedule"] or {}
    if schedule.get("name") != "ReduceLROnPlateau":
        return
    monitor, mode = schedule.get("monitor", "val/loss"), schedule.get("mode", "min")
    _check_monitor("model.schedule (ReduceLROnPlateau)", monitor, mode, model.monitors())
    if trainer.check_val_every_n_epoch != 1 and monitor.startswith("val/"):
        raise ConfigError(
            f"model.schedule (ReduceLROnPlateau) watches {monitor} after every epoch, and"
            f" trainer.check_val_every_n_epoch={trainer.check_val_every_n_epoch}; set that to 1."
        )


def _check_monitor(
    name: str, monitor: str, mode: str, logged: Mapping[str, Literal["min", "max"]]
) -> None:
    if monitor not in logged:
        close = difflib.get_close_matches(monitor, logged, 1)
        raise ConfigError(
            f"{name} watches {monitor}, which is never logged"
            + (f"; did you mean {close[0]}?" if close else f"; there is {', '.join(logged)}.")
        )
    if mode != logged[monitor]:
        raise ConfigError(
            f"{name} watches {monitor} with mode {mode}, but better is {logged[monitor]}; set"
            f" mode={logged[monitor]}."
        )
