"""Conformal abstention: within each class, one score per patient, exact at its ends."""

import logging
import math

import numpy as np
import pytest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.abstention import (
    ABOVE_ONE,
    Abstention,
    conformal_rank,
    fit_abstention,
)
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.threshold import choose_threshold

ABSTENTION = Abstention(0.25, 0.75, 0.1, 40, 30)


def validation_set(patients: int = 19, images: int = 2):
    """NORMAL patients have 0.01, 0.02, ... at most, PNEUMONIA patients 0.99, 0.98, ... at least."""
    extreme = np.arange(1, patients + 1) / 100
    normal = np.repeat(extreme, images) * np.tile(np.linspace(0.5, 1, images), patients)
    names = np.repeat(np.arange(patients), images)
    labels = np.repeat([0, 1], normal.size)
    return labels, np.concatenate([normal, 1 - normal]), np.concatenate([names, 100 + names])


def test_lower_end_is_uncertain_and_upper_end_is_not():
    below, above = math.nextafter(0.25, 0), math.nextafter(0.75, 0)
    found = ABSTENTION.uncertain([0, below, 0.25, 0.5, above, 0.75, 1])
    assert found.tolist() == [False, False, True, True, True, False, False]


@pytest.mark.parametrize(("alpha", "k"), [(0.05, 1), (0.1, 2)])
def test_ends_are_the_scores_of_the_conformal_rank(alpha, k):
    labels, p, patients = validation_set()
    separated = fit_abstention(labels, p, patients, 0.5, alpha)
    assert separated == Abstention(0.5, 0.5, alpha, 19, 19)  # the threshold is enough
    swapped = fit_abstention(1 - labels, p, patients, 0.5, alpha)
    extreme = 0.01 * np.arange(1, 20)
    assert swapped.lower == pytest.approx(np.sort(extreme / 2)[k - 1])  # the lowest of each patient
    assert swapped.upper == pytest.approx(np.sort(1 - extreme / 2)[-k])
    certain = ~swapped.uncertain(p)
    for label, predicted in ((0, p < 0.5), (1, p >= 0.5)):
        wrong = np.unique(patients[certain & (labels == label) & predicted])
        assert wrong.size == k - 1  # those strictly beyond the k-th


def test_images_of_one_patient_count_once():
    labels, p, patients = validation_set()
    assert fit_abstention(1 - labels, p, None, 0.5).n_patients_positive == 38
    once = fit_abstention(1 - labels, p, patients, 0.5)
    repeated = [np.tile(column, 5) for column in (1 - labels, p, patients)]
    assert fit_abstention(*repeated, 0.5) == once


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9999, 1.0])
def test_range_includes_the_threshold(threshold):
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    p = sigmoid(random.normal(2.0 * labels - 1, 1.5))
    found = fit_abstention(labels, p, np.arange(200), threshold)
    assert found.lower <= threshold <= found.upper
    certain = ~found.uncertain(p)
    assert ((p >= found.upper) == (p >= threshold))[certain].all()


def test_ties_count_as_errors():
    labels = np.repeat([0, 1], 19)
    same = np.full(38, 0.7)
    assert fit_abstention(labels, same, np.arange(38), 0.7).uncertain(same).all()
    assert fit_abstention(labels, np.ones(38), np.arange(38), 0.5).upper == ABOVE_ONE


def test_rank_is_that_of_the_decimal_number():
    assert [conformal_rank(0.05, patients) for patients in (18, 19, 129)] == [0, 1, 6]
    assert conformal_rank(0.29, 99) == 29  # 0.29 * 100 = 28.999999999999996 in floating point
    assert conformal_rank(np.float64(0.07), 99) == 7  # 0.07 * 100 = 7.000000000000001


def test_too_few_patients_leave_that_side_uncertain(caplog):
    labels, p, patients = validation_set()
    fewer = ~((labels == 1) & (patients > 107))  # 8 PNEUMONIA patients
    with caplog.at_level(logging.WARNING):
        found = fit_abstention(labels[fewer], p[fewer], patients[fewer], 0.5, 0.05)
    assert (found.lower, found.upper) == (0.0, 0.5)
    (record,) = caplog.records
    assert "at least 19 PNEUMONIA patients, found 8" in record.message
    both = fit_abstention(labels[fewer], p[fewer], patients[fewer], 0.5, 0.01)
    assert both.uncertain([0.0, 1.0]).all()


def draw(random: np.random.Generator, patients: int):
    """Patients of 1 to 8 images that resemble each other; odd ones are PNEUMONIA."""
    names = np.repeat(np.arange(patients), random.integers(1, 9, patients))
    effect = random.normal(size=patients)[names] + random.normal(size=names.size)
    return names % 2, 2.5 * (1.2 * (2 * (names % 2) - 1) + effect), names


def confident_errors(abstention: Abstention, labels, p, names) -> list[float]:
    """Fraction of NORMAL and of PNEUMONIA patients with a confident error."""
    wrong = np.where(labels == 1, p < abstention.lower, p >= abstention.upper)
    return [
        np.unique(names[wrong & (labels == c)]).size / np.unique(names[labels == c]).size
        for c in (0, 1)
    ]


def test_alpha_holds_on_average_over_validation_sets():
    """Although the same images choose temperature and threshold."""
    random = np.random.default_rng(0)
    alpha, n = 0.1, 59  # k = 6 of 60: the bound is met with equality
    by_patient, by_image = [], []
    for _ in range(1000):
        labels, logits, names = draw(random, 2 * n)
        temperature = fit_temperature(labels, logits)
        p = sigmoid(logits / temperature)
        threshold = choose_threshold(labels, p, names, "youden").threshold
        new_labels, new_logits, new_names = draw(random, 400)
        new = new_labels, sigmoid(new_logits / temperature), new_names
        for patients, found in ((names, by_patient), (None, by_image)):
            fitted = fit_abstention(labels, p, patients, threshold, alpha)
            found.append(confident_errors(fitted, *new))
    # The standard error is 0.0014: one rank more or less, 0.083 or 0.117, would show.
    assert np.mean(by_patient, axis=0) == pytest.approx([alpha, alpha], abs=0.0045)
    assert np.mean(by_image, axis=0).min() > 0.13  # counting images as patients breaks it


def test_range_survives_a_checkpoint():
    values = fit_abstention(*validation_set(), 0.5).to_dict()
    assert {type(value) for value in values.values()} == {int, float}
    found = Abstention(0.0, ABOVE_ONE, 0.05, 5, 5)
    assert Abstention.from_dict(found.to_dict()) == found
    for lower in (1.1, math.nan):
        with pytest.raises(EvaluationError, match="lower"):
            Abstention.from_dict(found.to_dict() | {"lower": lower})


@pytest.mark.parametrize("alpha", [0, 0.5, math.nan])
def test_invalid_alpha_is_refused(alpha):
    with pytest.raises(EvaluationError, match="alpha"):
        fit_abstention(*validation_set(), 0.5, alpha)
