"""A number with its interval, and intervals that need no resampling."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Confidence of every interval, two-sided."""

Number = int | float


def quantile_of_normal(level: float = LEVEL) -> float:
    """Give the number of standard errors on each side of a two-sided interval: 1.96 for 95%.

    Args:
        level: Confidence, in (0, 1).
    """
    return NormalDist().inv_cdf((1 + level) / 2)


@dataclass(frozen=True)
class Estimate:
    """A number, how far from it the truth may be, and how that was found.

    Attributes:
        value: The number on this sample; NaN where it is undefined.
        low: Lower end of the 95% interval; NaN where there is none.
        high: Upper end, likewise.
        method: Of the interval, or why there is none.
    """

    value: Number
    low: Number
    high: Number
    method: str

    def to_dict(self) -> dict[str, Number | str | None]:
        """Give plain numbers for JSON, None for NaN."""
        return {
            "value": _or_none(self.value),
            "low": _or_none(self.low),
            "high": _or_none(self.high),
            "method": self.method,
        }

    @classmethod
    def exact(cls, value: Number, method: str) -> "Estimate":
        """Make one of a number that is known and not estimated, such as a count.

        Args:
            value: The number, and both ends.
            method: What it is: `count`, `given`.
        """
        return cls(value, value, value, method)

    @classmethod
    def without_interval(cls, value: Number, reason: str) -> "Estimate":
        """Make one of a number whose interval cannot be known.

        Args:
            value: The number.
            reason: Why there is none.
        """
        return cls(value, math.nan, math.nan, f"none: {reason}")


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Compute the score interval of a proportion; assumes independent images.

    Wilson, JASA 22 (1927); method 3 of Newcombe, Statistics in Medicine 17 (1998), 857.

    Args:
        successes: From 0 to n.
        n: At least 1.
        level: Confidence.

    Returns:
        Lower and upper end.
    """
    z2 = quantile_of_normal(level) ** 2
    centre = (successes + z2 / 2) / (n + z2)
    reach = math.sqrt(z2 * (successes * (n - successes) / n + z2 / 4)) / (n + z2)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def clopper_pearson(all_or_none: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Compute the exact interval of a proportion that was seen to be 0 or 1.

    Clopper and Pearson, Biometrika 26 (1934): solving (1 - p)^n = alpha / 2 for the far end.
    Where images of a patient depend on each other, `n` counts patients: with every one of them
    free of errors, that their images were so too says no more.

    Args:
        all_or_none: The proportion, 0 or 1.
        n: Independent trials; none at all leave everything possible, [0, 1].
        level: Confidence.

    Returns:
        Lower and upper end.
    """
    far = ((1 - level) / 2) ** (1 / n) if n else 0.0
    return (far, 1.0) if all_or_none else (0.0, 1 - far)


def percentiles(
    value: float, replicates: NDArray[np.float64], level: float = LEVEL
) -> tuple[float, float] | None:
    """Compute the percentile interval of a bootstrap (Efron 1979).

    It is stretched to the value where it would miss it, as it does for the calibration error,
    which every resampling adds to.

    Args:
        value: The number on the sample itself.
        replicates: Shape (r,): the number on each replicate, NaN where undefined.
        level: Confidence.

    Returns:
        Lower and upper end, or None where replicates cannot tell: more of them are undefined than
        lie beyond one end, or all are the same.
    """
    defined = replicates[~np.isnan(replicates)]
    if math.isnan(value) or defined.size < (1 + level) / 2 * replicates.size:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    if np.ptp(defined) < 1e-12:  # noqa: PLR2004 - rounding of sums of the same images
        return None
    return min(float(low), value), max(float(high), value)


def _or_none(number: Number) -> Number | None:
    return number if math.isfinite(number) else None
