"""Compare two models on the same images by the paired patient-level bootstrap."""

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.confidence import (
    REPLICATES,
    Estimate,
    auroc_difference,
    draw_patients,
    percentile_interval,
)
from pneumonia.evaluation.evaluate import AT_HALF, HALF
from pneumonia.evaluation.metrics import METRICS, compute_metrics, metric_values
from pneumonia.evaluation.predictions import PredictionTable, check_threshold
from pneumonia.evaluation.report.write import METRICS_FILE

NO_EVIDENCE = "no evidence of a difference"
UNKNOWN = "unknown: no interval"

_HIGHER_IS_BETTER = {metric.name: metric.higher_is_better for metric in METRICS}


@dataclass(frozen=True)
class Difference:
    """One metric of two models.

    Attributes:
        a: Of the first model; NaN where undefined.
        b: Of the second.
        difference: b - a, with its interval.
        verdict: `A is better`, `B is better`, `A is higher`, `B is higher`, `NO_EVIDENCE` where
            the interval includes 0, or `UNKNOWN` without an interval.
    """

    a: float
    b: float
    difference: Estimate
    verdict: str


@dataclass(frozen=True)
class McNemar:
    """The exact test of equal accuracy (McNemar, Psychometrika 12, 1947).

    Attributes:
        only_a_right: Images that only the first model classifies correctly.
        only_b_right: Images that only the second classifies correctly.
        p_value: Two-sided.
        method: Its name, and what it assumes.
    """

    only_a_right: int
    only_b_right: int
    p_value: float
    method: str = "McNemar 1947, exact, assumes independent images"


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        differences: By the names of `compute_metrics`, and `auroc_obuchowski`; not corrected for
            the number of metrics.
        auroc_p_value: Of equal AUROC, by the variance of `auroc_obuchowski`; NaN where that is 0.
        mcnemar: At each model's threshold.
        thresholds: Of each model: the number, and where it comes from.
    """

    differences: dict[str, Difference]
    auroc_p_value: float
    mcnemar: McNemar
    thresholds: tuple[str, str] = ("", "")


def compare(
    a: PredictionTable,
    b: PredictionTable,
    thresholds: tuple[float, float] = (HALF, HALF),
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Comparison:
    """Compare two models; each replicate draws the same patients for both.

    Args:
        a: Predictions of the first model.
        b: Predictions of the second for the same images of the same patients, in the same order.
        thresholds: Of each model, in [0, 1].
        seed: Of the bootstrap.
        replicates: Of the bootstrap, at least 200.

    Raises:
        EvaluationError: If the tables differ in labels or patients.
    """
    _check_pair(a, b)
    cut_a, cut_b = map(check_threshold, thresholds)
    weights = draw_patients(a, replicates, seed)
    values_a, drawn_a = _values_and_replicates(a, cut_a, weights)
    values_b, drawn_b = _values_and_replicates(b, cut_b, weights)
    found = {}
    for name, value_a in values_a.items():
        gap = values_b[name] - value_a
        ends = percentile_interval(gap, drawn_b[name] - drawn_a[name])
        difference = (
            Estimate(gap, *ends, f"paired {a.unit} bootstrap{a.assumption}")
            if ends
            else Estimate.without_interval(gap, "undefined, or the same in every replicate")
        )
        found[name] = Difference(value_a, values_b[name], difference, _verdict(name, difference))
    difference, p_value = auroc_difference(a, b)
    found["auroc_obuchowski"] = Difference(
        values_a["auroc"], values_b["auroc"], difference, _verdict("auroc", difference)
    )
    right_a = (a.probability >= cut_a) == a.positive
    right_b = (b.probability >= cut_b) == b.positive
    return Comparison(found, p_value, _mcnemar(right_a, right_b))


def compare_files(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    thresholds: tuple[float | None, float | None] = (None, None),
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Comparison:
    """Compare two tables of predictions of the same images, matched by path.

    Where only one table has patients, they are used for both.

    Args:
        a: One model's CSV file, as for `PredictionTable.read`, with a column path.
        b: The other's.
        thresholds: Of each model; None for the one in `metrics.json` beside the file, or else 0.5.
        seed: Of the bootstrap.
        replicates: Of the bootstrap.

    Raises:
        EvaluationError: If a file cannot be used, or they are of different images.
    """
    table_a, paths_a = _read_with_paths(a)
    table_b, paths_b = _read_with_paths(b)
    table_b = table_b.take(_match_images(paths_a, paths_b))
    if table_a.patient is None:
        table_a = replace(table_a, patient=table_b.patient)
    elif table_b.patient is None:
        table_b = replace(table_b, patient=table_a.patient)
    cut_a, origin_a = _threshold(a, thresholds[0])
    cut_b, origin_b = _threshold(b, thresholds[1])
    found = compare(table_a, table_b, (cut_a, cut_b), seed=seed, replicates=replicates)
    return replace(found, thresholds=(f"{cut_a:.4g}, {origin_a}", f"{cut_b:.4g}, {origin_b}"))


def _mcnemar(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> McNemar:
    only_a = int((right_a & ~right_b).sum())
    only_b = int((right_b & ~right_a).sum())
    n = only_a + only_b
    return McNemar(only_a, only_b, float(binomtest(only_a, n).pvalue) if n else 1.0)


def _match_images(paths_a: list[str], paths_b: list[str]) -> NDArray[np.intp]:
    """Find the rows of b that show the images of a."""
    rows = {path: row for row, path in enumerate(paths_b)}
    known = set(paths_a)
    only = {
        "first": [path for path in paths_a if path not in rows],
        "second": [path for path in paths_b if path not in known],
    }
    if only["first"] or only["second"]:
        found = [
            f"{len(paths)} images only in the {table} table, such as {paths[0]}"
            for table, paths in only.items()
            if paths
        ]
        raise EvaluationError(
            f"column path: found {' and '.join(found)}; expected the same images in both tables."
        )
    return np.array([rows[path] for path in paths_a], dtype=np.intp)


def _values_and_replicates(
    table: PredictionTable, threshold: float, weights: NDArray[np.int32]
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    cuts = {"": threshold, AT_HALF: HALF}
    return metric_values(table, cuts), compute_metrics(table, cuts, weights)


def _check_pair(a: PredictionTable, b: PredictionTable) -> None:
    if len(a) != len(b):
        raise EvaluationError(
            f"The first table has {len(a)} images and the second {len(b)}, expected the same images"
            " in both."
        )
    for name, of_a, of_b in (
        ("label", a.label, b.label),
        ("patient", a.patient_ids, b.patient_ids),
    ):
        differ = np.flatnonzero(of_a != of_b)
        if differ.size:
            raise EvaluationError(
                f"column {name}: the tables differ in {differ.size} of {len(a)} images, first in"
                f" row {differ[0] + 1} of the first; expected the same {name} for each image."
            )


def _verdict(name: str, difference: Estimate) -> str:
    if difference.value == 0:
        return NO_EVIDENCE
    if math.isnan(difference.low):
        return UNKNOWN
    if difference.low <= 0 <= difference.high:
        return NO_EVIDENCE
    higher, lower = ("B", "A") if difference.value > 0 else ("A", "B")
    higher_is_better = _HIGHER_IS_BETTER.get(name.removeprefix(AT_HALF), True)
    if higher_is_better is None:
        return f"{higher} is higher"
    return f"{higher if higher_is_better else lower} is better"


def _read_with_paths(file: str | os.PathLike[str]) -> tuple[PredictionTable, list[str]]:
    table = PredictionTable.read(file)
    if table.path is None:
        raise EvaluationError(
            f"{file} has no column path, expected the image file of each row, by which the tables"
            " are matched."
        )
    return table, table.path.tolist()


def _threshold(file: str | os.PathLike[str], given: float | None) -> tuple[float, str]:
    if given is not None:
        return given, "given"
    metrics = Path(file).with_name(METRICS_FILE)
    try:
        value = json.loads(metrics.read_text(encoding="utf-8"))["test/threshold"]["value"]
        return float(value), f"from {metrics}"
    except (OSError, ValueError, KeyError, TypeError):
        return HALF, "default, not chosen on a validation set"
