"""How a model came to be: plain values that travel in its checkpoint."""

import os
import platform
from datetime import datetime
from importlib.metadata import version
from typing import Any

import torch
from lightning import Trainer
from omegaconf import OmegaConf

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.data.samples import Samples
from pneumonia.labels import CLASSES
from pneumonia.training.provenance import commit

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "hydra-core", "numpy")


def gather(
    config: dict[str, Any], datamodule: ChestXrayDataModule, trainer: Trainer, started: datetime
) -> dict[str, Any]:
    """Collect what a reader of the report asks: which data, which split, trained how.

    Args:
        config: The composed and resolved configuration.
        datamodule: After its `setup`.
        trainer: After its fit.
        started: When the run started, with a time zone.

    Returns:
        Nested dictionaries of text and numbers: `data`, `holdout` and `training`.
    """
    splits = {name: datamodule.splits[name] for name in ("train", "val")}
    whole = splits["train"] + splits["val"]
    holdout = datamodule.holdout
    return {
        "data": {
            "root": str(datamodule.root),
            "phantom": datamodule.synthetic,
            "fingerprint": whole.fingerprint(),
            "splits": {name: _counts(samples) for name, samples in splits.items()},
        },
        "holdout": {
            "strategy": holdout.strategy,
            "fraction": holdout.fraction,
            "seed": holdout.seed,
        },
        "training": {
            "config": OmegaConf.to_yaml(OmegaConf.create(config)),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(started.tzinfo) - started).total_seconds(), 1),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "commit": commit(),
            "versions": {name: version(name) for name in _PACKAGES},
            "hardware": _hardware(trainer),
        },
    }


def _counts(samples: Samples) -> dict[str, int]:
    normal, pneumonia = samples.class_counts()
    subtypes = {
        str(name): int((samples.subtypes == name).sum())
        for name in sorted(set(samples.subtypes[samples.labels == 1]))
    }
    counts = {"images": len(samples), "patients": len(set(samples.patients))}
    return counts | {CLASSES[0]: normal, CLASSES[1]: pneumonia} | subtypes


def _hardware(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return f"{trainer.world_size} x {torch.cuda.get_device_name(device)}"
    return f"{trainer.world_size} x {device.type}, {os.cpu_count()} cores, {platform.machine()}"
