"""A checkpoint, a folder of labelled images -> a result in files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.dataset import read_split
from pneumonia.data.image_io import read_grey
from pneumonia.data.manifest import Manifest
from pneumonia.evaluation.confidence import REPLICATES
from pneumonia.evaluation.evaluate import (
    EvaluatedModel,
    EvaluationResult,
    ShortcutProbe,
    evaluate_predictions,
)
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.report.write import CARD_FILE, write_report
from pneumonia.inference.metadata import read_abstention, read_calibration, read_operating_point
from pneumonia.inference.predictor import InferenceModel
from pneumonia.inference.shortcut_probe import probe_shortcuts as measure_shortcuts
from pneumonia.model.checkpoint import read_checkpoint

SPLITS = ("train", "val", "test")
_SIDE = 400
"""Pixels of an image's longer side, before the report makes it smaller still."""

_SEEN = (
    "These very images chose the threshold when the checkpoint was calibrated again: the figures"
    " flatter."
)


def evaluate_checkpoint(
    checkpoint: str | Path,
    root: str | Path,
    directory: str | Path,
    split: str = "test",
    *,
    patients: str | None = None,
    threshold: float | None = None,
    probe: bool = False,
    seed: int = 0,
) -> tuple[EvaluationResult, list[Path]]:
    """Test a checkpoint on a split of a data set, and write the result down.

    Args:
        checkpoint: A `.ckpt` file of this project.
        root: The data set, with `train`, `val` and `test` in it.
        directory: Where the files go.
        split: Which split.
        patients: What a patient is; see `pneumonia.data.patients.identify`.
        threshold: To use instead of the checkpoint's.
        probe: Also run the shortcut probe, which takes three more passes.
        seed: Of the bootstrap.

    Returns:
        The result, and the files written.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        DataError: If the folder or a file in it cannot be used.
        EvaluationError: If the images cannot be evaluated, or a file cannot be written.
    """
    classifier = InferenceModel.load(checkpoint)
    samples = read_split(root, split, patients)
    logits = classifier.logits([str(path) for path in samples.paths])
    predictions = PredictionTable(
        path=samples.paths,
        label=samples.labels,
        logit=logits,
        probability=classifier.probabilities(logits),
        patient=samples.patients,
        subtype=samples.subtypes,
    )
    subject = describe(
        classifier.checkpoint,
        checkpoint,
        f"split {split} of {root}",
        samples,
        _flattery(split),
    )
    dossier = evaluate_predictions(
        predictions,
        subject,
        threshold,
        probes=measure_shortcuts(classifier, samples, logits) if probe else (),
        load_image=thumbnail,
        seed=seed,
    )
    return dossier, write_report(dossier, directory, Path(directory) / CARD_FILE)


def write_evaluation(
    checkpoint: str | Path,
    predictions: PredictionTable,
    directory: str | Path,
    data: str,
    *,
    probes: Sequence[ShortcutProbe] = (),
    seed: int = 0,
    replicates: int = REPLICATES,
) -> EvaluationResult:
    """Write down what a checkpoint said of a test: the end of a training.

    Writes `metrics.json`, `predictions.csv` and `report.html` into the directory, and
    `MODEL_CARD.md` beside the checkpoint. Needs no data loader: images of the gallery are read
    from the paths of the predictions.

    Args:
        checkpoint: The `.ckpt` file, with calibration, operating point and metadata in it.
        predictions: What it said, with calibrated probabilities.
        directory: The run directory.
        data: What it was tested on, in words: `split test of data/chest_xray`.
        probes: The shortcut probe, if it was run.
        seed: Of the bootstrap.
        replicates: Of the bootstrap.

    Returns:
        The result; `pneumonia.evaluation.report.console.summary` prints it.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        EvaluationError: If the predictions cannot be evaluated, or a file cannot be written.
        DataError: If an image of the gallery cannot be read.
    """
    subject = describe(read_checkpoint(checkpoint), checkpoint, data)
    dossier = evaluate_predictions(
        predictions,
        subject,
        probes=probes,
        load_image=thumbnail,
        seed=seed,
        replicates=replicates,
    )
    write_report(dossier, directory, Path(checkpoint).with_name(CARD_FILE))
    return dossier


def describe(
    checkpoint: Any,
    path: str | Path,
    data: str,
    tested: Manifest | None = None,
    warnings: tuple[str, ...] = (),
) -> EvaluatedModel:
    """Gather what a checkpoint says of itself.

    Args:
        checkpoint: What `read_checkpoint` gave, or the `checkpoint` of a `InferenceModel`.
        path: Its file.
        data: What it was tested on, in words.
        tested: The tested images, for their fingerprint.
        warnings: What to doubt.

    Raises:
        CheckpointError: If calibration, operating point or band are damaged.
    """
    calibration = read_calibration(checkpoint, path)
    metadata = checkpoint.get("metadata")
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    settings = checkpoint.get("hyper_parameters", {})
    metadata["model"] = {
        key: settings[key]
        for key in ("backbone", "image_size", "fit", "interpolation")
        if key in settings
    } | {
        "checkpoint format": checkpoint.get("format_version"),
        "pneumonia version": checkpoint.get("pneumonia_version"),
    }
    history = tuple(checkpoint.get("recalibration") or ())
    prevalence = history[-1].get("prevalence") if history else None
    if isinstance(prevalence, int | float) and 0 < prevalence < 1:
        warnings += (_moved(prevalence),)
    if tested is not None:
        fingerprint = tested.fingerprint()
        known = metadata.get("data")
        metadata["data"] = {
            **(known if isinstance(known, dict) else {}),
            "fingerprint of the tested images": fingerprint,
        }
        if any(entry.get("fingerprint") == fingerprint for entry in history):
            warnings += (_SEEN,)
    return EvaluatedModel(
        os.fspath(path),
        data,
        is_checkpoint=True,
        calibration=(calibration.temperature, calibration.offset) if calibration else None,
        operating_point=read_operating_point(checkpoint, path),
        metadata=metadata,
        history=history,
        warnings=warnings,
        abstention=read_abstention(checkpoint, path),
    )


def thumbnail(path: str) -> NDArray[np.uint8]:
    """Read an image for a report, its shape kept.

    Args:
        path: The file.

    Returns:
        Grey uint8 [H, W], at most 400 pixels a side.

    Raises:
        DataError: If it cannot be read.
    """
    image = read_grey(path)
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)


def _flattery(split: str) -> tuple[str, ...]:
    if split == "test":
        return ()
    return (
        (
            f"Images of the split {split} trained the model or chose its checkpoint and threshold,"
            " if it was trained on this data set: the figures flatter, and are no test."
        ),
    )


def _moved(prevalence: float) -> str:
    return (
        f"Probabilities were moved to a prevalence of {prevalence:g}: where the tested images have"
        " another share of PNEUMONIA, calibration, Brier score, log loss and net benefit are"
        " expected to look wrong."
    )
