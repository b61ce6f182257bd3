"""Two models on the same images: which differences are more than chance."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.confidence import (
    REPLICATES,
    Estimate,
    MetricSet,
    area_difference,
    draw_patients,
    percentiles,
)
from pneumonia.evaluation.evaluate import AT_HALF, HALF
from pneumonia.evaluation.predictions import Cases, Sample, check_threshold, read_cases
from pneumonia.evaluation.report.write import METRICS

NO_EVIDENCE = "no evidence of a difference"
UNKNOWN = "unknown: no interval"

_LOWER_IS_BETTER = {"brier", "log_loss", "ece"}
_NEITHER_IS_BETTER = {"calibration_slope", "calibration_intercept"}
_SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """One metric of two models.

    Attributes:
        a: Of the first; NaN where undefined.
        b: Of the second.
        difference: b - a, with its interval.
        verdict: `A is better`, `B is better`, `A is higher`, `B is higher`, `NO_EVIDENCE` where
            the interval covers 0, or `UNKNOWN` where there is none.
    """

    a: float
    b: float
    difference: Estimate
    verdict: str


@dataclass(frozen=True)
class McNemar:
    """The exact test of equal accuracy on discordant images; assumes independent images.

    Attributes:
        only_a_right: Images that only the first model calls right.
        only_b_right: Images that only the second calls right.
        p_value: Two-sided.
        method: What it is, and what it assumes.
    """

    only_a_right: int
    only_b_right: int
    p_value: float
    method: str = "McNemar 1947, exact, assumes independent images"


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        differences: By metric, named as in `pneumonia.evaluation.evaluate.Assessment.metrics`; no
            correction is made for their number.
        auroc_p_value: Of equal AUROC, by the variance of `auroc_obuchowski`; NaN where that is 0.
        mcnemar: At each model's operating point.
    """

    differences: dict[str, Difference]
    auroc_p_value: float
    mcnemar: McNemar


def same_images(paths_a: Sequence[str], paths_b: Sequence[str]) -> NDArray[np.intp]:
    """Find each image of one table in another.

    Args:
        paths_a: Image files, each once.
        paths_b: The same files in any order.

    Returns:
        Shape (n,): places in b, so that b's rows at these places stand beside a's.

    Raises:
        EvaluationError: If a file is repeated or is in one table only; names the first few.
    """
    for name, paths in (("first", paths_a), ("second", paths_b)):
        files, counts = np.unique(np.asarray(paths, np.str_), return_counts=True)
        if (counts > 1).any():
            raise EvaluationError(
                f"The {name} predictions name {(counts > 1).sum()} images more than once "
                f"({_few(files[counts > 1])}); give each image once."
            )
    places = {path: place for place, path in enumerate(paths_b)}
    only_a = [path for path in paths_a if path not in places]
    only_b = sorted(set(paths_b) - set(paths_a))
    if only_a or only_b:
        lists = [
            f"{len(paths)} only in the {name} ({_few(paths)})"
            for name, paths in (("first", only_a), ("second", only_b))
            if paths
        ]
        raise EvaluationError(
            f"The predictions are of different images: {' and '.join(lists)}; a comparison is "
            "paired, so evaluate both models on the same files."
        )
    return np.array([places[path] for path in paths_a], dtype=np.intp)


