"""Recalibrates a checkpoint at a new site, from labelled images of that site."""

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pneumonia import __version__
from pneumonia.data.dataset import read_split
from pneumonia.data.manifest import Manifest
from pneumonia.errors import CheckpointError, DataError
from pneumonia.evaluation.abstention import DEFAULT_ALPHA, Abstention, check_alpha, fit_abstention
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.threshold import OperatingPoint, check_policy, choose_threshold
from pneumonia.inference.metadata import Calibration
from pneumonia.inference.predictor import EXPORTED, Predictor
from pneumonia.labels import CLASSES, SPLITS
from pneumonia.model.checkpoint import read_checkpoint, write_checkpoint

_REPLACED = ("calibration", "operating_point", "abstention")


def recalibrate_checkpoint(
    checkpoint: str | Path,
    root: str | Path,
    out: str | Path,
    split: str | None = None,
    *,
    patients: str | None = None,
    policy: str | None = None,
    target: float | None = None,
    alpha: float | None = None,
) -> tuple[Calibration, OperatingPoint, Abstention]:
    """Refit temperature, threshold and abstention on a site's images, into a new checkpoint.

    Its list `recalibration` keeps the values that were replaced and a record of the images.

    Args:
        checkpoint: A `.ckpt` file of this project; it is not changed.
        root: The site's data set.
        out: The new checkpoint.
        split: Which split; None for all that exist.
        patients: How patients are identified; see `pneumonia.data.patients.identify_patients`.
        policy: Policy of the operating point; None for the checkpoint's, or `sensitivity`.
        target: Target of the policy; None for the checkpoint's, if it has this policy.
        alpha: Alpha of the abstention; None for the checkpoint's, or 0.05.

    Raises:
        CheckpointError: If the checkpoint cannot be used, or `out` cannot be written.
        DataError: If the folder cannot be used.
        EvaluationError: If the images cannot support the policy.
    """
    out = Path(out)
    if EXPORTED in (Path(checkpoint).suffix.lower(), out.suffix.lower()):
        raise CheckpointError(
            "An exported model (.onnx) cannot be recalibrated. Recalibrate its checkpoint (.ckpt)"
            " and export the new one."
        )
    if out.exists() and out.samefile(checkpoint):
        raise CheckpointError(f"{out} is the checkpoint itself; name a new file.")
    model = Predictor.load(checkpoint, finalized=False)
    policy, target = _policy(model.operating_point, policy, target)
    if alpha is None:
        alpha = DEFAULT_ALPHA if model.abstention is None else model.abstention.alpha
    check_alpha(alpha)
    samples = _read_samples(root, split, patients)
    PredictionTable(label=samples.labels, logit=np.zeros(len(samples)))  # both classes are there
    logits = model.logits([str(path) for path in samples.paths])
    calibration = Calibration(fit_temperature(samples.labels, logits))
    probabilities = calibration(logits)
    point = choose_threshold(samples.labels, probabilities, samples.patients, policy, target)
    abstention = fit_abstention(
        samples.labels, probabilities, samples.patients, point.threshold, alpha
    )
    content = read_checkpoint(checkpoint)
    entry = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "pneumonia_version": __version__,
        "root": os.fspath(root),
        "splits": split or "all",
        "images": len(samples),
        "patients": len(np.unique(samples.patients)),
        **dict(zip(CLASSES, samples.class_counts(), strict=True)),
        "fingerprint": samples.fingerprint(),
        "replaced": {key: content.get(key) for key in _REPLACED},
    }
    content["calibration"] = {"temperature": calibration.temperature}
    content["operating_point"] = point.to_dict()
    content["abstention"] = abstention.to_dict()
    content["recalibration"] = [*(content.get("recalibration") or ()), entry]
    write_checkpoint(content, out)
    return calibration, point, abstention


def _policy(
    point: OperatingPoint | None, policy: str | None, target: float | None
) -> tuple[str, float | None]:
    if policy is None:
        policy = point.policy if point is not None else "sensitivity"
    if target is None and point is not None and point.policy == policy:
        target = point.target
    return policy, check_policy(policy, target)


def _read_samples(root: str | Path, split: str | None, patients: str | None) -> Manifest:
    names = [split] if split else [name for name in SPLITS if (Path(root) / name).is_dir()]
    if not names:
        raise DataError(
            f"{root} has none of the folders {', '.join(SPLITS)}; put the site's images into"
            f" {Path(root) / 'test'}/NORMAL and PNEUMONIA."
        )
    samples, *others = [read_split(root, name, patients) for name in names]
    for other in others:
        samples = samples + other
    return samples
