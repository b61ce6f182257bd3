"""The whole result: its metrics, their intervals, abstention, notes, and time."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import betabinom

from pneumonia.evaluation.abstention import Abstention
from pneumonia.evaluation.evaluate import (
    EvaluatedModel,
    EvaluationResult,
    evaluate_predictions,
)
from pneumonia.evaluation.metrics import METRICS, SYNONYMS, metric_values
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.threshold import choose_threshold

MODEL = EvaluatedModel("a.csv", "the images of that table")
ABSTENTION = Abstention(0.3, 0.7, 0.05, 259, 129)


def predictions(seed: int = 0, **changes) -> PredictionTable:
    """A test set of Kaggle's size."""
    rng = np.random.default_rng(seed)
    patients = np.r_[np.arange(234) // 2, 200 + np.arange(390) // 4]
    labels = np.repeat([0, 1], [234, 390])
    columns = {
        "label": labels,
        "logit": 3 * labels - 1.2 + rng.normal(size=400)[patients] + rng.normal(size=624),
        "patient": patients,
        "subtype": np.where(labels == 0, "normal", np.where(patients % 3, "bacterial", "viral")),
    }
    return PredictionTable(**columns | changes)


def evaluated(table: PredictionTable, threshold: float | None = 0.4, **given) -> EvaluationResult:
    return evaluate_predictions(table, MODEL, threshold, **{"replicates": 200} | given)


def model_with(abstention: Abstention | None = ABSTENTION, **changes) -> EvaluatedModel:
    table = predictions()
    point = choose_threshold(table.label, table.probability, None, "fixed", 0.5, quiet=True)
    return EvaluatedModel("best.ckpt", "split test", True, None, point, abstention, **changes)


def test_every_metric_overall_and_by_subtype():
    at_threshold = {m.name for m in METRICS if m.needs_threshold}
    at_threshold |= {*SYNONYMS}
    one_set = at_threshold | {f"at_0.5/{name}" for name in at_threshold}
    one_set |= {m.name for m in METRICS} | {"auroc_obuchowski"}
    one_set |= {"n", "n_positive", "n_patients", "n_patients_positive", "n_patients_negative"}
    by_subtype = {f"{s}/{name}" for s in ("bacterial", "viral") for name in one_set}
    found = evaluated(predictions()).metrics
    assert set(found) == one_set | by_subtype | {"threshold"}
    for name, e in found.items():
        assert e.low <= e.value <= e.high, name
        assert e.method, name


def test_values_are_those_of_the_table():
    table = predictions()
    result = evaluated(table)
    for prefix, kept in (("", "all"), ("viral/", "bacterial"), ("bacterial/", "viral")):
        part = table.take(table.subtype != kept)
        for name, value in metric_values(part, {"": 0.4, "at_0.5/": 0.5}).items():
            assert result.metrics[prefix + name].value == value
        assert result.metrics[f"{prefix}n"].value == len(part)
    assert result.metrics["n_patients"].value == 117 + 98
    assert result.metrics["threshold"].value == result.threshold == 0.4
    assert result.confusion.sensitivity == result.metrics["sensitivity"].value
    assert result.notes == ()
    assert result.values("test/")["test/auroc"] == result.metrics["auroc"].value
    assert not any("/" in name for name in result.values())


def test_unknown_subtypes_are_left_out():
    names = np.array(["normal", "", "unknown"])[np.r_[np.zeros(234, int), 1 + np.arange(390) % 2]]
    assert not any("unknown" in name for name in evaluated(predictions(subtype=names)).metrics)


def test_seed_determines_the_result():
    table = predictions()
    assert evaluated(table).metrics == evaluated(table).metrics
    assert evaluated(table).metrics != evaluated(table, seed=1).metrics
    named = np.array([f"person{n:04d}" for n in table.patient_ids])
    assert evaluated(predictions(patient=named)).metrics == evaluated(table).metrics


def test_without_patients_every_method_says_so_and_nothing_is_logged(caplog):
    result = evaluated(predictions(patient=None, subtype=None))
    for name, e in result.metrics.items():
        assert "assumes independent images" in e.method or e.method in {"count", "given"}, name
    assert "Patients are unknown" in result.notes[0]
    assert not caplog.records


def test_notes():
    mixed = np.where(np.arange(624) == 623, 0, predictions().patient)
    first, second = evaluated(predictions(patient=mixed, logit=np.zeros(624))).notes
    assert "both classes" in first
    assert "Distinct scores: only 1" in second
    few = evaluated(predictions(patient=np.repeat([0, 1], [234, 390]))).notes
    assert [note.split(",")[0] for note in few] == [
        "Only 1 NORMAL patients",
        "Only 1 PNEUMONIA patients",
    ]


@pytest.mark.parametrize(
    ("model", "threshold", "origin", "cut"),
    [
        (MODEL, None, "default", 0.5),
        (replace(MODEL, is_checkpoint=True), None, "missing", 0.5),
        (model_with(), None, "validation", 0.5),
        (model_with(history=({"prevalence": 0.2},)), None, "site", 0.5),
        (model_with(), 0.9, "given", 0.9),
    ],
)
def test_origin_of_the_threshold(model, threshold, origin, cut):
    result = evaluate_predictions(predictions(), model, threshold, replicates=200)
    assert (result.threshold_origin, result.threshold) == (origin, cut)
    used = origin in {"validation", "site"}  # abstention belongs to the model's own threshold
    assert result.abstention == (ABSTENTION if used else None)


SMALL = PredictionTable(
    label=np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1]),
    probability=np.array([0.1, 0.2, 0.5, 0.7, 0.29, 0.3, 0.6, 0.8, 0.9, 0.95]),
    patient=np.array(list("aabcddefgg")),
)


