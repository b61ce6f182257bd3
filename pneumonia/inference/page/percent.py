"""Probabilities -> percentages for a person, true to each other."""

from decimal import Context, Decimal

from pneumonia.evaluation.abstention import Abstention

_EXACT = Context(prec=1200)  # a double has at most 1,075 decimal places


def percentages(
    probability: float, threshold: float, band: Abstention | None = None
) -> dict[str, str]:
    """Write the numbers of an answer with as few digits as keep them true to each other.

    A probability below the threshold reads as a smaller number than the threshold, however close
    it is; likewise with the ends of the band. What is neither 0 nor 1 is not rounded to it.

    Args:
        probability: Of PNEUMONIA.
        threshold: PNEUMONIA from here up.
        band: Where the model abstains; None for nowhere.

    Returns:
        `probability` and `threshold`; `lower` and `upper` if there is a band.
    """
    cuts = {"threshold": threshold}
    if band is not None:
        cuts |= {"lower": band.lower, "upper": min(band.upper, 1.0)}
    digits = 0
    while not _faithful(probability, list(cuts.values()), digits):
        digits += 1
    numbers = {"probability": probability} | cuts
    return {name: _written(number, digits) for name, number in numbers.items()}


def _faithful(probability: float, cuts: list[float], digits: int) -> bool:
    whole = _rounded(1.0, digits)
    return all(
        (_rounded(probability, digits) >= _rounded(cut, digits)) == (probability >= cut)
        and (cut in (0, 1) or 0 < _rounded(cut, digits) < whole)
        and all(
            (_rounded(cut, digits) == _rounded(other, digits)) == (cut == other) for other in cuts
        )
        for cut in cuts
    )


def _rounded(share: float, digits: int) -> Decimal:
    return _EXACT.quantize(_EXACT.multiply(Decimal(share), Decimal(100)), _step(digits))


def _step(digits: int) -> Decimal:
    return Decimal((0, (1,), -digits))


def _written(share: float, digits: int) -> str:
    shown = _rounded(share, digits)
    if shown == 0 < share:
        return f"less than {_step(digits):f}%"
    if share < 1 and shown >= 100:  # noqa: PLR2004  per cent
        return f"more than {100 - _step(digits):f}%"
    return f"{shown:f}%"
