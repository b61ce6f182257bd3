"""Intervals agree with scipy and with what was published."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from pneumonia.evaluation.confidence import Estimate, clopper_pearson, percentiles, wilson
from pneumonia.evaluation.report.write import write_metrics


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_figures_of_newcombe(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)  # Stat Med 1998, table I


@pytest.mark.parametrize("n", [1, 7, 624])
def test_proportions_agree_with_scipy(n):
    for successes in {0, n // 3, n}:
        theirs = binomtest(successes, n).proportion_ci(method="wilson")
        assert wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    for level in (0.95, 0.975):
        for share in (0, 1):
            theirs = binomtest(share * n, n).proportion_ci(level, method="exact")
            found = clopper_pearson(share, n, level)
            assert found == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_no_trials_leave_everything_possible():
    assert clopper_pearson(1, 0) == (0, 1)
    assert clopper_pearson(0, 0) == (0, 1)


def test_percentiles_are_those_of_the_replicates():
    drawn = np.random.default_rng(0).normal(size=4000)
    assert percentiles(0.0, drawn) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_percentiles_hold_the_value():
    drawn = np.linspace(0.2, 0.4, 1000)
    assert percentiles(0.1, drawn)[0] == 0.1
    assert percentiles(0.5, drawn)[1] == 0.5


def test_replicates_that_cannot_tell_give_no_interval():
    assert percentiles(0.5, np.full(100, 0.5)) is None
    assert percentiles(math.nan, np.linspace(0, 1, 100)) is None
    drawn = np.linspace(0, 1, 1000)
    drawn[:20] = np.nan
    assert percentiles(0.5, drawn) is not None
    drawn[:30] = np.nan
    assert percentiles(0.5, drawn) is None


def test_estimates_are_written_as_the_schema_says(tmp_path):
    file = tmp_path / "metrics.json"
    metrics = {
        "auroc": Estimate(0.9, 0.8, 0.95, "patient bootstrap"),
        "n": Estimate.exact(624, "count"),
        "calibration_slope": Estimate.without_interval(math.nan, "undefined"),
        "loss": 0.25,
    }
    write_metrics(file, metrics)
    assert json.loads(file.read_text()) == {
        "test/auroc": {"value": 0.9, "low": 0.8, "high": 0.95, "method": "patient bootstrap"},
        "test/n": {"value": 624, "low": 624, "high": 624, "method": "count"},
        "test/calibration_slope": {
            "value": None,
            "low": None,
            "high": None,
            "method": "none: undefined",
        },
        "test/loss": 0.25,
    }
