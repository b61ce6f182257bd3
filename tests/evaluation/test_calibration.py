"""Calibration agrees with scikit-learn and scipy, and the temperature keeps its bounds."""

import logging

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import calibration
from pneumonia.evaluation.calibration import recalibrate
from pneumonia.evaluation.predictions import sigmoid

SEEDS = range(8)


def drawn(seed: int, n: int = 300, heat: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits `heat` times those that the labels were drawn by."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 2, n)
    return (rng.random(n) < sigmoid(logits)).astype(int), heat * logits


@pytest.mark.parametrize("seed", SEEDS)
def test_losses_equal_those_of_scikit_learn(seed):
    labels, logits = drawn(seed)
    p = sigmoid(logits)
    assert calibration.brier(labels, p) == pytest.approx(sk.brier_score_loss(labels, p))
    assert calibration.log_loss(labels, p) == pytest.approx(sk.log_loss(labels, p))


def test_certain_errors_cost_what_scikit_learn_says():
    labels, p = [0, 1, 1, 0], [1.0, 0.0, 1.0, 0.0]
    assert calibration.log_loss(labels, p) == pytest.approx(sk.log_loss(labels, p))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bins", [15, 10])
def test_the_reliability_curve_equals_that_of_scikit_learn(seed, bins):
    labels, logits = drawn(seed)
    p = sigmoid(logits)
    ours = calibration.reliability(labels, p, bins)
    frequency, probability = calibration_curve(labels, p, n_bins=bins)
    np.testing.assert_allclose(ours.frequency, frequency)
    np.testing.assert_allclose(ours.probability, probability)
    assert ours.images.sum() == 300
    expected = np.sum(ours.images * np.abs(frequency - probability)) / 300
    assert calibration.ece(labels, p, bins) == pytest.approx(expected)


def test_ece_by_hand():
    # bins [0, 1/15): 0.05, 0.05 with one sick; [2/15, 3/15): 0.15; [14/15, 1]: 0.95, 1.0
    labels, p = [0, 1, 0, 1, 1], [0.05, 0.05, 0.15, 0.95, 1.0]
    expected = (2 * abs(0.5 - 0.05) + 0.15 + 2 * abs(1 - 0.975)) / 5
    assert calibration.ece(labels, p) == pytest.approx(expected)
    assert calibration.bin_numbers(np.array([0, 1 / 15, 14 / 15, 1])).tolist() == [0, 1, 14, 14]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_temperature_is_the_most_likely(seed):
    labels, logits = drawn(seed, heat=(1.5, 2, 4, 8)[seed % 4])
    found = calibration.fit_temperature(labels, logits)
    best = minimize_scalar(
        lambda t: sk.log_loss(labels, sigmoid(logits / t)),
        bounds=(1, 10),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(best.x, rel=1e-5)
    assert calibration.fit_temperature(labels, 0.01 * logits) == 1


def test_separable_classes_do_not_drive_the_temperature_to_zero():
    assert calibration.fit_temperature([0, 0, 1, 1], [-2, -1, 1, 2]) == 1
    assert calibration.fit_temperature([0, 1], [0.0, 0.0]) == 1


def test_useless_logits_stop_at_ten_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert calibration.fit_temperature([0, 1, 0, 1], [90, -90, 80, 85]) == 10
    assert "fitted to 4 images stopped at its bound of 10" in caplog.text


@pytest.mark.parametrize("seed", SEEDS)
def test_slope_and_intercept_equal_those_of_scikit_learn(seed):
    labels, logits = drawn(seed, heat=(1, 0.3, 3, 12)[seed % 4])
    weights = np.random.default_rng(seed).integers(0, 4, (3, labels.size)).astype(float)
    line = recalibrate(labels == 1, logits, weights)
    for row, intercept, slope in zip(weights, *line, strict=True):
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        model.fit(logits[:, None], labels, sample_weight=row)
        assert slope == pytest.approx(model.coef_[0, 0], rel=1e-4)
        assert intercept == pytest.approx(model.intercept_[0], abs=1e-4)


def test_the_line_finds_how_the_labels_were_made():
    labels, logits = drawn(0, n=100_000, heat=2)
    line = recalibrate(labels == 1, logits + 1, np.ones((1, labels.size)))
    assert line.slope[0] == pytest.approx(0.5, abs=0.01)
    assert line.intercept[0] == pytest.approx(-0.5, abs=0.02)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "logits",
    [[-2, -1, 1, 2], [2, 1, -1, -2], [-2, 0, 0, 2], [0.3] * 4],
    ids=["separated", "reversed", "touching", "constant"],
)
def test_no_line_fits_separated_classes(logits):
    labels = np.array([False, False, True, True])
    line = recalibrate(labels, np.array(logits, float), np.ones((2, 4)))
    assert np.isnan(line).all()


def test_only_the_rows_without_overlap_are_undefined():
    labels, logits = np.array([0, 0, 1, 1]) == 1, np.array([0.0, 2, 1, 3])
    line = recalibrate(labels, logits, np.array([[1, 1, 1, 1], [1, 0, 1, 1.0]]))
    assert np.isnan(line.slope).tolist() == [False, True]


@pytest.mark.parametrize(
    ("p", "sentence"),
    [([0.2, 1.2], "outside 0 to 1"), ([0.2, np.nan], "not finite"), ([0.2], "2 labels but 1")],
)
def test_bad_probabilities_are_refused(p, sentence):
    for function in (calibration.brier, calibration.log_loss, calibration.ece):
        with pytest.raises(EvaluationError, match=sentence):
            function([0, 1], p)


def test_bad_logits_are_refused():
    with pytest.raises(EvaluationError, match="not finite"):
        calibration.fit_temperature([0, 1], [np.inf, 1])
    with pytest.raises(EvaluationError, match="all are NORMAL"):
        calibration.fit_temperature([0, 0], [1, 1])
