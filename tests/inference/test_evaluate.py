"""Evaluating a checkpoint on a folder of labelled images."""

from pneumonia.data.dataset import read_split
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.inference.evaluate import evaluate_checkpoint


def test_checkpoint_without_threshold_is_evaluated_at_one_half(
    unfinalized_file, synthetic, tmp_path
):
    result, files = evaluate_checkpoint(unfinalized_file, synthetic, tmp_path / "out")
    names = {"metrics.json", "predictions.csv", "report.html", "MODEL_CARD.md"}
    assert {file.name for file in files} == names
    assert (result.threshold_origin, result.threshold) == ("missing", 0.5)
    assert "fingerprint of the tested images" in (tmp_path / "out/report.html").read_text()
    table = PredictionTable.read(tmp_path / "out/predictions.csv")
    assert table.path.size == len(read_split(synthetic, "test"))


def test_other_splits_than_test_have_a_warning(unfinalized_file, synthetic, tmp_path):
    result, _ = evaluate_checkpoint(unfinalized_file, synthetic, tmp_path, "train")
    (warning,) = result.model.warnings
    assert "train" in warning
