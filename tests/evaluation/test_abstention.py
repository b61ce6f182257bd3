"""The band: conformal within each class, one score per patient, exact at its ends."""

import logging
import math

import numpy as np
import pytest
from scipy.stats import betabinom

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.abstention import ABOVE_ONE, Abstention, check_alpha, fit_abstention, rank
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.threshold import choose_threshold

BAND = Abstention(0.25, 0.75, 0.1, 40, 30)


def holdout(patients: int = 19, images: int = 2):
    """NORMAL patients have 0.01, 0.02, ... at most, PNEUMONIA patients 0.99, 0.98, ... at least."""
    extreme = np.arange(1, patients + 1) / 100
    normal = np.repeat(extreme, images) * np.tile(np.linspace(0.5, 1, images), patients)
    names = np.repeat(np.arange(patients), images)
    labels = np.repeat([0, 1], normal.size)
    return labels, np.concatenate([normal, 1 - normal]), np.concatenate([names, 100 + names])


def test_an_image_at_the_lower_end_is_uncertain_and_at_the_upper_end_decided():
    below, above = math.nextafter(0.25, 0), math.nextafter(0.75, 0)
    found = BAND.uncertain([0, below, 0.25, 0.5, above, 0.75, 1])
    assert found.tolist() == [False, False, True, True, True, False, False]
    with pytest.raises(EvaluationError, match="outside 0 to 1"):
        BAND.uncertain([1.5])


def test_an_empty_band_leaves_nothing_and_a_whole_one_everything():
    p = [0.0, 0.5, math.nextafter(0.5, 1), 1.0]
    assert not Abstention(0.5, 0.5, 0.1, 40, 30).uncertain(p).any()
    assert Abstention(0.0, ABOVE_ONE, 0.1, 4, 3).uncertain(p).all()


def test_ends_are_the_most_extreme_patients_of_the_rank():
    labels, p, patients = holdout()  # 19 patients: one of 20 may go wrong at 0.05, two at 0.1
    normal, sick = 0.01 * np.arange(1, 20), 1 - 0.01 * np.arange(1, 20)
    for error, k in ((0.05, 1), (0.1, 2)):
        wide = fit_abstention(labels, p, patients, 0.5, error)
        assert wide == Abstention(
            0.5, 0.5, error, 19, 19
        )  # all were right: the threshold is enough
        swapped = fit_abstention(1 - labels, p, patients, 0.5, error)
        assert swapped.lower == np.sort(normal / 2)[k - 1]  # lowest image of each sick patient
        assert swapped.upper == math.nextafter(np.sort(1 - (1 - sick) / 2)[-k], 2)
        decided = ~swapped.uncertain(p)
        wrong_sick = np.unique(patients[decided & (labels == 0) & (p < 0.5)])
        wrong_normal = np.unique(patients[decided & (labels == 1) & (p >= 0.5)])
        assert wrong_sick.size == wrong_normal.size == k - 1  # those strictly beyond the k-th


def test_images_of_one_patient_count_once():
    labels, p, patients = holdout(19, 2)
    assert rank(0.05, 19) == 1
    by_image = fit_abstention(1 - labels, p, None, 0.5, 0.05)
    assert by_image.n_patients_positive == 38
    repeated = np.concatenate([np.tile(x, 5) for x in (1 - labels, p, patients)]).reshape(3, -1)
    once = fit_abstention(1 - labels, p, patients, 0.5, 0.05)
    assert fit_abstention(repeated[0], repeated[1], repeated[2], 0.5, 0.05) == once


@pytest.mark.parametrize("threshold", [0.0, 0.004, 0.5, 0.9999, 1.0])
def test_threshold_lies_in_the_band_and_no_decided_image_is_called_against_it(threshold):
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    p = sigmoid(random.normal(2.0 * labels - 1, 1.5))
    band = fit_abstention(labels, p, np.arange(200), threshold, 0.05)
    assert band.lower <= threshold <= band.upper
    decided = ~band.uncertain(p)
    assert ((p >= band.upper) == (p >= threshold))[decided].all()


def test_ties_count_as_errors_not_as_luck():
    labels = np.repeat([0, 1], 19)
    same = np.full(38, 0.7)
    band = fit_abstention(labels, same, np.arange(38), 0.7, 0.05)
    assert band.uncertain(same).all()
    certain = np.ones(38)  # a probability of 1 is no end that others stay below
    assert fit_abstention(labels, certain, np.arange(38), 0.5, 0.05).upper == ABOVE_ONE


@pytest.mark.parametrize(
    ("error", "patients", "k"),
    [
        (0.05, 18, 0),
        (0.05, 19, 1),
        (0.1, 9, 1),
        (0.1, 8, 0),
        (0.29, 99, 29),  # 0.29 * 100 = 28.999999999999996 in floating point
        (0.07, 99, 7),  # and 0.07 * 100 = 7.000000000000001
        (np.float64(0.05), 129, 6),
    ],
)
def test_rank_of_the_number_as_written(error, patients, k):
    assert rank(error, patients) == k


