"""Degenerate classifiers are detected; estimates and uncertain ranges are written correctly."""

import math

import pytest

from pneumonia.evaluation.abstention import ABOVE_ONE, Abstention
from pneumonia.evaluation.confidence import Estimate
from pneumonia.evaluation.metrics import Confusion
from pneumonia.evaluation.report.wording import (
    abstention_guarantee,
    degenerate,
    format_estimate,
    uncertain_range,
)


def test_degenerate_classifier_is_reported_with_recall_and_specificity():
    notebook = degenerate(Confusion(tp=390, fp=229, tn=5, fn=0))
    for part in ("229 of 234 NORMAL", "recall 1.000", "specificity 0.021"):
        assert part in notebook
    assert "380 of 390 PNEUMONIA" in degenerate(Confusion(tp=10, fp=0, tn=234, fn=380))


@pytest.mark.parametrize(
    "confusion",
    [
        Confusion(tp=378, fp=30, tn=204, fn=12),
        Confusion(tp=90, fp=89, tn=11, fn=10),  # just below the limit
        Confusion(tp=5, fp=95, tn=5, fn=95),  # inverted, but it separates the classes
        Confusion(tp=990, fp=1, tn=9, fn=0),  # nearly all images are PNEUMONIA
    ],
)
def test_other_classifiers_are_not_degenerate(confusion):
    assert degenerate(confusion) is None


def test_estimates_are_written_with_their_interval():
    assert format_estimate(Estimate(0.9817, 0.968, 0.992, "")) == "0.982 (0.968 to 0.992)"
    assert format_estimate(Estimate(0.9817, 0.968, 0.992, ""), 2) == "0.982 (0.97 to 0.99)"
    assert format_estimate(Estimate.without_interval(0.9, "x")) == "0.900 (no CI)"
    assert format_estimate(Estimate.without_interval(math.nan, "x")) == "undefined"


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.25, 0.75), "from 0.25 to 0.75"),
        ((0.0, 0.75), "below 0.75"),
        ((0.25, ABOVE_ONE), "at least 0.25"),
        ((0.0, ABOVE_ONE), "All images"),
        ((0.5, 0.5), "No image"),
    ],
)
def test_uncertain_range(ends, words):
    abstention = Abstention(*ends, 0.025, 259, 129)
    assert words in uncertain_range(abstention)
    assert "0.025" in abstention_guarantee(abstention, "validation")
