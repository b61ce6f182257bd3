"""Recalibrates a checkpoint at a new site, from labelled images of that site."""

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from pneumonia import __version__
from pneumonia.data.dataset import read_split
from pneumonia.data.manifest import Manifest
from pneumonia.errors import CheckpointError, DataError, EvaluationError
from pneumonia.evaluation.abstention import DEFAULT_ALPHA, Abstention, check_alpha, fit_abstention
from pneumonia.evaluation.calibration import TEMPERATURES, fit_temperature
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.threshold import OperatingPoint, check_policy, choose_threshold
from pneumonia.inference.metadata import Calibration
from pneumonia.inference.predictor import EXPORTED, Predictor
from pneumonia.labels import CLASSES, SPLITS
from pneumonia.model.checkpoint import read_checkpoint, write_checkpoint

_REPLACED = ("calibration", "operating_point", "abstention")
_WEAK_PENALTY = 1e6
"""Inverse strength of the penalty, so that separable classes have a finite slope."""


def recalibrate_checkpoint(
    checkpoint: str | Path,
    root: str | Path,
    out: str | Path,
    split: str | None = None,
    *,
    patients: str | None = None,
    policy: str | None = None,
    target: float | None = None,
    prevalence: float | None = None,
    alpha: float | None = None,
) -> tuple[Calibration, OperatingPoint, Abstention]:
    """Refit temperature, threshold and abstention on a site's images, into a new checkpoint.

    Its list `recalibration` keeps the values that were replaced and a record of the images.

    Args:
        checkpoint: A `.ckpt` file of this project; it is not changed.
        root: The site's data set.
        out: The new checkpoint.
        split: Which split; None for all that exist.
        patients: How patients are identified; see `pneumonia.data.patients.identify`.
        policy: Of the operating point; None for the checkpoint's, or `sensitivity`.
        target: Of the policy; None for the checkpoint's, if it has this policy.
        prevalence: Fraction of PNEUMONIA at the site, if its labelled images have another.
        alpha: Of the abstention; None for the checkpoint's, or 0.05.

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
    if prevalence is not None and not 0 < prevalence < 1:
        raise EvaluationError(f"prevalence: found {prevalence}, expected a number from 0 to 1.")
    model = Predictor.load(checkpoint, finalized=False)
    policy, target = _policy(model.operating_point, policy, target)
    if alpha is None:
        alpha = DEFAULT_ALPHA if model.abstention is None else model.abstention.alpha
    check_alpha(alpha)
    samples = _read_samples(root, split, patients)
    PredictionTable(label=samples.labels, logit=np.zeros(len(samples)))  # both classes are there
    logits = model.logits([str(path) for path in samples.paths])
    calibration = fit_calibration(samples.labels, logits, prevalence)
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
        "prevalence": prevalence,
        "replaced": {key: content.get(key) for key in _REPLACED},
    }
    content["calibration"] = {"temperature": calibration.temperature, "offset": calibration.offset}
    content["operating_point"] = point.to_dict()
    content["abstention"] = abstention.to_dict()
    content["recalibration"] = [*(content.get("recalibration") or ()), entry]
    write_checkpoint(content, out)
    return calibration, point, abstention


def fit_calibration(
    labels: NDArray[np.int64], logits: NDArray[np.float64], prevalence: float | None = None
) -> Calibration:
    """Fit the temperature, and for a given prevalence the offset, by maximum likelihood.

    The offset is fitted at the fraction f of PNEUMONIA in `labels` and moved by logit(prevalence)
    - logit(f), assuming that images of a class look the same everywhere (Saerens et al., Neural
    Computation 14, 2002, equation 2.4).

    Args:
        labels: Shape (n,), 0 or 1, of both classes.
        logits: Shape (n,), raw and finite.
        prevalence: In (0, 1).
    """
    temperature = fit_temperature(labels, logits)
    if prevalence is None:
        return Calibration(temperature)
    regression = LogisticRegression(C=_WEAK_PENALTY, tol=1e-8, max_iter=1000)
    slope = float(regression.fit(logits[:, None], labels).coef_[0, 0])
    slope = min(max(slope, 1 / TEMPERATURES[1]), 1 / TEMPERATURES[0])
    fraction = float(np.mean(labels))
    scaled = logits * slope
    bound = float(np.abs(scaled).max()) + abs(float(logit(fraction))) + 1
    offset = float(brentq(lambda x: expit(scaled + x).mean() - fraction, -bound, bound))
    return Calibration(1 / slope, offset + float(logit(prevalence) - logit(fraction)))


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
