"""Metrics agree with scikit-learn, and refuse what they cannot judge in one sentence."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sk

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import metrics
from pneumonia.evaluation.metrics import Confusion
from pneumonia.evaluation.predictions import sigmoid

SEEDS = range(20)


def random_case(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits of which many are tied, all of them in some cases."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.r_[0, 1, rng.integers(0, 2, n - 2)])
    steps = (1, 2, 5, 1000)[seed % 4]
    return labels, (rng.integers(0, steps, n) - steps / 2 + labels * (seed % 3)).astype(np.float32)


def notebook() -> tuple[np.ndarray, np.ndarray]:
    """The original notebook's test: 390 of 390 PNEUMONIA and 229 of 234 NORMAL called sick."""
    return np.r_[np.ones(390, int), np.zeros(234, int)], np.r_[np.ones(619), -np.ones(5)]


@pytest.mark.parametrize("seed", SEEDS)
def test_ranking_metrics_equal_those_of_scikit_learn(seed):
    labels, scores = random_case(seed)
    assert metrics.auroc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores))
    assert metrics.average_precision(labels, scores) == pytest.approx(
        sk.average_precision_score(labels, scores)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_curves_equal_those_of_scikit_learn(seed):
    labels, scores = random_case(seed)
    ours = metrics.roc(labels, scores)
    for mine, theirs in zip(
        ours, sk.roc_curve(labels, scores, drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(mine, theirs)
    ours = metrics.precision_recall(labels, scores)
    for mine, theirs in zip(ours, sk.precision_recall_curve(labels, scores), strict=True):
        np.testing.assert_allclose(mine, theirs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_threshold_metrics_equal_those_of_scikit_learn(seed, threshold):
    labels, logits = random_case(seed)
    called = metrics.predict_positive(sigmoid(logits), threshold)
    found = metrics.threshold_metrics(labels, called)
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(labels, called),
            "precision": sk.precision_score(labels, called, zero_division=0),
            "recall": sk.recall_score(labels, called),
            "sensitivity": sk.recall_score(labels, called),
            "specificity": sk.recall_score(labels, called, pos_label=0),
            "f1": sk.f1_score(labels, called),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, called),
        }
    )
    tn, fp, fn, tp = sk.confusion_matrix(labels, called).ravel().tolist()
    assert metrics.confusion(labels, called) == Confusion(tp=tp, fp=fp, tn=tn, fn=fn)


def test_the_notebook_is_seen_through():
    labels, logits = notebook()
    found = metrics.evaluate(labels, logits)
    rounded = {name: round(value, 3) for name, value in found.items()}
    assert rounded == {
        "accuracy": 0.633,
        "precision": 0.630,
        "recall": 1.0,
        "sensitivity": 1.0,
        "specificity": 0.021,
        "f1": 0.773,
        "balanced_accuracy": 0.511,
        "auroc": 0.511,
        "average_precision": 0.630,
        "n": 624,
        "n_positive": 390,
    }
    assert isinstance(found["n"], int)
    assert isinstance(found["n_positive"], int)


def test_a_probability_at_the_threshold_is_pneumonia():
    assert metrics.predict_positive([0.5, np.nextafter(0.5, 0)], 0.5).tolist() == [True, False]
    assert metrics.evaluate([0, 1], [0.0, 0.0])["specificity"] == 0
    assert metrics.evaluate([0, 1], [0.3, 0.9], threshold=0.6)["accuracy"] == 1


def test_no_image_called_pneumonia_gives_precision_zero():
    assert metrics.evaluate([0, 1], [-3.0, -2.0])["precision"] == 0


def test_saturated_logits_still_rank():
    labels, logits = [0, 0, 1, 1], np.float32([-60, 40, 60, 60.5])
    assert len(set(sigmoid(logits[1:]))) == 1
    assert metrics.evaluate(labels, logits)["auroc"] == 1
    assert metrics.evaluate(labels, logits)["average_precision"] == 1


@pytest.mark.filterwarnings("error")
def test_sigmoid_is_stable():
    x = np.array([-1e4, -800, -40, 0, 40, 800, 1e4])
    assert sigmoid(x).tolist()[:2] == [0, 0]
    assert sigmoid(x).tolist()[-2:] == [1, 1]
    assert sigmoid(-40.0) == pytest.approx(np.exp(-40.0))
    assert sigmoid(np.float32([0.1])).dtype == np.float64


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_labels_may_be_of_any_numeric_type(dtype):
    labels = np.array([0, 1, 1], dtype)
    assert metrics.evaluate(labels, [-1, 1, 2])["accuracy"] == 1


BAD = {
    "empty": ([], [], "There are no labels to evaluate"),
    "normal only": ([0, 0], [1, 2], "Found 2 labels and all are NORMAL.*holds PNEUMONIA images"),
    "pneumonia only": ([1, 1, 1], [1, 2, 3], "all are PNEUMONIA.*holds NORMAL images"),
    "third class": ([0, 1, 2], [1, 2, 3], r"1 of 3 labels are neither 0 \(NORMAL\).*2 at index 2"),
    "NaN label": ([0, 1, np.nan], [1, 2, 3], "1 of 3 labels.*nan at index 2"),
    "names": (["NORMAL", "PNEUMONIA"], [1, 2], "labels are of type <U9.*give numbers"),
    "two columns": ([[0, 1]], [1, 2], r"labels have shape \(1, 2\)"),
    "lengths": ([0, 1], [1, 2, 3], "Found 2 labels but 3 logits.*same order"),
    "NaN logit": ([0, 1], [1, np.nan], "1 of 2 logits are not finite.*nan at index 1.*diverged"),
    "infinite": ([0, 1], [-np.inf, 1], "1 of 2 logits are not finite.*-inf at index 0"),
    "no logits": ([0, 1], [], "There are no logits"),
    "wide logits": ([0, 1], [[1], [2]], r"logits have shape \(2, 1\)"),
}


@pytest.mark.parametrize(("labels", "logits", "sentence"), BAD.values(), ids=BAD.keys())
def test_bad_arrays_are_refused_in_a_sentence(labels, logits, sentence):
    with pytest.raises(EvaluationError, match=sentence) as refusal:
        metrics.evaluate(labels, logits)
    assert str(refusal.value).endswith(".")
    for function in (metrics.auroc, metrics.average_precision, metrics.roc):
        with pytest.raises(EvaluationError):
            function(labels, logits)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, np.nan])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(EvaluationError, match="give a number from 0 to 1"):
        metrics.evaluate([0, 1], [0, 1], threshold)


