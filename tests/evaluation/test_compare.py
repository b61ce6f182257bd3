"""Two models on the same images: differences are paired, and no evidence is said to be none."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import compare as module
from pneumonia.evaluation.compare import NO_EVIDENCE, UNKNOWN, compare, mcnemar, same_images
from pneumonia.evaluation.predictions import Sample, sigmoid


def models(seed: int = 0, loss: float = 0.0, noise: float = 0.3) -> tuple[Sample, Sample]:
    """The second has logits `loss` lower for PNEUMONIA, and some noise of its own."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(160), rng.integers(1, 6, 160))
    labels = patients % 2
    x = 2.4 * labels - 1.2 + rng.normal(size=160)[patients] + rng.normal(size=patients.size)
    z = x - loss * labels + noise * rng.normal(size=x.size)
    return Sample.of(labels, sigmoid(x), patients, x), Sample.of(labels, sigmoid(z), patients, z)


def test_equal_models_give_no_evidence():
    a, _ = models()
    found = compare(a, a, replicates=200)
    assert {d.verdict for d in found.differences.values()} == {NO_EVIDENCE}
    assert all(d.difference.value == 0 for d in found.differences.values())
    assert found.mcnemar.p_value == 1


def test_a_worse_model_is_called_worse():
    a, b = models(loss=1.0)
    found = compare(a, b, (0.4, 0.4), replicates=500)
    differences = found.differences
    for name in ("sensitivity", "at_0.5/sensitivity", "auroc", "auroc_obuchowski", "brier"):
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


def test_pairing_narrows_the_interval():
    a, b = models(noise=0.1)
    e = compare(a, b, replicates=500).differences["auroc"].difference
    assert e.high - e.low < 0.02
    assert e.method == "paired patient bootstrap"


def test_each_model_has_its_own_threshold():
    a, _ = models()
    d = compare(a, a, (0.2, 0.8), replicates=200).differences
    assert d["sensitivity"].verdict == "A is better"
    assert d["specificity"].verdict == "B is better"
    assert d["at_0.5/sensitivity"].difference.value == 0


def test_small_noise_is_rarely_called_a_difference():
    verdicts = [
        compare(*models(seed, noise=0.5), replicates=200).differences["specificity"].verdict
        for seed in range(20)
    ]
    assert verdicts.count(NO_EVIDENCE) >= 16


def test_a_difference_without_an_interval_is_unknown():
    labels = np.arange(40) % 2
    right, wrong = 0.2 + 0.6 * labels, 0.8 - 0.6 * labels
    found = compare(Sample.of(labels, right), Sample.of(labels, wrong), replicates=200)
    d = found.differences["sensitivity"]
    assert (d.a, d.b, d.verdict) == (1, 0, UNKNOWN)
    assert math.isnan(d.difference.low)
    assert found.differences["calibration_slope"].verdict == UNKNOWN
    assert found.mcnemar.p_value == pytest.approx(2 * 0.5**40)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (6, 16), (25, 11), (3, 3), (900, 1000)])
def test_mcnemar_is_the_binomial_test(only_a, only_b):
    right_a = np.r_[np.ones(only_a, bool), np.zeros(only_b, bool), True, False]
    right_b = np.r_[np.zeros(only_a, bool), np.ones(only_b, bool), True, False]
    found = mcnemar(right_a, right_b)
    assert (found.only_a_right, found.only_b_right) == (only_a, only_b)
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a else 1
    assert found.p_value == pytest.approx(expected)
    assert "assumes independent images" in found.method


def test_other_images_are_refused():
    a, b = models()
    images = np.arange(len(a)) > 0
    with pytest.raises(EvaluationError, match=f"Found {len(a)} images in the first.*{len(a) - 1}"):
        compare(a, b.subset(images))
    flipped = np.where(images, b.labels, ~b.labels)
    with pytest.raises(EvaluationError, match=r"differ in labels of 1 of .* at index 0"):
        compare(a, Sample.of(flipped, b.probabilities, b.patients))
    with pytest.raises(EvaluationError, match="differ in patients"):
        compare(a, Sample.of(b.labels, b.probabilities))
    with pytest.raises(EvaluationError, match="threshold is 2"):
        compare(a, b, (0.5, 2))


def test_images_are_matched_by_name():
    assert same_images(["a", "b", "c"], ["c", "a", "b"]).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("paths", "others", "sentence"),
    [
        (["a", "b"], ["a", "c"], r"1 only in the first \(b\) and 1 only in the second \(c\)"),
        (["a"], list("abcdef"), r"5 only in the second \(b, c, d, \.\.\.\)"),
        (["a", "a"], ["a", "b"], r"The first predictions name 1 images more than once \(a\)"),
        (["a", "b"], ["b", "b"], "The second predictions name 1 images"),
    ],
)
def test_images_that_do_not_match_are_named(paths, others, sentence):
    with pytest.raises(EvaluationError, match=sentence):
        same_images(paths, others)
    assert module.same_images(["x"], ["x"]).tolist() == [0]
