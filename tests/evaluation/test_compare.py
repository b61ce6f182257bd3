"""Two models on the same images: differences are paired, and chance is not a difference."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.compare import NO_EVIDENCE, UNKNOWN, compare, compare_files
from pneumonia.evaluation.predictions import PredictionTable


def models(
    seed: int = 0, loss: float = 0.0, noise: float = 0.3
) -> tuple[PredictionTable, PredictionTable]:
    """The second has logits `loss` lower for PNEUMONIA, and some noise of its own."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(160), rng.integers(1, 6, 160))
    labels = patients % 2
    x = 2.4 * labels - 1.2 + rng.normal(size=160)[patients] + rng.normal(size=patients.size)
    z = x - loss * labels + noise * rng.normal(size=x.size)
    a, b = (PredictionTable(label=labels, logit=logits, patient=patients) for logits in (x, z))
    return a, b


def table(*probabilities: float) -> PredictionTable:
    p = np.array(probabilities)
    return PredictionTable(label=np.arange(p.size) % 2, probability=p)


def test_worse_model():
    a, b = models(loss=1.0)
    found = compare(a, b, (0.4, 0.4), replicates=500)
    differences = found.differences
    for name in ("recall", "auroc", "brier"):
        assert differences[name].verdict == "A is better", name
    assert differences["specificity"].verdict == NO_EVIDENCE
    assert differences["calibration_intercept"].verdict == "B is higher"
    assert found.auroc_p_value < 0.001
    back = compare(b, a, (0.4, 0.4), replicates=500).differences
    assert back["auroc"].verdict == back["log_loss"].verdict == "B is better"
    for name, d in differences.items():
        e, other = d.difference, back[name].difference
        assert e.value == pytest.approx(d.b - d.a), name
        assert (e.low, e.high) == pytest.approx((-other.high, -other.low)), name


def test_pairing_narrows_the_interval_and_each_model_has_its_own_threshold():
    a, b = models(noise=0.1)
    d = compare(a, b, (0.2, 0.8), replicates=500).differences
    auroc = d["auroc"].difference
    assert auroc.high - auroc.low < 0.02
    assert auroc.method == "paired patient bootstrap"
    assert d["recall"].verdict == "A is better"
    assert d["specificity"].verdict == "B is better"
    with pytest.raises(EvaluationError, match="threshold"):
        compare(a, a, (0.5, 2))


def test_difference_without_an_interval_is_unknown():
    found = compare(table(*[0.2, 0.8] * 20), table(*[0.8, 0.2] * 20), replicates=200)
    d = found.differences["recall"]
    assert (d.a, d.b, d.verdict) == (1, 0, UNKNOWN)
    assert math.isnan(d.difference.low)
    assert found.accuracy_p_value == pytest.approx(2 * 0.5**40)


def test_mcnemar_counts_images_that_one_model_gets_right():
    found = compare(
        table(*[0.2, 0.8] * 10), table(*[0.7, 0.8] * 3, *[0.2, 0.8] * 7), replicates=200
    )
    assert (found.only_a_correct, found.only_b_correct) == (3, 0)
    assert found.accuracy_p_value == pytest.approx(binomtest(3, 3).pvalue)


def test_tables_must_agree():
    a, b = models()
    with pytest.raises(EvaluationError, match="column label"):
        compare(a, PredictionTable(label=1 - b.label, logit=b.logit, patient=b.patient))
    with pytest.raises(EvaluationError, match="column patient"):
        compare(a, PredictionTable(label=b.label, logit=b.logit))


def test_files_are_matched_by_path_and_use_their_own_threshold(tmp_path):
    a, b = models()
    path = np.array([f"{i}.jpeg" for i in range(len(a))])
    named = np.array([f"person{n:04d}" for n in a.patient_ids])
    for name, t, order in (("one", a, 1), ("other", b, -1)):
        (tmp_path / name).mkdir()
        patient = named if name == "one" else None  # used for both
        whole = PredictionTable(label=t.label, logit=t.logit, path=path, patient=patient)
        whole.take(np.arange(len(t))[::order]).write(tmp_path / name / "predictions.csv")
    metrics = {"test/threshold": {"value": 0.3}}
    (tmp_path / "one" / "metrics.json").write_text(json.dumps(metrics))
    files = [tmp_path / name / "predictions.csv" for name in ("one", "other")]
    found = compare_files(*files)
    assert found.thresholds[0].startswith("0.3, from ")
    assert found.thresholds[1].startswith("0.5, default")
    assert repr(found.differences) == repr(compare(a, b, (0.3, 0.5)).differences)
    given = compare_files(*files, (0.1, 0.2))
    assert given.thresholds == ("0.1, given", "0.2, given")


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ("path,label,probability\na,0,0.5\nc,1,0.6\n", "column path.*such as b"),
        ("path,label,probability\na,0,0.5\nb,1,0.6\nc,1,0.6\n", "column path"),
        ("label,probability\n0,0.5\n1,0.6\n", "column path"),
        ("path,label,probability\na,1,0.5\nb,0,0.6\n", "column label"),
    ],
)
def test_files_of_other_images_are_refused(tmp_path, other, named):
    (tmp_path / "a.csv").write_text("path,label,probability\na,0,0.5\nb,1,0.6\n")
    (tmp_path / "b.csv").write_text(other)
    with pytest.raises(EvaluationError, match=named):
        compare_files(tmp_path / "a.csv", tmp_path / "b.csv")
