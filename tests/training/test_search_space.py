"""Search spaces in the syntax of Hydra, translated for Optuna."""

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pneumonia.errors import ConfigError
from pneumonia.training.sweep.optuna import corners, parse_space


def space(*words):
    return parse_space(OverridesParser.create().parse_overrides(list(words)))


@pytest.mark.parametrize(
    ("value", "distribution"),
    [
        ("interval(0,1)", FloatDistribution(0, 1)),
        ("tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("int(interval(8,64))", IntDistribution(8, 64)),
        ("tag(log,int(interval(8,64)))", IntDistribution(8, 64, log=True)),
        ("range(0.0,0.3,0.1)", CategoricalDistribution(["0.0", "0.1", "0.2"])),
        ("null,balanced", CategoricalDistribution(["null", "balanced"])),
        ("choice(a,b,a)", CategoricalDistribution(["a", "b"])),
    ],
)
def test_a_sweep_override_becomes_a_distribution(value, distribution):
    assert space(f"x={value}") == ([], {"x": distribution})


def test_an_override_with_a_single_value_is_kept_as_typed():
    fixed, searched = space("~model.schedule.pct_start", "+data.odd='a b'", "++x=interval(0,1)")
    assert fixed == ["~model.schedule.pct_start", "+data.odd='a b'"]
    assert list(searched) == ["++x"]


def test_corners_hold_both_ends_and_every_category():
    found = list(corners(*space("seed=1", "x=interval(0,1)", "y=a,b,c")))
    assert found == [
        ["seed=1", "x=0.0", "y=a"],
        ["seed=1", "x=1.0", "y=b"],
        ["seed=1", "x=0.0", "y=c"],
    ]


@pytest.mark.parametrize(
    "override",
    [
        "x=interval(1e-2,1e-4)",
        "x=tag(logarithmic,interval(1,2))",
        "x=tag(log,choice(1,2))",
        "x=range(3,3)",
        "seed=0,1,2",
        "data.split.seed=0,1,2",
    ],
)
def test_an_override_that_cannot_be_searched_is_named(override):
    with pytest.raises(ConfigError, match=re.escape(override)):
        space(override)


def test_a_search_needs_something_to_search():
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.params"):
        space("x=1")