def selective(table: PredictionTable, abstention: Abstention = ABSTENTION) -> EvaluationResult:
    return evaluate_predictions(table, model_with(abstention), replicates=400)


def test_selective_metrics_counted_by_hand():
    plain = evaluate_predictions(SMALL, model_with(None), replicates=400)
    result = selective(SMALL)
    added = {name: e.value for name, e in result.metrics.items() if name not in plain.metrics}
    assert added == pytest.approx(
        {
            "coverage": 7 / 10,  # 0.5, 0.3 and 0.6 are uncertain
            "coverage_positive": 4 / 6,
            "coverage_negative": 3 / 4,
            "decided/sensitivity": 3 / 4,
            "decided/specificity": 2 / 3,
            "decided/accuracy": 5 / 7,
            "decided/false_negative_patients": 1 / 4,  # d, one of whose images is at 0.29
            "decided/false_positive_patients": 1 / 3,  # c, at the upper end itself
            "alpha": 0.05,
            "uncertain_from": 0.3,
            "uncertain_below": 0.7,
            "n_decided": 7,
        }
    )
    unchanged = {name: result.metrics[name] for name in plain.metrics}
    assert repr(unchanged) == repr(plain.metrics)
    assert result.values()["coverage"] == 0.7


def test_selective_intervals_are_by_patient():
    names = np.repeat(np.arange(60), 8)
    labels = names % 2
    random = np.random.default_rng(0)
    effect = random.normal(size=60)[names] + 0.3 * random.normal(size=names.size)
    table = PredictionTable(label=labels, logit=0.7 * (2 * labels - 1) + effect, patient=names)
    narrow_range = Abstention(0.4, 0.6, 0.05, 50, 50)
    grouped = selective(table, narrow_range).metrics
    alone = selective(replace(table, patient=None), narrow_range).metrics
    for name in ("coverage", "decided/sensitivity", "decided/specificity", "decided/accuracy"):
        wide, narrow = grouped[name], alone[name]
        assert wide.method == "patient bootstrap"
        assert narrow.method == "image bootstrap, assumes independent images"
        assert wide.low <= wide.value <= wide.high
        assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert grouped["decided/false_negative_patients"].method == "Wilson 1927 on 30 patients"


def test_nothing_decided_and_everything_right():
    none = selective(SMALL, Abstention(0.0, 1.0, 0.05, 5, 5)).metrics
    assert none["coverage"].value == 0
    assert none["coverage"].high > 0.3  # 7 patients do not show more
    assert math.isnan(none["decided/sensitivity"].value)
    right = selective(SMALL, Abstention(0.2, 0.8, 0.05, 50, 50)).metrics["decided/sensitivity"]
    assert (right.value, right.high) == (1, 1)
    assert right.method == "Clopper-Pearson on 2 patients"


@pytest.mark.parametrize(
    ("errors", "classes"),
    [((5, 5), []), ((6, 0), ["PNEUMONIA"]), ((30, 30), ["NORMAL", "PNEUMONIA"])],
)
def test_more_confident_errors_than_alpha_are_noted(errors, classes):
    false_negatives, false_positives = errors
    labels = np.repeat([0, 1], 100)
    p = np.where(labels == 1, 0.9, 0.1)
    p[:false_positives], p[100 : 100 + false_negatives] = 0.9, 0.1
    p += np.arange(200) / 1e5
    notes = selective(PredictionTable(label=labels, probability=p, patient=np.arange(200))).notes
    for note, name in zip(notes, classes, strict=True):
        assert f"of 100 {name} patients" in note
        by_chance = f"{betabinom(100, 13, 247).sf(5):.0%}"  # 6 or more
        assert (by_chance in note) == (false_negatives == 6)
