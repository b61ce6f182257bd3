"""Evaluating a checkpoint: from a folder, and from the predictions at the end of a run."""

import json

import numpy as np
import torch

from pneumonia.data.dataset import read_split
from pneumonia.evaluation.predictions import PredictionTable, sigmoid
from pneumonia.evaluation.threshold import choose_threshold
from pneumonia.inference.evaluate import evaluate_checkpoint, write_evaluation
from pneumonia.inference.predictor import InferenceModel


def test_checkpoint_without_threshold_is_evaluated_at_one_half(model_file, synthetic, tmp_path):
    result, files = evaluate_checkpoint(model_file, synthetic, tmp_path / "out")
    names = {"metrics.json", "predictions.csv", "report.html", "MODEL_CARD.md"}
    assert {file.name for file in files} == names
    assert (result.threshold_origin, result.threshold) == ("missing", 0.5)
    assert "fingerprint of the tested images" in (tmp_path / "out/report.html").read_text()
    table = PredictionTable.read(tmp_path / "out/predictions.csv")
    assert table.path.size == len(read_split(synthetic, "test"))


def test_other_splits_than_test_have_a_warning(model_file, synthetic, tmp_path):
    result, _ = evaluate_checkpoint(model_file, synthetic, tmp_path, "train")
    (warning,) = result.model.warnings
    assert "train" in warning


def test_end_of_a_run_is_written_from_its_predictions(model_file, synthetic, tmp_path):
    samples = read_split(synthetic, "test")
    logits = InferenceModel.load(model_file).logits([str(path) for path in samples.paths])
    probabilities = sigmoid(logits / 2)
    point = choose_threshold(samples.labels, probabilities, samples.patients, "youden")
    checkpoint = tmp_path / "checkpoints/best.ckpt"
    checkpoint.parent.mkdir()
    content = torch.load(model_file, weights_only=True)
    content |= {"calibration": {"temperature": 2.0}, "operating_point": point.to_dict()}
    content["metadata"] = {"data": {"root": "some/where"}, "training": {"commit": "abc"}}
    torch.save(content, checkpoint)
    predictions = PredictionTable(
        path=samples.paths,
        label=samples.labels,
        logit=logits,
        probability=probabilities,
        patient=samples.patients,
    )
    result = write_evaluation(checkpoint, predictions, tmp_path, "split test of some/where")
    assert result.threshold == point.threshold
    assert "split test of some/where" in (tmp_path / "report.html").read_text()
    assert "abc" in (checkpoint.parent / "MODEL_CARD.md").read_text()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["test/recall"]["value"] == point.sensitivity
    written = PredictionTable.read(tmp_path / "predictions.csv")
    np.testing.assert_array_equal(written.probability, probabilities)
