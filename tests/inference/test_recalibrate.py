"""Calibrate at home: a new file, the old values in it, and the right prior."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from pneumonia.errors import CheckpointError, DataError, EvaluationError
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.inference.evaluate import evaluate_checkpoint
from pneumonia.inference.predictor import InferenceModel, read_abstention
from pneumonia.inference.recalibrate import fit, recalibrate_checkpoint


def test_writes_a_new_file_and_keeps_what_it_replaced(model_file, synthetic, tmp_path):
    before = hashlib.sha256(model_file.read_bytes()).digest()
    out, again = tmp_path / "new/site.ckpt", tmp_path / "again.ckpt"
    calibration, point, band = recalibrate_checkpoint(
        model_file, synthetic, out, policy="youden", alpha=0.2
    )
    assert hashlib.sha256(model_file.read_bytes()).digest() == before
    classifier = InferenceModel.load(out)
    assert classifier.calibration == calibration
    assert classifier.operating_point == point
    (entry,) = classifier.checkpoint["recalibration"]
    assert entry["replaced"] == {"calibration": None, "operating_point": None, "abstention": None}
    assert read_abstention(classifier.checkpoint, out) == band
    assert band.alpha == 0.2
    assert band.lower <= point.threshold <= band.upper
    assert entry["images"] == 60
    recalibrate_checkpoint(out, synthetic, again, "test", prevalence=0.1)
    content = torch.load(again, weights_only=True)
    assert [e["splits"] for e in content["recalibration"]] == ["all", "test"]
    assert content["recalibration"][1]["replaced"]["operating_point"] == point.to_dict()
    assert content["operating_point"]["policy"] == "youden"  # the model's own, by default
    assert content["recalibration"][1]["replaced"]["abstention"] == band.to_dict()
    assert content["abstention"]["alpha"] == 0.2  # likewise
    assert content["calibration"]["offset"] != 0
    dossier, _ = evaluate_checkpoint(again, synthetic, tmp_path / "out")
    assert dossier.threshold_origin == "site"
    assert "These very images chose the threshold" in (tmp_path / "out/report.html").read_text()


def test_refuses_its_input_and_what_it_cannot_use(model_file, synthetic, tmp_path):
    with pytest.raises(CheckpointError, match="is the checkpoint itself"):
        recalibrate_checkpoint(model_file, synthetic, model_file)
    with pytest.raises(EvaluationError, match="prevalence is 1"):
        recalibrate_checkpoint(model_file, synthetic, tmp_path / "a.ckpt", prevalence=1)
    with pytest.raises(EvaluationError, match="operating_point"):
        recalibrate_checkpoint(model_file, synthetic, tmp_path / "a.ckpt", policy="best")
    with pytest.raises(EvaluationError, match="alpha"):
        recalibrate_checkpoint(model_file, synthetic, tmp_path / "a.ckpt", alpha=0.5)
    with pytest.raises(DataError, match="holds none of the folders"):
        recalibrate_checkpoint(model_file, tmp_path, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="cannot be written"):
        recalibrate_checkpoint(
            model_file, synthetic, "/proc/nowhere/a.ckpt", "test", policy="youden"
        )
    assert not list(tmp_path.iterdir())


def cases(n: int, share: float, seed: int = 0):
    random = np.random.default_rng(seed)
    labels = (random.random(n) < share).astype(np.int64)
    return labels, random.normal(np.where(labels == 1, 2.0, -2.0), 2.0)


def test_temperature_and_offset_are_the_likeliest():
    labels, logits = cases(4000, 0.3)
    logits = 3 * logits + 1
    found = fit(labels, logits, float(labels.mean()))  # at its own share nothing is moved

    def loss(x):
        p = np.clip(sigmoid(x[0] * logits + x[1]), 1e-12, 1 - 1e-12)
        return -np.mean(np.where(labels == 1, np.log(p), np.log(1 - p)))

    best = minimize(loss, [0.5, 0.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12})
    np.testing.assert_allclose([1 / found.temperature, found.offset], best.x, atol=1e-3)


def test_prevalence_moves_the_mean_probability_to_it():
    labels, logits = cases(40_000, 0.7)
    elsewhere, there = cases(40_000, 0.1, seed=1)
    found = fit(labels, logits, 0.1)
    assert found(there).mean() == pytest.approx(elsewhere.mean(), abs=0.005)
    own = fit(labels, logits, 0.7)
    odds = found(0.0) / (1 - found(0.0)) / (own(0.0) / (1 - own(0.0)))
    assert odds == pytest.approx((0.1 / 0.9) / (0.7 / 0.3))  # Elkan 2001, Saerens 2002


def test_separable_and_one_class():
    labels = np.arange(40) % 2
    assert fit(labels, 4.0 * labels - 2, 0.2).temperature == 1
    with pytest.raises(EvaluationError):
        fit(np.ones(4, np.int64), np.zeros(4), 0.2)
