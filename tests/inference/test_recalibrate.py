"""Recalibration: a new file with the old values in it, and the right prior probability."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

from pneumonia.errors import CheckpointError, DataError, EvaluationError
from pneumonia.inference.evaluate import evaluate_checkpoint
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.recalibrate import fit_calibration, recalibrate_checkpoint


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

    recalibrate_checkpoint(out, synthetic, again, "test", prevalence=0.1)
    content = torch.load(again, weights_only=True)
    assert [entry["splits"] for entry in content["recalibration"]] == ["all", "test"]
    replaced = content["recalibration"][1]["replaced"]
    assert replaced["operating_point"] == point.to_dict()
    assert replaced["abstention"] == abstention.to_dict()
    assert content["operating_point"]["policy"] == "youden"  # the checkpoint's, by default
    assert content["calibration"]["offset"] != 0
    result, _ = evaluate_checkpoint(again, synthetic, tmp_path / "out")
    assert result.threshold_origin == "site"
    assert len(result.model.warnings) == 2  # of the prevalence, and of the same images


@pytest.mark.parametrize(
    ("error", "named", "settings"),
    [
        (CheckpointError, "best.ckpt", {"out": "the checkpoint"}),
        (CheckpointError, "/proc/nowhere", {"out": "/proc/nowhere/a.ckpt", "split": "test"}),
        (CheckpointError, ".onnx", {"out": "a.onnx"}),
        (EvaluationError, "prevalence", {"prevalence": 1}),
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


def draw_cases(n: int, fraction: float, seed: int = 0):
    random = np.random.default_rng(seed)
    labels = (random.random(n) < fraction).astype(np.int64)
    return labels, random.normal(np.where(labels == 1, 2.0, -2.0), 2.0)


def test_temperature_and_offset_maximise_the_likelihood():
    labels, logits = draw_cases(4000, 0.3)
    logits = 3 * logits + 1
    found = fit_calibration(labels, logits, float(labels.mean()))  # no change of prevalence

    def loss(x):
        p = expit(x[0] * logits + x[1])
        return -np.log(np.where(labels == 1, p, 1 - p)).mean()

    best = minimize(loss, [0.5, 0.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12})
    np.testing.assert_allclose([1 / found.temperature, found.offset], best.x, atol=1e-3)


def test_prevalence_changes_the_mean_probability_to_it():
    labels, logits = draw_cases(40_000, 0.7)
    site_labels, site_logits = draw_cases(40_000, 0.1, seed=1)
    found = fit_calibration(labels, logits, 0.1)
    assert found(site_logits).mean() == pytest.approx(site_labels.mean(), abs=0.005)


def test_separable_classes_have_temperature_one_and_a_single_class_is_refused():
    labels = np.arange(40) % 2
    assert fit_calibration(labels, 4.0 * labels - 2, 0.2).temperature == 1
    with pytest.raises(EvaluationError):
        fit_calibration(np.ones(4, np.int64), np.zeros(4), 0.2)
