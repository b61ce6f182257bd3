"""Recalibration: a new file with the old values in it."""

import hashlib

import pytest
import torch

from pneumonia.errors import CheckpointError, DataError, EvaluationError
from pneumonia.inference.evaluate import evaluate_checkpoint
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.recalibrate import recalibrate_checkpoint


def test_new_checkpoint_keeps_the_values_it_replaces(unfinalized_file, synthetic, tmp_path):
    before = hashlib.sha256(unfinalized_file.read_bytes()).digest()
    out, again = tmp_path / "new/site.ckpt", tmp_path / "again.ckpt"
    calibration, point, abstention = recalibrate_checkpoint(
        unfinalized_file, synthetic, out, policy="youden", alpha=0.2
    )
    assert hashlib.sha256(unfinalized_file.read_bytes()).digest() == before
    model = Predictor.load(out, finalized=False)
    assert model.calibration == calibration
    assert model.operating_point == point
    assert model.abstention == abstention
    assert abstention.lower <= point.threshold <= abstention.upper
    (entry,) = model.checkpoint["recalibration"]
    assert entry["replaced"] == {"calibration": None, "operating_point": None, "abstention": None}
    assert entry["images"] == 60

    recalibrate_checkpoint(out, synthetic, again, "test")
    content = torch.load(again, weights_only=True)
    assert [entry["splits"] for entry in content["recalibration"]] == ["all", "test"]
    replaced = content["recalibration"][1]["replaced"]
    assert replaced["operating_point"] == point.to_dict()
    assert replaced["abstention"] == abstention.to_dict()
    assert content["operating_point"]["policy"] == "youden"  # the checkpoint's, by default
    result, _ = evaluate_checkpoint(again, synthetic, tmp_path / "out")
    assert result.threshold_origin == "site"
    assert len(result.model.warnings) == 1  # of the same images


@pytest.mark.parametrize(
    ("error", "named", "settings"),
    [
        (CheckpointError, "best.ckpt", {"out": "the checkpoint"}),
        (CheckpointError, "/proc/nowhere", {"out": "/proc/nowhere/a.ckpt", "split": "test"}),
        (CheckpointError, ".onnx", {"out": "a.onnx"}),
        (EvaluationError, "'best'", {"policy": "best"}),
        (EvaluationError, r"0\.5", {"alpha": 0.5}),
        (DataError, "train, val, test", {"root": "."}),
    ],
)
def test_what_cannot_be_used_is_refused(
    unfinalized_file, synthetic, tmp_path, monkeypatch, error, named, settings
):
    monkeypatch.chdir(tmp_path)
    arguments = {"root": synthetic, "out": "a.ckpt", "policy": "youden"} | settings
    if arguments["out"] == "the checkpoint":
        arguments["out"] = unfinalized_file
    with pytest.raises(error, match=named):
        recalibrate_checkpoint(unfinalized_file, **arguments)
    assert not list(tmp_path.iterdir())
