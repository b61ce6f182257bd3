"""A search space in the words of Hydra's command line -> Optuna's distributions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.types import IntervalSweep, Override, Sweep

from pneumonia.errors import ConfigError, sentence

if TYPE_CHECKING:  # an extra
    from optuna.distributions import BaseDistribution

_NEVER = {
    "seed": "the luckiest seed would win; fix it, and train the best settings with several seeds",
    "monitor": "figures of different kinds cannot be ranked",
    "mode": "figures of different kinds cannot be ranked",
    "test": "the test split must not choose settings",
}
_HOLDOUT = "the easiest hold-out would win; fix it, and check the best settings on other folds"


@dataclass(frozen=True)
class Space:
    """What a search holds fixed, and what it draws from.

    Attributes:
        fixed: Overrides that every trial has.
        distributions: By key as typed, `+` and all; categories are the words of an override.
    """

    fixed: list[str]
    distributions: dict[str, BaseDistribution]

    def words(self, values: dict[str, Any]) -> list[str]:
        """The overrides of one trial.

        Args:
            values: By key, drawn from the distributions.
        """
        return [*self.fixed, *(f"{key}={value}" for key, value in values.items())]

    def corners(self) -> Iterator[list[str]]:
        """Overrides that together have both ends of every interval, and every category."""
        ends = {key: _ends(distribution) for key, distribution in self.distributions.items()}
        for values in itertools.zip_longest(*ends.values()):
            drawn = {
                key: ends[key][0] if value is None else value
                for key, value in zip(ends, values, strict=True)
            }
            yield self.words(drawn)


def parse_space(overrides: Sequence[Override]) -> Space:
    """Divide overrides into fixed ones and a search space.

    Integers come from `int(interval(...))` and from a `range` of integers; `range` stops before
    its end, as in a grid.

    Args:
        overrides: Parsed by Hydra.

    Raises:
        ConfigError: If there is nothing to search, or a distribution is impossible or unsound.
    """
    fixed, distributions = [], {}
    for override in overrides:
        line = str(override.input_line)
        if not override.is_sweep_override():
            fixed.append(line)
            continue
        key = override.key_or_group
        reason = _HOLDOUT if key.startswith("data.holdout") else _NEVER.get(key)
        if reason:
            raise ConfigError(f"{line} cannot be searched: {reason}.")
        try:
            distributions[override.get_key_element()] = _distribution(override)
        except ValueError as error:
            raise ConfigError(f"{line} cannot be searched: {sentence(error)}") from error
    if not distributions:
        raise ConfigError(
            "there is nothing to search; give hydra.sweeper.params, or an interval on the command"
            " line such as 'model.optimizer.lr=tag(log,interval(1e-4,1e-2))'."
        )
    return Space(fixed, distributions)


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import (  # noqa: PLC0415  an extra
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    sweep = override.value()
    tags = sweep.tags if isinstance(sweep, Sweep) else set()
    if tags - {"log"} or (tags and not isinstance(sweep, IntervalSweep)):
        raise ValueError(f"tag({', '.join(sorted(tags))}) is unknown here; intervals take log.")
    if isinstance(sweep, IntervalSweep):
        low, high = cast(float, sweep.start), cast(float, sweep.end)
        if low >= high:
            raise ValueError(f"its lower end {low:g} must be less than its upper end {high:g}.")
        if tags and low <= 0:
            raise ValueError(f"on a logarithmic scale its lower end {low:g} must be positive.")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=bool(tags))
        return FloatDistribution(low, high, log=bool(tags))
    words = list(dict.fromkeys(override.sweep_string_iterator()))
    if not words:
        raise ValueError("it holds no value.")
    if override.is_choice_sweep() or len(words) == 1:
        return CategoricalDistribution(words)
    numbers = sorted(cast(Iterator[float], override.sweep_iterator()))
    low, high, step = numbers[0], numbers[-1], numbers[1] - numbers[0]
    if all(isinstance(number, int) for number in numbers):
        return IntDistribution(int(low), int(high), step=int(step))
    return FloatDistribution(low, round(low + step * (len(numbers) - 1), 12), step=round(step, 12))


def _ends(distribution: Any) -> Sequence[Any]:
    return getattr(distribution, "choices", None) or (distribution.low, distribution.high)
