"""The whole assessment: its keys, its seconds, its doubts, and what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import metrics
from pneumonia.evaluation.evaluate import assess
from pneumonia.evaluation.predictions import sigmoid

AT_A_THRESHOLD = {
    *("sensitivity", "recall", "specificity", "ppv", "precision", "npv", "accuracy"),
    *("balanced_accuracy", "f1", "mcc", "sensitivity_wilson", "specificity_wilson"),
    *(f"{value}_at_{percent}_percent" for value in ("ppv", "npv") for percent in (5, 20, 50)),
}
OF_NO_THRESHOLD = {
    *("auroc", "auroc_obuchowski", "auroc_delong", "average_precision", "brier", "log_loss"),
    *("ece", "calibration_slope", "calibration_intercept"),
    *("n", "n_positive", "n_patients", "n_patients_positive", "n_patients_negative"),
}


def cohort(seed: int = 0) -> tuple[np.ndarray, ...]:
    """A test of Kaggle's size: labels, logits, patients, subtypes."""
    rng = np.random.default_rng(seed)
    patients = np.r_[np.arange(234) // 2, 200 + np.arange(390) // 4]
    labels = np.repeat([0, 1], [234, 390])
    subtypes = np.where(labels == 0, "normal", np.where(patients % 3, "bacterial", "viral"))
    logits = 3 * labels - 1.2 + rng.normal(size=400)[patients] + rng.normal(size=624)
    return labels, logits, patients, subtypes


def assessed(**changes):
    labels, logits, patients, subtypes = cohort()
    given = {
        "labels": labels,
        "probabilities": sigmoid(logits),
        "patients": patients,
        "subtypes": subtypes,
        "threshold": 0.4,
        "scores": logits,
        "replicates": 200,
    }
    return assess(**(given | changes))


def test_every_metric_is_there_overall_and_by_subtype():
    one_set = OF_NO_THRESHOLD | AT_A_THRESHOLD | {f"at_0.5/{name}" for name in AT_A_THRESHOLD}
    expected = one_set | {f"{s}/{name}" for s in ("bacterial", "viral") for name in one_set}
    found = assessed()
    assert set(found.metrics) == expected | {"threshold"}
    for name, e in found.metrics.items():
        assert e.low <= e.value <= e.high, name
        assert e.method, name


def test_the_numbers_are_those_of_the_point_metrics():
    labels, logits, _, subtypes = cohort()
    found = assessed().metrics
    for prefix, kept, threshold in (
        ("", np.ones(624, bool), 0.4),
        ("at_0.5/", np.ones(624, bool), 0.5),
        ("viral/", subtypes != "bacterial", 0.4),
        ("bacterial/at_0.5/", subtypes != "viral", 0.5),
    ):
        expected = metrics.evaluate(labels[kept], logits[kept], threshold)
        for name in ("recall", "specificity", "precision", "f1", "accuracy", "balanced_accuracy"):
            assert found[prefix + name].value == pytest.approx(expected[name])
        rank = prefix.removesuffix("at_0.5/")
        assert found[f"{rank}auroc"].value == pytest.approx(expected["auroc"])
        assert found[f"{rank}n"].value == expected["n"]
    assert found["n_patients"].value == 117 + 98
    assert found["threshold"].value == 0.4


def test_the_rest_of_the_result():
    found = assessed()
    c = found.confusion
    assert (c.n_positive, c.n_negative) == (390, 234)
    assert c.sensitivity == found.metrics["sensitivity"].value
    assert found.reliability.images.sum() == 624
    curve = found.decision
    assert (curve.low <= curve.net_benefit).all()
    assert (curve.net_benefit <= curve.high).all()
    assert found.notes == ()


def test_the_same_seed_gives_the_same_result():
    assert assessed().metrics == assessed().metrics
    assert assessed().metrics != assessed(seed=1).metrics


def test_numbered_and_named_patients_are_the_same():
    _, _, patients, _ = cohort()
    named = np.array([f"person{n:04d}" for n in patients])
    assert assessed(patients=named).metrics == assessed().metrics


def test_scores_rank_where_probabilities_saturate():
    labels, logits, _, _ = cohort()
    hot = 100 * logits
    found = assessed(probabilities=sigmoid(hot), scores=hot, subtypes=None)
    assert found.metrics["auroc"].value == pytest.approx(metrics.auroc(labels, logits))
    assert assessed(scores=None).metrics["auroc"].value == found.metrics["auroc"].value


def test_without_patients_every_method_says_so(caplog):
    found = assessed(patients=None, subtypes=None)
    for name, e in found.metrics.items():
        assert "assumes independent images" in e.method or e.method in {"count", "given"}, name
    assert "each image counts as a patient of its own" in found.notes[0]
    assert found.notes[0] in caplog.text


def test_ten_images():
    labels = np.arange(10) % 2
    p = [0.1, 0.6, 0.2, 0.9, 0.65, 0.7, 0.3, 0.8, 0.35, 0.95]
    found = assess(labels, p, np.arange(10), threshold=0.5)
    assert any("Only 5 patients in class NORMAL" in note for note in found.notes)
    assert any("Only 5 patients in class PNEUMONIA" in note for note in found.notes)
    e = found.metrics["sensitivity"]
    assert (e.value, e.low, e.high) == (1, pytest.approx(0.025 ** (1 / 5)), 1)


def test_a_patient_with_both_labels_is_noted():
    _, _, patients, _ = cohort()
    found = assessed(patients=np.where(np.arange(624) == 623, patients[0], patients))
    assert "Patients with images of both classes: 1." in found.notes[0]
    assert found.metrics["auroc"].method == "patient bootstrap"


def test_constant_scores_are_noted():
    labels, _, patients, _ = cohort()
    found = assess(labels, np.full(624, 0.5), patients, threshold=0.5, replicates=200)
    assert found.metrics["auroc"].value == 0.5
    assert found.notes[-1] == "All images have the same score: the classifier tells none apart."


def test_unknown_subtypes_are_left_out():
    labels, _, _, _ = cohort()
    found = assessed(subtypes=np.where(labels == 0, "normal", "unknown"))
    assert not any("unknown" in name or "normal" in name for name in found.metrics)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": np.ones(624)}, "all are PNEUMONIA"),
        ({"probabilities": np.full(624, 1.5)}, "624 of 624 probabilities lie outside 0 to 1"),
        ({"probabilities": np.full(624, np.nan)}, "not finite"),
        ({"scores": np.full(624, np.inf)}, "scores are not finite"),
        ({"scores": np.zeros(3)}, "624 labels but 3 scores"),
        ({"patients": np.arange(3)}, r"patients of shape \(3,\)"),
        ({"patients": np.full(624, "")}, "624 of 624 images have no patient"),
        ({"patients": np.r_[np.arange(623.0), np.nan]}, "1 of 624 images have no patient.*623"),
        ({"patients": np.full(624, None)}, "patients are of type object"),
        ({"subtypes": np.array(["viral"])}, r"subtypes of shape \(1,\)"),
        ({"threshold": np.nan}, "threshold is nan"),
        ({"threshold": 50}, "give a number from 0 to 1"),
        ({"replicates": 10}, "at least 200"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(changes, sentence):
    with pytest.raises(EvaluationError, match=sentence) as refusal:
        assessed(**changes)
    assert str(refusal.value).endswith(".")


@pytest.mark.benchmark
def test_seconds_of_kaggles_test_on_one_core():
    """Prints the processor seconds of all metrics, 624 images, 2,000 replicates; wants < 5."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from test_evaluation_assess import assessed\n"
        "started = time.process_time(); assessed(replicates=2000)\n"
        "print(f'{time.process_time() - started:.2f} s')\n"
    )
    folder = str(Path(__file__).parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, folder],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    print(done.stdout)


def test_the_statistics_need_neither_torch_nor_scipy():
    code = (
        "import sys\n"
        "import pneumonia.evaluation.evaluate, pneumonia.evaluation.compare\n"
        "import pneumonia.evaluation.calibration, pneumonia.evaluation.threshold\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'matplotlib', 'lightning', 'hydra', 'timm'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "ours = {m.split('.')[1] for m in sys.modules if m.startswith('pneumonia.')}\n"
        "assert ours <= {'evaluation', 'errors', 'files', 'labels'}, ours\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
