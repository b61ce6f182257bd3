"""Complete best.ckpt after the fit and before the test, from the validation set alone."""

import logging
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.data.manifest import Manifest
from pneumonia.errors import EvaluationError
from pneumonia.evaluation.abstention import fit_abstention
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.threshold import choose_threshold
from pneumonia.labels import CLASSES
from pneumonia.model.checkpoint import finalize_checkpoint, read_checkpoint
from pneumonia.model.network import Ensemble, PneumoniaNetwork
from pneumonia.model.ood_detector import OODDetector
from pneumonia.training.callbacks.logits import SplitLogits, latest_logits
from pneumonia.training.pipeline import RunComponents
from pneumonia.training.run_record import commit

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "hydra-core", "numpy")


def finalize(run: RunComponents, path: str) -> dict[str, Any]:
    """Choose temperature, threshold, abstention range and OOD detector on the validation set.

    Args:
        run: After its fit; its model gets the weights of the checkpoint.
        path: The best `.ckpt` of the run; it is replaced, unless it is finalized already.

    Returns:
        Content of the finalized checkpoint.

    Raises:
        EvaluationError: If the validation set is too small for the policy's target.
    """
    checkpoint = read_checkpoint(path)
    if "operating_point" in checkpoint:
        return checkpoint
    trainer, datamodule, policy = run.trainer, run.datamodule, run.start.config.evaluation
    metadata = _metadata(run)
    run.model.load_state_dict(checkpoint["state_dict"])
    if (views := run.model.network.n_views) > 1:
        name = run.start.config.model.tta
        log.info("test-time augmentation %s: %d views, %dx the time per image", name, views, views)
    sets = []
    for loader in datamodule.val_dataloader():
        trainer.predict(run.model, loader, return_predictions=False)
        sets.append(latest_logits(trainer))
    additions = calibrate(sets, datamodule.splits["val"].patients, policy) | {"metadata": metadata}
    if trainer.is_global_zero:
        additions |= fit_detector(run.model.network, datamodule, trainer.strategy.root_device)
        checkpoint = finalize_checkpoint(path, checkpoint, **additions)
    trainer.strategy.barrier()
    return checkpoint if trainer.is_global_zero else {**checkpoint, **additions}


def calibrate(
    sets: Sequence[SplitLogits], patients: NDArray[np.str_], policy: DictConfig
) -> dict[str, Any]:
    """Choose temperature, threshold and abstention range on the validation set.

    Args:
        sets: Its logits, of the clean images and under each simulated shift.
        patients: Of all images of the validation set.
        policy: The section `evaluation` of the configuration.

    Returns:
        The entries `calibration`, `operating_point` and `abstention` of a finalized checkpoint.

    Raises:
        EvaluationError: If the validation set is too small for the policy's target.
    """
    found = sets[0]
    patients = patients[found.rows]
    temperature = fit_temperature(found.labels, found.logits)
    probabilities, *shifted = [sigmoid(each.logits / temperature) for each in sets]
    point = choose_threshold(
        found.labels,
        probabilities,
        patients,
        policy.operating_point,
        policy.target,
        shifted=shifted,
        on_shifted=policy.threshold_on_shifted,
    )
    abstention = fit_abstention(
        found.labels, probabilities, patients, point.threshold, policy.alpha
    )
    log.info(
        "temperature %.3f, threshold %.4f (%s): validation estimate sensitivity %.3f, specificity"
        " %.3f (shifted: %.3f, %.3f); uncertain from %.4f to below %.4f",
        temperature,
        point.threshold,
        point.policy,
        point.sensitivity,
        point.specificity,
        point.shifted_sensitivity or math.nan,
        point.shifted_specificity or math.nan,
        abstention.lower,
        abstention.upper,
    )
    return {
        "calibration": {"temperature": temperature},
        "operating_point": point.to_dict(),
        "abstention": abstention.to_dict(),
    }


def fit_detector(
    network: PneumoniaNetwork | Ensemble, datamodule: ChestXrayDataModule, device: torch.device
) -> dict[str, Any]:
    """Fit the OOD detector on the validation set.

    Returns:
        The entries `ood_detector` and `ood_threshold` of a finalized checkpoint; none if the
        validation set is too small.
    """
    validation = datamodule.dataset("val")
    network = network.to(device).eval()
    loader = DataLoader(validation, datamodule.batch_size)
    with torch.inference_mode():
        found = [network.embed(batch["image"].to(device))[1].cpu() for batch in loader]
    images = (batch["image"] for batch in loader)
    try:
        detector = OODDetector.fit(images, torch.cat(found), validation.samples.patients)
    except EvaluationError as error:
        log.warning("no OOD detector: %s", error)
        return {}
    return {"ood_detector": detector.to_dict(), "ood_threshold": detector.threshold}


def _metadata(run: RunComponents) -> dict[str, Any]:
    """What the report says about data, split and training, as text and numbers."""
    datamodule, trainer = run.datamodule, run.trainer
    splits = {name: datamodule.splits[name] for name in ("train", "val")}
    return {
        "data": {
            "root": str(datamodule.root),
            "synthetic": datamodule.synthetic,
            "fingerprint": (splits["train"] + splits["val"]).fingerprint(),
            "validation_fingerprint": splits["val"].fingerprint(),
            "splits": {name: _counts(samples) for name, samples in splits.items()},
        },
        "split": {
            name: getattr(datamodule.validation_split, name)
            for name in ("strategy", "fraction", "seed")
        },
        "training": {
            "config": OmegaConf.to_yaml(run.start.config, resolve=True),
            "started": run.started.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(UTC) - run.started).total_seconds(), 1),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "commit": commit(),
            "versions": {name: version(name) for name in _PACKAGES},
            "hardware": _hardware(trainer),
        },
    }


def _counts(samples: Manifest) -> Mapping[str, int]:
    subtypes = samples.subtypes[samples.labels == 1]
    return {
        "images": len(samples),
        "patients": len(set(samples.patients)),
        **dict(zip(CLASSES, samples.class_counts(), strict=True)),
        **{str(name): int((subtypes == name).sum()) for name in sorted(set(subtypes))},
    }


def _hardware(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return f"{trainer.world_size} x {torch.cuda.get_device_name(device)}"
    return f"{trainer.world_size} x {device.type}, {os.cpu_count()} cores, {platform.machine()}"
