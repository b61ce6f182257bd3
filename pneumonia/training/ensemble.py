"""Combine the networks of several runs into one checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader
from yaml import YAMLError

from pneumonia.data.datamodule import ChestXrayDataModule, TableDataModule
from pneumonia.data.dataset import Item
from pneumonia.data.split import ValidationSplit
from pneumonia.errors import DAMAGED, CheckpointError, DataError
from pneumonia.evaluation.threshold import OperatingPoint
from pneumonia.inference.metadata import ModelMetadata
from pneumonia.inference.predictor import EXPORTED
from pneumonia.inference.torch_backend import open_checkpoint
from pneumonia.labels import VAL_SETS
from pneumonia.model.checkpoint import finalize_checkpoint, read_checkpoint
from pneumonia.model.network import Ensemble, PneumoniaNetwork
from pneumonia.training.callbacks.logits import SplitLogits
from pneumonia.training.finalize import calibrate, fit_detector

MEAN = "mean of logits"

_MEMBER_KEYS = ("backbone", "tta")
"""Hyperparameters in which the members of an ensemble may differ."""
_DATA_KEYS = ("image_size", "resize_mode", "interpolation", "batch_size", "patients", "cache")


@dataclass(frozen=True)
class EnsembleResult:
    """What an ensemble gains.

    Attributes:
        auroc: Of each member by its file, and of `MEAN`; for each of `VAL_SETS` that was scored.
        n_views: Forward passes through a backbone per image.
        operating_point: The new threshold.
    """

    auroc: dict[str, dict[str, float]]
    n_views: int
    operating_point: OperatingPoint


def ensemble_checkpoints(
    checkpoints: Sequence[str | Path], root: str | Path, out: str | Path, device: str = "auto"
) -> EnsembleResult:
    """Combine finalized checkpoints into one, finalized on the validation split that they share.

    The new checkpoint has all networks, whose logits are averaged. Data settings and the policy of
    the operating point are those of the first member.

    Args:
        checkpoints: Two or more `best.ckpt` of finished runs.
        root: The data set of these runs; of a table, the file.
        out: The new checkpoint.
        device: As for `Predictor.load`.

    Raises:
        CheckpointError: If a checkpoint cannot be used, or members differ in validation images,
            preprocessing or classes.
        DataError: If the data set is another one, or cannot be used.
        EvaluationError: If the validation set is too small for the operating point.
    """
    names = [str(path) for path in checkpoints]
    if len(set(names)) < max(2, len(names)):
        raise CheckpointError("an ensemble needs two or more different checkpoints.")
    if Path(out).exists() and any(Path(out).samefile(name) for name in names):
        raise CheckpointError(f"{out} is itself a member; name a new file.")
    if Path(out).suffix.lower() == EXPORTED:
        raise CheckpointError(f"{out} must not end in {EXPORTED}; name a checkpoint (.ckpt).")
    opened = [open_checkpoint(name, device) for name in names]
    common = _check_members({name: each for name, (_, each) in zip(names, opened, strict=True)})
    members = [cast(PneumoniaNetwork, backend.network) for backend, _ in opened]
    settings = [content.checkpoint["hyper_parameters"] for _, content in opened]
    config = _config(opened[0][1])
    datamodule = _datamodule(config, root)
    datamodule.setup("fit")
    train, val = datamodule.splits["train"], datamodule.splits["val"]
    known = (common["images"], common["validation images"])
    if ((train + val).fingerprint(), val.fingerprint()) != known:
        raise DataError(f"{root} does not hold the images that {names[0]} was trained on.")

    loaders = datamodule.val_dataloader()
    logits = {
        name: [_logits(member, loader) for loader in loaders]
        for name, member in zip(names, members, strict=True)
    }
    logits[MEAN] = [np.mean(found, 0) for found in zip(*logits.values(), strict=True)]
    network = Ensemble(members)
    auroc = {
        name: {
            key: float(roc_auc_score(val.labels, scores))
            for key, scores in zip(VAL_SETS, found, strict=True)
        }
        for name, found in logits.items()
    }

    rows = np.arange(len(val))
    sets = [SplitLogits(rows, val.labels, scores) for scores in logits[MEAN]]
    additions = calibrate(sets, val.patients, config.evaluation)
    additions |= fit_detector(network, datamodule, network.device)
    runs = [content.checkpoint["metadata"]["training"] for _, content in opened]
    metadata = opened[0][1].checkpoint["metadata"]
    additions["metadata"] = metadata | {
        "training": runs[0]
        | {
            "ensemble": f"{MEAN} of runs started {', '.join(run['started'] for run in runs)}",
            "seconds": sum(run["seconds"] for run in runs),
        }
    }
    content = read_checkpoint(names[0])
    state = {f"network.{key}": value.cpu() for key, value in network.state_dict().items()}
    content["hyper_parameters"] |= {
        "backbone": " + ".join(one["backbone"] for one in settings),
        "tta": " + ".join(one["tta"] for one in settings if one.get("tta")) or None,
        "members": [{key: one.get(key) for key in _MEMBER_KEYS} for one in settings],
    }
    content["state_dict"] = state
    finalize_checkpoint(out, content, **additions)
    point = OperatingPoint.from_dict(additions["operating_point"])
    return EnsembleResult(auroc, network.n_views, point)


def _config(content: ModelMetadata) -> DictConfig:
    """The configuration of the run that a checkpoint comes from."""
    config = OmegaConf.create(content.checkpoint["metadata"]["training"]["config"])
    config.evaluation.threshold_on_shifted &= config.data.shifted_validation
    return cast(DictConfig, config)


def _check_members(contents: Mapping[str, ModelMetadata]) -> dict[str, Any]:
    """Refuse members that do not belong together; returns what they have in common."""
    (first, common), *others = [(name, _settings(each, name)) for name, each in contents.items()]
    for name, found in others:
        for key in common | found:
            a, b = found.get(key), common.get(key)
            if a != b:
                raise CheckpointError(
                    f"{name} has {key}={a}, {first} has {b}; members of an ensemble need the same"
                    " validation images and preprocessing."
                )
    return common


def _settings(content: ModelMetadata, name: str) -> dict[str, Any]:
    """Settings that all members must share, by their name in messages."""
    if "members" in content.checkpoint["hyper_parameters"]:
        raise CheckpointError(f"{name} is an ensemble itself; name its members instead.")
    try:
        _config(content)  # can be read
        data = content.checkpoint["metadata"]["data"]
        return {
            **{f"model.{key}": value for key, value in asdict(content.preprocessing).items()},
            "images": data["fingerprint"],
            "validation images": data["validation_fingerprint"],
        }
    except (YAMLError, OmegaConfBaseException, *DAMAGED) as error:
        raise CheckpointError(
            f"{name} has no record of its training images; name the best.ckpt of a finished run."
        ) from error


def _datamodule(config: DictConfig, root: str | Path) -> ChestXrayDataModule:
    """The data module of a run. No class that the checkpoint names is imported."""
    data = cast(dict[str, Any], OmegaConf.to_container(config.data))
    settings = {key: data[key] for key in _DATA_KEYS if key in data}
    del data["split"]["_target_"]
    settings["split"] = ValidationSplit(**data["split"])
    if "table" in data:
        return TableDataModule(root, data["root"], **settings)
    return ChestXrayDataModule(root, **settings)


def _logits(network: PneumoniaNetwork, loader: DataLoader[Item]) -> NDArray[np.float64]:
    with torch.inference_mode():
        found = [network(batch["image"].to(network.device)).cpu() for batch in loader]
    return torch.cat(found).double().numpy()
