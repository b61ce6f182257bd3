"""A checkpoint and a folder -> files; and what training calls at its end."""

import json

import numpy as np
import torch

from pneumonia.data.dataset import read_split
from pneumonia.evaluation.predictions import PredictionTable, sigmoid
from pneumonia.evaluation.threshold import choose_threshold
from pneumonia.inference.evaluate import evaluate_checkpoint, write_evaluation
from pneumonia.inference.predictor import InferenceModel


def test_an_older_checkpoint_is_tested_at_a_half_and_says_so(model_file, synthetic, tmp_path):
    dossier, files = evaluate_checkpoint(model_file, synthetic, tmp_path / "out")
    assert {file.name for file in files} == {
        "metrics.json",
        "predictions.csv",
        "report.html",
        "MODEL_CARD.md",
    }
    assert (dossier.threshold_origin, dossier.threshold) == ("missing", 0.5)
    assert "fingerprint of the tested images" in (tmp_path / "out/report.html").read_text()
    assert PredictionTable.read(tmp_path / "out/predictions.csv").path.size == len(dossier.table)


def test_other_splits_flatter_and_say_so(model_file, synthetic, tmp_path):
    dossier, _ = evaluate_checkpoint(model_file, synthetic, tmp_path, "train")
    assert "flatter" in dossier.model.warnings[0]
    assert "are no test" in (tmp_path / "report.html").read_text()


def test_what_training_calls(model_file, synthetic, tmp_path):
    samples = read_split(synthetic, "test")
    logits = InferenceModel.load(model_file).logits([str(path) for path in samples.paths])
    probabilities = sigmoid(logits / 2)
    point = choose_threshold(samples.labels, probabilities, samples.patients, "youden")
    checkpoint = tmp_path / "checkpoints/best.ckpt"
    checkpoint.parent.mkdir()
    content = torch.load(model_file, weights_only=True)
    metadata = {"data": {"root": "some/where"}, "training": {"commit": "abc", "config": "seed: 0"}}
    content |= {"calibration": {"temperature": 2.0}, "operating_point": point.to_dict()}
    torch.save(content | {"metadata": metadata}, checkpoint)
    predictions = PredictionTable(
        path=samples.paths,
        label=samples.labels,
        logit=logits,
        probability=probabilities,
        patient=samples.patients,
        subtype=samples.subtypes,
    )
    found = write_evaluation(checkpoint, predictions, tmp_path, "split test of some/where")
    assert found.threshold == point.threshold
    assert "split test of some/where" in (tmp_path / "report.html").read_text()
    assert "abc" in (checkpoint.parent / "MODEL_CARD.md").read_text()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["test/sensitivity"]["value"] == point.sensitivity
    assert metrics["test/recall"] == metrics["test/sensitivity"]
    np.testing.assert_array_equal(
        PredictionTable.read(tmp_path / "predictions.csv").probability, probabilities
    )
