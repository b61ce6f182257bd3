"""What the words of a search space mean to Optuna."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pneumonia.training.sweep.optuna import parse_space


def space(*words):
    return parse_space(OverridesParser.create().parse_overrides(list(words)))


@pytest.mark.parametrize(
    ("words", "distribution"),
    [
        ("interval(0,1)", FloatDistribution(0, 1)),
        ("tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("int(interval(8,64))", IntDistribution(8, 64)),
        ("tag(log,int(interval(8,64)))", IntDistribution(8, 64, log=True)),
        ("range(1,10,2)", IntDistribution(1, 9, step=2)),
        ("range(3)", IntDistribution(0, 2)),
        ("range(0.0,0.3,0.1)", FloatDistribution(0.0, 0.2, step=0.1)),
        ("null,balanced", CategoricalDistribution(["null", "balanced"])),
        ("choice(a,b)", CategoricalDistribution(["a", "b"])),
        ("choice(a,b,a)", CategoricalDistribution(["a", "b"])),
        ("range(5,6)", CategoricalDistribution(["5"])),
    ],
)
def test_words_become_distributions(words, distribution):
    assert space(f"x={words}").distributions == {"x": distribution}


def test_what_is_no_sweep_is_fixed_as_it_was_typed():
    found = space("~model.schedule.pct_start", "+data.odd='a b'", "++x=interval(0,1)")
    assert found.fixed == ["~model.schedule.pct_start", "+data.odd='a b'"]
    assert found.words({"++x": 0.5}) == [*found.fixed, "++x=0.5"]


def test_corners_hold_both_ends_and_every_category():
    corners = list(space("x=interval(0,1)", "y=a,b,c").corners())
    assert corners == [["x=0.0", "y=a"], ["x=1.0", "y=b"], ["x=0.0", "y=c"]]