def test_logits_are_not_taken_for_probabilities():
    with pytest.raises(EvaluationError, match=r"1 of 2 probabilities.*1\.5 at index 1.*sigmoid"):
        metrics.predict_positive([0.2, 1.5])


def test_calls_are_booleans_one_per_label():
    with pytest.raises(EvaluationError, match="one True or False per image"):
        metrics.threshold_metrics([0, 1], np.array([0.2, 0.8]))
    with pytest.raises(EvaluationError, match="one True or False per image"):
        metrics.threshold_metrics([0, 1], np.array([True]))


@pytest.mark.parametrize("counts", [(0, 1, 1, 0), (1, 0, 0, 1), (-1, 1, 1, 3)])
def test_a_confusion_needs_both_classes(counts):
    with pytest.raises(EvaluationError, match="images of both classes"):
        Confusion(*counts)


def test_no_torch_is_imported():
    code = (
        "import sys\n"
        "import pneumonia.evaluation.metrics, pneumonia.evaluation.predictions\n"
        "import pneumonia.evaluation.report.wording, pneumonia.evaluation.report.write\n"
        "import pneumonia.evaluation.plots, pneumonia.evaluation.plots\n"
        "heavy = {'torch', 'lightning', 'sklearn', 'hydra', 'timm', 'matplotlib.pyplot'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "ours = {m for m in sys.modules if m.startswith('pneumonia.')}\n"
        "known = ('evaluation', 'errors', 'files', 'labels')\n"
        "assert all(m.split('.')[1] in known for m in ours), ours\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