def compare(
    a: Sample,
    b: Sample,
    thresholds: tuple[float, float] = (HALF, HALF),
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Comparison:
    """Compare two models by the paired patient bootstrap: the same patients drawn for both.

    Args:
        a: What the first model said.
        b: What the second said of the same images of the same patients, in the same order.
        thresholds: Operating point of each, in [0, 1].
        seed: Of the bootstrap.
        replicates: Of the bootstrap, at least 200.

    Raises:
        EvaluationError: If the samples differ in labels or patients.
    """
    _check_pair(a, b)
    cuts = [check_threshold(threshold) for threshold in thresholds]
    cards = [
        MetricSet(sample, {"": cut, AT_HALF: HALF})
        for sample, cut in zip((a, b), cuts, strict=True)
    ]
    values_a, values_b = (card.values() for card in cards)
    weights = draw_patients(a, replicates, seed)
    drawn_a, drawn_b = (card.replicates(weights) for card in cards)
    method = f"paired {a.unit} bootstrap{a.assumption}"
    found = {}
    for name, of_a in values_a.items():
        gap = values_b[name] - of_a
        gaps = drawn_b[name] - drawn_a[name]
        ends = percentiles(gap, gaps)
        difference = (
            Estimate(gap, *ends, method)
            if ends
            else Estimate.without_interval(gap, "undefined, or the same in every replicate")
        )
        found[name] = Difference(of_a, values_b[name], difference, _verdict(name, difference))
    area, p_value = area_difference(a, b)
    found["auroc_obuchowski"] = Difference(
        values_a["auroc"], values_b["auroc"], area, _verdict("auroc", area)
    )
    right_a, right_b = (
        (sample.probabilities >= cut) == sample.labels
        for sample, cut in zip((a, b), cuts, strict=True)
    )
    return Comparison(found, p_value, mcnemar(right_a, right_b))


def mcnemar(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> McNemar:
    """Test whether two models are right equally often on the same images.

    McNemar, Psychometrika 12 (1947), in the exact form: if they are, the images that only one
    calls right fall to either with probability 1/2.

    Args:
        right_a: Shape (n,), whether the first is right of each image.
        right_b: Shape (n,), likewise.
    """
    only_a = int((right_a & ~right_b).sum())
    only_b = int((right_b & ~right_a).sum())
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return McNemar(only_a, only_b, min(1.0, 2 * tail / 2**n))


def _check_pair(a: Sample, b: Sample) -> None:
    if len(a) != len(b):
        raise EvaluationError(
            f"Found {len(a)} images in the first predictions and {len(b)} in the second; a "
            "comparison is paired, so evaluate both models on the same files."
        )
    for what, of_a, of_b in (
        ("labels", a.labels, b.labels),
        ("patients", a.patients, b.patients),
    ):
        differ = np.flatnonzero(of_a != of_b)
        if differ.size:
            raise EvaluationError(
                f"The predictions differ in {what} of {differ.size} of {len(a)} images, the first "
                f"at index {differ[0]}; give both in the same order, with the same {what}."
            )


def _verdict(name: str, difference: Estimate) -> str:
    if difference.value == 0:
        return NO_EVIDENCE
    if math.isnan(difference.low):
        return UNKNOWN
    if difference.low <= 0 <= difference.high:
        return NO_EVIDENCE
    metric = name.rpartition("/")[2]
    higher = "B" if difference.value > 0 else "A"
    if metric in _NEITHER_IS_BETTER:
        return f"{higher} is higher"
    lower = "A" if higher == "B" else "B"
    return f"{lower if metric in _LOWER_IS_BETTER else higher} is better"


def _few(paths: Sequence[str] | NDArray[np.str_]) -> str:
    names = ", ".join(str(path) for path in paths[:_SHOWN])
    return names if len(paths) <= _SHOWN else f"{names}, ..."


@dataclass(frozen=True)
class ComparedTables:
    """A comparison, and the thresholds it was made at.

    Attributes:
        comparison: What differs.
        thresholds: Of each model: the number, and where it comes from.
    """

    comparison: Comparison
    thresholds: tuple[str, str]


def compare_files(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    thresholds: tuple[float | None, float | None] = (None, None),
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> ComparedTables:
    """Compare two tables of predictions of the same images, matched by path.

    Where only one table names the patients, they are taken from it for both.

    Args:
        a: One model's CSV file, as for `pneumonia.evaluation.predictions.read_cases`, with paths.
        b: The other's.
        thresholds: Of each; None for the one in the `metrics.json` beside it, or else 0.5.
        seed: Of the bootstrap.
        replicates: Of the bootstrap.

    Raises:
        EvaluationError: If a file cannot be used, or they are of different images.
    """
    left, right = _with_paths(a), _with_paths(b)
    right = right[0].take(same_images(left[1], right[1])), left[1]
    one, other = left[0], right[0]
    if one.patients is None:
        one = replace(one, patients=other.patients)
    elif other.patients is None:
        other = replace(other, patients=one.patients)
    cuts = [_threshold(path, t) for path, t in zip((a, b), thresholds, strict=True)]
    found = compare(
        one.sample(),
        other.sample(),
        (cuts[0][0], cuts[1][0]),
        seed=seed,
        replicates=replicates,
    )
    words = [f"{cut:.4g}, {origin}" for cut, origin in cuts]
    return ComparedTables(found, (words[0], words[1]))


def _with_paths(file: str | os.PathLike[str]) -> tuple[Cases, list[str]]:
    cases = read_cases(file)
    if cases.paths is None:
        raise EvaluationError(
            f"{file} has no column path, and without it nobody knows which rows show the same"
            " image; name the image of each row there."
        )
    return cases, cases.paths.tolist()


def _threshold(file: str | os.PathLike[str], given: float | None) -> tuple[float, str]:
    if given is not None:
        return given, "given by hand"
    beside = Path(file).with_name(METRICS)
    try:
        value = json.loads(beside.read_text(encoding="utf-8"))["test/threshold"]["value"]
        return float(value), f"from {beside}"
    except (OSError, ValueError, KeyError, TypeError):
        return HALF, "the default, chosen on no hold-out"