def test_too_few_patients_leave_that_side_uncertain_and_say_so(caplog):
    labels, p, patients = holdout()
    fewer = ~((labels == 1) & (patients > 107))  # 8 PNEUMONIA patients
    with caplog.at_level(logging.WARNING):
        band = fit_abstention(labels[fewer], p[fewer], patients[fewer], 0.5, 0.05)
    assert (band.lower, band.upper) == (0.0, 0.5)
    assert "cannot be stated with 8 PNEUMONIA patients in the hold-out, it needs 19" in caplog.text
    assert "every image that would be called NORMAL is uncertain" in caplog.text
    assert len(caplog.records) == 1
    with caplog.at_level(logging.WARNING):
        band = fit_abstention(labels[fewer], p[fewer], patients[fewer], 0.5, 0.01)
    assert band.uncertain([0.0, 1.0]).all()


def test_any_temperature_gives_the_same_decisions():
    random = np.random.default_rng(1)
    labels = np.arange(300) % 2
    logits = random.normal(3.0 * labels - 1.5, 2.0)
    calls = []
    for temperature in (1.0, 1.7, 8.0):
        p = sigmoid(logits / temperature)
        threshold = np.sort(p)[140]
        band = fit_abstention(labels, p, np.arange(300), threshold, 0.05)
        calls.append(band.uncertain(p))
    assert calls[0].any()
    assert (calls[0] == calls[1]).all()
    assert (calls[0] == calls[2]).all()


def draw(random: np.random.Generator, patients: int):
    """Patients of 1 to 8 images that resemble each other; odd ones are PNEUMONIA."""
    names = np.repeat(np.arange(patients), random.integers(1, 9, patients))
    effect = random.normal(size=patients)[names] + random.normal(size=names.size)
    return names % 2, 2.5 * (1.2 * (2 * (names % 2) - 1) + effect), names


def shares_wrong(band: Abstention, labels, p, names) -> list[float]:
    """Of NORMAL and of PNEUMONIA patients, with an image confidently called the other class."""
    wrong = np.where(labels == 1, p < band.lower, p >= band.upper)
    return [
        np.unique(names[wrong & (labels == c)]).size / np.unique(names[labels == c]).size
        for c in (0, 1)
    ]


@pytest.mark.parametrize(("policy", "target"), [("sensitivity", 0.95), ("youden", None)])
def test_stated_error_holds_on_average_over_holdouts_that_also_chose_all_else(policy, target):
    random = np.random.default_rng(0)
    error, n = 0.1, 59  # k = 6 of 60: the bound is met, not merely kept
    found, by_image = [], []
    for _ in range(1000):
        labels, logits, names = draw(random, 2 * n)
        temperature = fit_temperature(labels, logits)
        p = sigmoid(logits / temperature)
        threshold = choose_threshold(labels, p, names, policy, target).threshold
        new_labels, new_logits, new_names = draw(random, 400)
        new = new_labels, sigmoid(new_logits / temperature), new_names
        found.append(shares_wrong(fit_abstention(labels, p, names, threshold, error), *new))
        by_image.append(shares_wrong(fit_abstention(labels, p, None, threshold, error), *new))
    # Its standard error is 0.0014: one rank more or less, 0.083 or 0.117, would show.
    assert np.mean(found, axis=0) == pytest.approx([error, error], abs=0.0045)
    assert np.mean(by_image, axis=0).min() > 0.13  # images counted as patients break it


def test_errors_expected_of_like_patients_are_beta_binomial():
    band = Abstention(0.3, 0.7, 0.05, 259, 129)
    assert band.chance(1, 20, 292) == pytest.approx(betabinom(292, 13, 247).sf(19))
    assert band.chance(0, 3, 145) == pytest.approx(betabinom(145, 6, 124).sf(2))
    tail = betabinom(5000, 13, 247).pmf(np.arange(900, 5001)).sum()  # its sf cancels to 1e-12
    assert band.chance(1, 900, 5000) == pytest.approx(tail, rel=1e-6)
    assert band.chance(1, 0, 292) == 1
    assert Abstention(0.0, ABOVE_ONE, 0.05, 5, 5).chance(1, 1, 10) == 0  # nothing is decided there


def test_survives_a_checkpoint_and_refuses_what_is_no_band():
    band = Abstention(0.0, ABOVE_ONE, 0.05, 5, 5)
    assert Abstention.from_dict(band.to_dict()) == band
    assert all(
        type(value) in {int, float} for value in fit_abstention(*holdout(), 0.5).to_dict().values()
    )
    with pytest.raises(EvaluationError, match="found lower; use a checkpoint of this version"):
        Abstention.from_dict({"lower": 0.1})
    for wrong in (
        {"lower": 0.8},
        {"upper": 1.1},
        {"lower": -0.1},
        {"lower": math.nan},
        {"error": 0.5},
        {"error": "0.1"},
        {"n_patients_positive": 0},
    ):
        with pytest.raises(EvaluationError, match="is no band of abstention"):
            Abstention.from_dict(BAND.to_dict() | wrong)


@pytest.mark.parametrize("error", [0, 0.5, -0.1, 5, math.nan])
def test_refuses_an_error_that_is_none(error):
    with pytest.raises(EvaluationError, match=r"expected the share .* between 0 and 0\.5"):
        check_alpha(error)
    with pytest.raises(EvaluationError, match="abstention error"):
        fit_abstention(*holdout(), 0.5, error)
