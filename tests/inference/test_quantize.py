"""An int8 model predicts nearly like its checkpoint, or is not written at all."""

import csv

import numpy as np
import pytest

from pneumonia.data.dataset import read_split
from pneumonia.errors import CheckpointError, DataError, EvaluationError, ModelError
from pneumonia.inference import quantize as module
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.quantize import export_int8


def write_table(path, samples):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows(zip(samples.paths, samples.labels, strict=True))
    return path


@pytest.fixture(name="table")
def table_fixture(synthetic, tmp_path):
    return write_table(tmp_path / "validation.csv", read_split(synthetic, "train"))


def test_predictions_are_close_and_everything_else_is_kept(
    checkpoint_file, exported, table, synthetic, tmp_path
):
    report = export_int8(checkpoint_file, table, tmp_path / "int8.onnx")
    model, quantized = Predictor.load(exported), Predictor.load(tmp_path / "int8.onnx")
    assert quantized.operating_point == model.operating_point
    assert quantized.calibration == model.calibration
    assert quantized.abstention == model.abstention
    assert quantized.preprocessing == model.preprocessing
    paths = [str(path) for path in read_split(synthetic, "train").paths]
    pairs = list(zip(model.predict(paths), quantized.predict(paths), strict=True))
    difference = [abs(a.probability - b.probability) for a, b in pairs]
    assert 0 < max(difference) == pytest.approx(report.max_difference, abs=1e-6)
    assert np.mean(difference) < 0.05
    assert [a.is_ood for a, _ in pairs] == [b.is_ood for _, b in pairs]
    assert report.images == len(paths)
    assert report.agreement == np.mean([a.predicted_class == b.predicted_class for a, b in pairs])
    before, after = report.metrics["AUROC"]
    assert after > before - module.MAX_AUROC_LOSS


def test_a_model_that_loses_too_much_is_not_written(checkpoint_file, table, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_AUROC_LOSS", -1.0)
    with pytest.raises(ModelError, match="AUROC"):
        export_int8(checkpoint_file, table, tmp_path / "int8.onnx")
    assert [path.name for path in tmp_path.iterdir()] == [table.name]


def test_bad_input_is_named_and_nothing_is_written(checkpoint_file, synthetic, table, tmp_path):
    samples = read_split(synthetic, "train")
    normal = write_table(tmp_path / "normal.csv", samples.take(np.flatnonzero(samples.labels == 0)))
    with pytest.raises(EvaluationError):
        export_int8(checkpoint_file, normal, tmp_path / "int8.onnx")
    with pytest.raises(DataError, match=r"missing\.csv"):
        export_int8(checkpoint_file, tmp_path / "missing.csv", tmp_path / "int8.onnx")
    with pytest.raises(CheckpointError, match=r"int8\.ckpt"):
        export_int8(checkpoint_file, table, tmp_path / "int8.ckpt")
    assert not list(tmp_path.glob("*int8*"))


def test_the_command_prints_both_models(run, checkpoint_file, table, tmp_path, capsys):
    out = tmp_path / "q.onnx"
    assert run("export", "--checkpoint", checkpoint_file, "--out", out, "--int8", table) == 0
    printed = capsys.readouterr().out
    for name in ("AUROC", "specificity", "images/s", "q.onnx"):
        assert name in printed
