"""Optimizer and learning-rate schedule by name, from timm's and torch's own factories."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import timm.optim
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from pneumonia.errors import ConfigError

_SCHEDULES = {
    name: value
    for name, value in vars(lr_scheduler).items()
    if inspect.isclass(value)
    and issubclass(value, lr_scheduler.LRScheduler)
    and value is not lr_scheduler.LRScheduler
    and not name.startswith("_")
}


def build_optimizer(model: nn.Module, settings: Mapping[str, Any]) -> Optimizer:
    """Build an optimizer through `timm.optim.create_optimizer_v2`.

    Args:
        model: A timm model: its parameter groups (no decay of biases and norms, layer decay)
            follow from what it declares about its layers.
        settings: `name`, such as `adam`, `adamw`, `sgd` (`timm.optim.list_optimizers()`),
            and keywords of that function: `lr`, `weight_decay`, `layer_decay`, `betas`, ...

    Raises:
        ConfigError: If the name or a keyword is unknown, or a value out of range.
    """
    name, keywords = _split_name("model.optimizer", settings)
    if name not in timm.optim.list_optimizers():
        raise ConfigError(
            f"model.optimizer.name={name} is unknown; choose one of timm.optim.list_optimizers(),"
            " such as adam, adamw or sgd."
        )
    try:
        optimizer = timm.optim.create_optimizer_v2(model, opt=name, **keywords)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.optimizer: {error}.") from error
    for group in optimizer.param_groups:  # only timm's own schedules would apply layer decay
        group["lr"] *= group.pop("lr_scale", 1.0)
    return optimizer


def build_schedule(
    optimizer: Optimizer, settings: Mapping[str, Any], total_steps: float, epochs: int
) -> dict[str, Any]:
    """Build one of `torch.optim.lr_scheduler`, with its length filled in.

    Args:
        optimizer: The optimizer to schedule.
        settings: `name`, a class name such as `OneCycleLR`; `interval`, `step` (default) or
            `epoch`; `monitor` for `ReduceLROnPlateau` (default `val/loss`), stepped each epoch; and
            keywords of the class, by default `total_steps`, `T_max`, `total_iters` and `max_lr` of
            the run.
        total_steps: Optimizer steps of the run; infinite without a limit.
        epochs: Epochs of the run; -1 without a limit.

    Returns:
        Lightning's scheduler configuration.

    Raises:
        ConfigError: If the name or a keyword is unknown, or a value out of range.
    """
    name, keywords = _split_name("model.schedule", settings)
    if name not in _SCHEDULES:
        raise ConfigError(
            f"model.schedule.name={name} is unknown; choose one of {', '.join(sorted(_SCHEDULES))}."
        )
    config: dict[str, Any] = {"interval": keywords.pop("interval", "step")}
    if name == "ReduceLROnPlateau":
        config = {"interval": "epoch", "monitor": keywords.pop("monitor", "val/loss")}
    interval = config["interval"]
    if interval not in ("step", "epoch"):
        raise ConfigError(f"model.schedule.interval={interval} must be step or epoch.")
    accepted = inspect.signature(_SCHEDULES[name]).parameters
    length = total_steps if interval == "step" else epochs
    for key in ("total_steps", "T_max", "total_iters"):
        if key not in accepted or key in keywords:
            continue
        if not 0 < length < math.inf:
            raise ConfigError(
                f"model.schedule.name={name} needs the length of the run; set trainer.max_epochs"
                f" or model.schedule.{key}."
            )
        keywords[key] = int(length)
    if "max_lr" in accepted:
        keywords.setdefault("max_lr", [group["lr"] for group in optimizer.param_groups])
    try:
        return {"scheduler": _SCHEDULES[name](optimizer, **keywords), **config}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.schedule: {error}.") from error
    except ZeroDivisionError as error:  # a phase of the schedule has no step of its own
        raise ConfigError(
            f"model.schedule.name={name} is too long for a run of {length} {interval}s; train"
            " for longer, or set model.schedule=null."
        ) from error


def _split_name(key: str, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    keywords = dict(settings)
    if "name" not in keywords:
        raise ConfigError(f"{key}.name is missing beside {', '.join(keywords)}.")
    return str(keywords.pop("name")), keywords
