"""Temperature and recalibration agree with scipy and scikit-learn."""

import logging

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from pneumonia.evaluation.calibration import (
    fit_recalibration,
    fit_temperature,
)
from pneumonia.evaluation.predictions import sigmoid


def drawn(seed: int, n: int = 300, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits `scale` times those that the labels were drawn by."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 2, n)
    return (rng.random(n) < sigmoid(logits)).astype(int), scale * logits


@pytest.mark.parametrize("scale", [1.5, 8])
def test_temperature_maximises_the_likelihood(scale):
    labels, logits = drawn(1, scale=scale)
    best = minimize_scalar(
        lambda t: log_loss(labels, sigmoid(logits / t)),
        bounds=(1, 10),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit_temperature(labels, logits) == pytest.approx(best.x, rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "logits"),
    [([0, 0, 1, 1], [-2, -1, 1, 2]), ([0, 1], [0.0, 0.0]), ([0, 1, 0, 1], [-0.1, 0.1, 0.05, 0.2])],
    ids=["separable", "constant", "underconfident"],
)
def test_temperature_is_at_least_1(labels, logits):
    assert fit_temperature(labels, logits) == 1


def test_uninformative_logits_stop_at_10_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert fit_temperature([0, 1, 0, 1], [90, -90, 80, 85]) == 10
    assert len(caplog.records) == 1


@pytest.mark.parametrize("scale", [0.3, 12])
def test_recalibration_equals_scikit_learn(scale):
    labels, logits = drawn(2, scale=scale)
    weights = np.random.default_rng(3).integers(0, 4, (3, labels.size)).astype(float)
    line = fit_recalibration(labels == 1, logits, weights)
    for row, intercept, slope in zip(weights, *line, strict=True):
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        model.fit(logits[:, None], labels, sample_weight=row)
        assert slope == pytest.approx(model.coef_[0, 0], rel=1e-4)
        assert intercept == pytest.approx(model.intercept_[0], abs=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "logits",
    [[-2, -1, 1, 2], [2, 1, -1, -2], [-2, 0, 0, 2], [0.3] * 4],
    ids=["separated", "reversed", "touching", "constant"],
)
def test_separated_classes_have_no_recalibration(logits):
    labels = np.array([False, False, True, True])
    line = fit_recalibration(labels, np.array(logits, float), np.ones((2, 4)))
    assert np.isnan(line).all()


def test_only_rows_without_overlap_are_undefined():
    labels, logits = np.array([0, 0, 1, 1]) == 1, np.array([0.0, 2, 1, 3])
    _, slope = fit_recalibration(labels, logits, np.array([[1, 1, 1, 1], [1, 0, 1, 1.0]]))
    assert np.isnan(slope).tolist() == [False, True]
