"""Compare two models on the same images by the paired patient-level bootstrap."""

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.confidence import (
    REPLICATES,
    Estimate,
    auroc_p_value,
    draw_patients,
    percentile_interval,
)
from pneumonia.evaluation.evaluate import HALF
from pneumonia.evaluation.metrics import METRICS, Metric, compute_metrics, metric_values
from pneumonia.evaluation.predictions import PredictionTable, check_threshold
from pneumonia.evaluation.report.write import METRICS_FILE

NO_EVIDENCE = "no evidence of a difference"
UNKNOWN = "unknown: no interval"


@dataclass(frozen=True)
class Difference:
    """One metric of two models, `a` and `b`; NaN where undefined."""

    a: float
    b: float
    difference: Estimate  # b - a
    verdict: str  # `A is better`, `B is higher`, ..., `NO_EVIDENCE` or `UNKNOWN`


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images."""

    differences: dict[str, Difference]  # by name; not corrected for multiple comparisons
    auroc_p_value: float  # two-sided, of equal AUROC (Obuchowski); NaN where the variance is 0
    only_a_correct: int  # images that only the first model classifies correctly
    only_b_correct: int
    accuracy_p_value: float  # McNemar's exact test (1947), which assumes independent images
    thresholds: tuple[str, str] = ("", "")  # of each model, and where it comes from


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
        b: Those of the second for the same images in the same order.
        thresholds: The threshold of each model, in [0, 1].
        seed: Bootstrap seed.
        replicates: Number of bootstrap replicates.

    Raises:
        EvaluationError: If the tables differ in labels or patients.
    """
    for name, differ in (
        ("label", a.label != b.label),
        ("patient", a.patient_ids != b.patient_ids),
    ):
        if differ.any():
            raise EvaluationError(
                f"column {name}: the tables differ in {differ.sum()} of {len(a)} images, first in"
                f" row {np.argmax(differ) + 1} of the first; expected the same {name} for each"
                " image."
            )
    weights = draw_patients(a, replicates, seed)
    values, drawn, correct = [], [], []
    for table, threshold in zip((a, b), map(check_threshold, thresholds), strict=True):
        values.append(metric_values(table, {"": threshold}))
        drawn.append(compute_metrics(table, {"": threshold}, weights))
        correct.append((table.probability >= threshold) == table.positive)
    differences = {}
    for metric in METRICS:
        of_a, of_b = (found[metric.name] for found in values)
        ends = percentile_interval(of_b - of_a, drawn[1][metric.name] - drawn[0][metric.name])
        difference = (
            Estimate(of_b - of_a, *ends, f"paired {a.unit} bootstrap{a.assumption}")
            if ends
            else Estimate.without_interval(of_b - of_a, "undefined, or equal in every replicate")
        )
        differences[metric.name] = Difference(of_a, of_b, difference, _verdict(metric, difference))
    only_a, only_b = int((correct[0] & ~correct[1]).sum()), int((correct[1] & ~correct[0]).sum())
    n = only_a + only_b
    p_value = float(binomtest(only_a, n).pvalue) if n else 1.0
    return Comparison(differences, auroc_p_value(a, b), only_a, only_b, p_value)


def compare_files(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    thresholds: tuple[float | None, float | None] = (None, None),
) -> Comparison:
    """Compare two tables of predictions of the same images, matched by path.

    Where only one table has patients, they are used for both.

    Args:
        a: One model's CSV file, as for `PredictionTable.read`, with a column path.
        b: The other's.
        thresholds: For each model; None for the one in `metrics.json` beside the file, or 0.5.

    Raises:
        EvaluationError: If a file cannot be used, or they are of different images.
    """
    tables, rows = [], []
    for file in (a, b):
        table = PredictionTable.read(file)
        if table.path is None:
            raise EvaluationError(
                f"{file} has no column path, expected the image file of each row, by which the"
                " tables are matched."
            )
        tables.append(table)
        rows.append({path: row for row, path in enumerate(table.path.tolist())})
    rows_a, rows_b = rows
    for file, only in ((a, rows_a.keys() - rows_b.keys()), (b, rows_b.keys() - rows_a.keys())):
        if only:
            raise EvaluationError(
                f"column path: {len(only)} images are only in {file}, such as {min(only)}; expected"
                " the same images in both tables."
            )
    table_a, table_b = tables[0], tables[1].take(np.array([rows_b[path] for path in rows_a]))
    if table_a.patient is None:
        table_a = replace(table_a, patient=table_b.patient)
    elif table_b.patient is None:
        table_b = replace(table_b, patient=table_a.patient)
    cut_a, origin_a = _threshold(a, thresholds[0])
    cut_b, origin_b = _threshold(b, thresholds[1])
    found = compare(table_a, table_b, (cut_a, cut_b))
    return replace(found, thresholds=(f"{cut_a:.4g}, {origin_a}", f"{cut_b:.4g}, {origin_b}"))


def _verdict(metric: Metric, difference: Estimate) -> str:
    if difference.value == 0:
        return NO_EVIDENCE
    if math.isnan(difference.low):
        return UNKNOWN
    if difference.low <= 0 <= difference.high:
        return NO_EVIDENCE
    higher, lower = ("B", "A") if difference.value > 0 else ("A", "B")
    if metric.higher_is_better is None:
        return f"{higher} is higher"
    return f"{higher if metric.higher_is_better else lower} is better"


def _threshold(file: str | os.PathLike[str], given: float | None) -> tuple[float, str]:
    if given is not None:
        return given, "given"
    metrics = Path(file).with_name(METRICS_FILE)
    try:
        value = json.loads(metrics.read_text(encoding="utf-8"))["test/threshold"]["value"]
        return float(value), f"from {metrics}"
    except (OSError, ValueError, KeyError, TypeError):
        return HALF, "default, not chosen on a validation set"
