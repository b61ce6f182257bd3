"""What a band leaves decided: shares counted by hand, intervals that respect patients."""

import json
import math

import numpy as np
import pytest

from pneumonia.evaluation.abstention import ABOVE_ONE, Abstention, selective, violated_guarantees
from pneumonia.evaluation.confidence import draw_patients
from pneumonia.evaluation.evaluate import EvaluatedModel, assess, build_result
from pneumonia.evaluation.predictions import Cases, Sample
from pneumonia.evaluation.report.write import write_report
from pneumonia.evaluation.threshold import choose_threshold

BAND = Abstention(0.3, 0.7, 0.05, 259, 129)

LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
PROBABILITIES = [0.1, 0.2, 0.5, 0.7, 0.29, 0.3, 0.6, 0.8, 0.9, 0.95]
PATIENTS = list("aabcddefgg")


def measured(labels=LABELS, probabilities=PROBABILITIES, patients=PATIENTS, band=BAND):
    sample = Sample.of(labels, probabilities, patients)
    return selective(sample, band, draw_patients(sample, 400))


def test_shares_are_those_counted_by_hand():
    found = {name: estimate.value for name, estimate in measured().items()}
    assert found == pytest.approx(
        {
            "coverage": 7 / 10,  # 0.5, 0.3 and 0.6 are uncertain
            "coverage_positive": 4 / 6,
            "coverage_negative": 3 / 4,
            "decided/sensitivity": 3 / 4,
            "decided/specificity": 2 / 3,
            "decided/accuracy": 5 / 7,
            "decided/missed_patients": 1 / 4,  # d, one of whose images was at 0.29
            "decided/alarmed_patients": 1 / 3,  # c, at the upper end itself
            "alpha": 0.05,
            "uncertain_from": 0.3,
            "uncertain_below": 0.7,
            "n_decided": 7,
        }
    )


def test_intervals_respect_patients_and_name_their_method():
    random = np.random.default_rng(0)
    names = np.repeat(np.arange(60), 8)
    labels = names % 2
    effect = random.normal(size=60)[names] + 0.3 * random.normal(size=names.size)
    p = 1 / (1 + np.exp(-(0.7 * (2 * labels - 1) + effect)))
    band = Abstention(0.4, 0.6, 0.05, 50, 50)
    grouped = measured(labels, p, names, band)
    alone = measured(labels, p, None, band)
    for name in ("coverage", "decided/sensitivity", "decided/specificity", "decided/accuracy"):
        wide, narrow = grouped[name], alone[name]
        assert wide.method == "patient bootstrap"
        assert narrow.method == "image bootstrap, assumes independent images"
        assert wide.low <= wide.value <= wide.high
        assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert grouped["decided/missed_patients"].method == "Wilson 1927 on 30 patients"
    assert alone["decided/missed_patients"].method.endswith("assumes independent images")


def test_nothing_decided_is_undefined_and_everything_right_is_no_certainty():
    none = measured(band=Abstention(0.0, ABOVE_ONE, 0.05, 5, 5))
    assert none["coverage"].value == 0
    assert none["coverage"].high > 0.3  # of 7 patients nobody knows
    for name in ("sensitivity", "specificity", "accuracy"):
        assert math.isnan(none[f"decided/{name}"].value)
        assert "no such image is decided" in none[f"decided/{name}"].method
    right = measured(band=Abstention(0.2, 0.8, 0.05, 50, 50))["decided/sensitivity"]
    assert (right.value, right.high) == (1, 1)
    assert right.method == "Clopper-Pearson on 2 patients"


def crowd(missed: int, alarmed: int) -> Sample:
    labels = np.repeat([0, 1], 100)
    p = np.where(labels == 1, 0.9, 0.1)
    p[:alarmed], p[100 : 100 + missed] = 0.9, 0.1
    return Sample.of(labels, p, np.arange(200))


def test_a_broken_promise_is_flagged_with_what_chance_explains():
    assert violated_guarantees(crowd(5, 5), BAND) == ()  # 5 of 100 is what was promised
    (sick,) = violated_guarantees(crowd(6, 0), BAND)
    assert "6 of 100 PNEUMONIA patients (6.0%) have an image confidently called NORMAL" in sick
    assert "the band promised 0.05 at most; chance alone gives as many in" in sick
    both = violated_guarantees(crowd(30, 30), BAND)
    assert len(both) == 2
    assert all("that is more than chance: the promise does not hold" in text for text in both)


def test_a_test_without_a_band_has_no_such_metrics():
    plain = assess(LABELS, PROBABILITIES, PATIENTS, threshold=0.5, replicates=200)
    banded = assess(LABELS, PROBABILITIES, PATIENTS, threshold=0.5, band=BAND, replicates=200)
    added = set(banded.metrics) - set(plain.metrics)
    assert added == set(measured())
    unchanged = {name: banded.metrics[name] for name in plain.metrics}
    assert repr(unchanged) == repr(plain.metrics)
    assert plain.band is None
    assert banded.plain()["coverage"] == 0.7
    assert any("Above the promise" in note for note in banded.notes)


def test_metrics_json_holds_them(tmp_path):
    cases = Cases(np.array(LABELS), np.array(PROBABILITIES), patients=np.array(PATIENTS))
    point = choose_threshold(LABELS, PROBABILITIES, PATIENTS, "fixed", 0.5, quiet=True)
    subject = EvaluatedModel("best.ckpt", "split test", True, None, point, band=BAND)
    write_report(build_result(cases, subject, replicates=200), tmp_path)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["test/coverage"]["value"] == 0.7
    assert written["test/decided/sensitivity"]["method"] == "patient bootstrap"
    by_hand = build_result(cases, subject, 0.9, replicates=200)  # outside the band
    assert by_hand.assessment.band is None
