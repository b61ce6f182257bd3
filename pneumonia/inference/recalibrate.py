"""A checkpoint moved to a site: temperature, threshold, band and prevalence from its images."""

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pneumonia import __version__
from pneumonia.data.dataset import read_split
from pneumonia.data.manifest import Manifest
from pneumonia.errors import CheckpointError, DataError, EvaluationError
from pneumonia.evaluation.abstention import DEFAULT_ALPHA, Abstention, check_alpha, fit_abstention
from pneumonia.evaluation.calibration import TEMPERATURES, fit_recalibration, fit_temperature
from pneumonia.evaluation.predictions import check_labels, sigmoid
from pneumonia.evaluation.threshold import OperatingPoint, check_policy, choose_threshold
from pneumonia.inference.metadata import Calibration, read_abstention
from pneumonia.inference.predictor import EXPORTED, InferenceModel
from pneumonia.model.checkpoint import read_checkpoint, write_checkpoint

SPLITS = ("train", "val", "test")
_HALVINGS = 200
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
    prevalence: float | None = None,
    alpha: float | None = None,
) -> tuple[Calibration, OperatingPoint, Abstention]:
    """Refit temperature, threshold and band on a site's labelled images, into a new checkpoint.

    The weights stay as they are. What was in force before goes to the end of the list
    `recalibration` of the new checkpoint, together with what was done.

    Args:
        checkpoint: A `.ckpt` file of this project; it is not changed.
        root: The site's data set.
        out: The new checkpoint.
        split: Which split; None for all that are there.
        patients: What a patient is; see `pneumonia.data.patients.identify`.
        policy: Of the operating point; None for the one in the checkpoint, or `sensitivity`.
        target: Of the policy; None for the one in the checkpoint, if the policy is.
        prevalence: The share of PNEUMONIA among those the site X-rays, if its labelled images
            have another.
        alpha: That the band of abstention is chosen for; None for the one in the
            checkpoint, or 0.05.

    Returns:
        The new calibration, operating point and band.

    Raises:
        CheckpointError: If the checkpoint cannot be used, or `out` is that very file or cannot
            be written.
        DataError: If the folder cannot be used.
        EvaluationError: If the images cannot support the policy.
    """
    out = Path(out)
    if EXPORTED in (Path(checkpoint).suffix.lower(), out.suffix.lower()):
        raise CheckpointError(
            "An exported model keeps the calibration it has: calibrate its checkpoint (.ckpt) into"
            " a new one, and export that."
        )
    if out.exists() and out.samefile(checkpoint):
        raise CheckpointError(f"{out} is the checkpoint itself, which is kept; name a new file.")
    if prevalence is not None and not 0 < prevalence < 1:
        raise EvaluationError(f"The prevalence is {prevalence}; give a share between 0 and 1.")
    classifier = InferenceModel.load(checkpoint)
    policy, target = _policy(classifier.operating_point, policy, target)
    if alpha is None:
        before = read_abstention(classifier.checkpoint, checkpoint)
        alpha = DEFAULT_ALPHA if before is None else before.alpha
    check_alpha(alpha)
    samples = _samples(root, split, patients)
    check_labels(samples.labels)  # before minutes of work
    logits = classifier.logits([str(path) for path in samples.paths])
    calibration = fit(samples.labels, logits, prevalence)
    probabilities = calibration(logits)
    point = choose_threshold(samples.labels, probabilities, samples.patients, policy, target)
    band = fit_abstention(samples.labels, probabilities, samples.patients, point.threshold, alpha)
    content = read_checkpoint(checkpoint)
    normal, pneumonia = samples.class_counts()
    entry = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "pneumonia_version": __version__,
        "root": os.fspath(root),
        "splits": split or "all",
        "images": len(samples),
        "patients": len(np.unique(samples.patients)),
        "NORMAL": normal,
        "PNEUMONIA": pneumonia,
        "fingerprint": samples.fingerprint(),
        "prevalence": prevalence,
        "replaced": {key: content.get(key) for key in _REPLACED},
    }
    content["calibration"] = {"temperature": calibration.temperature, "offset": calibration.offset}
    content["operating_point"] = point.to_dict()
    content["abstention"] = band.to_dict()
    content["recalibration"] = [*(content.get("recalibration") or ()), entry]
    write_checkpoint(content, out)
    return calibration, point, band


def fit(
    labels: NDArray[np.int64], logits: NDArray[np.float64], prevalence: float | None = None
) -> Calibration:
    """Fit the temperature, and for a given prevalence the offset, by maximum likelihood.

    Without a prevalence the offset is 0 and the temperature that of `fit_temperature`. With one,
    temperature (within its bounds) and offset are first fitted together, so that probabilities
    hold at the labelled images' own share pi of PNEUMONIA. Then the prior is exchanged: with
    p' / (1 - p') = p / (1 - p) * (P / (1 - P)) / (pi / (1 - pi)), the offset grows by
    logit(P) - logit(pi). Elkan, IJCAI 2001, theorem 2; Saerens, Latinne and Decaestecker, Neural
    Computation 14 (2002), equation 2.4. This supposes that sick and healthy children look as they
    do in the labelled images, and that only their shares differ.

    Args:
        labels: Shape (n,), 0 or 1, of both classes.
        logits: Shape (n,), raw.
        prevalence: P, in (0, 1).

    Raises:
        EvaluationError: If the labels are of one class, or a logit is not finite.
    """
    if prevalence is None:
        return Calibration(fit_temperature(labels, logits))
    truth = check_labels(labels)
    slope = float(fit_recalibration(truth, logits, np.ones((1, truth.size))).slope[0])
    if np.isnan(slope):  # separable: as steep as may be, in whichever direction
        slope = 1 / fit_temperature(labels, logits)
    slope = min(max(slope, 1 / TEMPERATURES[1]), 1 / TEMPERATURES[0])
    share = float(truth.mean())
    return Calibration(
        1 / slope, _intercept(logits * slope, share) + _log_odds(prevalence) - _log_odds(share)
    )


def _intercept(scaled: NDArray[np.float64], share: float) -> float:
    """Find the offset at which the mean probability is the share of PNEUMONIA, by bisection."""
    reach = float(np.abs(scaled).max()) + abs(_log_odds(share)) + 1
    low, high = -reach, reach
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(scaled + middle).mean() < share else (low, middle)
    return (low + high) / 2


def _log_odds(share: float) -> float:
    return float(np.log(share) - np.log1p(-share))


def _policy(
    point: OperatingPoint | None, policy: str | None, target: float | None
) -> tuple[str, float | None]:
    if policy is None:
        policy = point.policy if point is not None else "sensitivity"
    if target is None and point is not None and point.policy == policy:
        target = point.target
    return policy, check_policy(policy, target)


def _samples(root: str | Path, split: str | None, patients: str | None) -> Manifest:
    names = [split] if split else [name for name in SPLITS if (Path(root) / name).is_dir()]
    if not names:
        raise DataError(
            f"{root} holds none of the folders {', '.join(SPLITS)}; put the site's images into"
            f" {Path(root) / 'test'}, in NORMAL and PNEUMONIA."
        )
    samples, *others = [read_split(root, name, patients) for name in names]
    for other in others:
        samples = samples + other
    return samples
