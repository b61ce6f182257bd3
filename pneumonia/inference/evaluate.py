"""Evaluates a checkpoint on labelled images, and writes the report."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.dataset import read_split
from pneumonia.data.image_io import read_grey
from pneumonia.data.manifest import Manifest
from pneumonia.evaluation.evaluate import EvaluatedModel, EvaluationResult, evaluate_predictions
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.report.write import CARD, write_report
from pneumonia.inference.metadata import SETTINGS, ModelMetadata
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.shortcut_probe import probe_shortcuts

_MAX_SIDE = 400
"""Pixels of the longer side of an image in the report."""


def evaluate_checkpoint(
    checkpoint: str | Path,
    root: str | Path,
    directory: str | Path,
    split: str = "test",
    *,
    patients: str | None = None,
    threshold: float | None = None,
    probe: bool = False,
) -> tuple[EvaluationResult, list[Path]]:
    """Evaluate a checkpoint on a split of a data set, and write metrics, predictions and report.

    Args:
        checkpoint: A `.ckpt` file of this project, or an `.onnx` file exported from one.
        root: The data set, with the folders `train`, `val` and `test`.
        directory: Where the files are written.
        split: Which split.
        patients: How patients are identified; see `pneumonia.data.patients.identify_patients`.
        threshold: To use instead of the checkpoint's.
        probe: Also run the shortcut probe, which takes three more passes.

    Returns:
        The result, and the files written.

    Raises:
        PneumoniaError: If checkpoint or images cannot be used, or a file cannot be written.
    """
    model = Predictor.load(checkpoint, finalized=False)
    samples = read_split(root, split, patients)
    logits = model.logits([str(path) for path in samples.paths])
    table = PredictionTable(
        path=samples.paths,
        label=samples.labels,
        logit=logits,
        probability=model.probabilities(logits),
        patient=samples.patients,
        subtype=samples.subtypes,
    )
    warning = (
        f"The split {split} is not a test: if the checkpoint was trained on this data set, its"
        " images trained the model or chose its threshold. The metrics are too optimistic."
    )
    result = evaluate_predictions(
        table,
        describe_checkpoint(
            model.checkpoint,
            checkpoint,
            f"split {split} of {root}",
            samples,
            [warning] if split != "test" else [],
        ),
        threshold,
        probes=probe_shortcuts(model, samples, logits) if probe else (),
        load_image=thumbnail,
    )
    return result, write_report(result, directory, Path(directory) / CARD)


def describe_checkpoint(
    content: Mapping[str, Any],
    path: str | Path,
    data: str,
    tested: Manifest | None = None,
    warnings: Sequence[str] = (),
) -> EvaluatedModel:
    """Collect what a report says about a checkpoint.

    Args:
        content: From `read_checkpoint`, or `Predictor.checkpoint`.
        path: Its file.
        data: Name of the tested images.
        tested: The tested images, for their fingerprint.
        warnings: About the test, a sentence each.
    """
    model = ModelMetadata.read(content, path)
    settings = content["hyper_parameters"]
    metadata = dict(content.get("metadata") or {})
    metadata["model"] = {key: settings[key] for key in SETTINGS if key in settings} | {
        "checkpoint format": content.get("format_version"),
        "pneumonia version": content.get("pneumonia_version"),
    }
    history = tuple(content.get("recalibration") or ())
    caveats = list(warnings)
    if tested is not None:
        fingerprint = tested.fingerprint()
        known = metadata.get("data")
        tested_images = {"fingerprint of the tested images": fingerprint}
        metadata["data"] = (known if isinstance(known, dict) else {}) | tested_images
        if any(entry.get("fingerprint") == fingerprint for entry in history):
            caveats.append(
                "The checkpoint was recalibrated on these same images, which chose its threshold."
                " The metrics are too optimistic."
            )
    calibration = model.calibration
    return EvaluatedModel(
        os.fspath(path),
        data,
        is_checkpoint=True,
        temperature=calibration.temperature if calibration else None,
        operating_point=model.operating_point,
        metadata=metadata,
        history=history,
        warnings=tuple(caveats),
        abstention=model.abstention,
    )


def thumbnail(path: str) -> NDArray[np.uint8]:
    """Read an image for the report: grey uint8 [H, W], at most 400 pixels a side."""
    image = read_grey(path)
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return np.asarray(image)
