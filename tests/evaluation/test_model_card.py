"""The model card: generated from what is known, and silent of nothing that is not."""

import numpy as np

from pneumonia.evaluation.evaluate import EvaluatedModel, evaluate_predictions
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.report.model_card import model_card
from pneumonia.evaluation.threshold import choose_threshold

FACTS = {
    "model": {"backbone": "resnetv2_50", "image_size": 224},
    "data": {"root": "data|set", "fingerprint": "0f1e", "splits": {"train": {"images": 7}}},
    "holdout": {"strategy": "blocks", "fraction": 0.12},
    "training": {"commit": "abc", "versions": {"torch": "2.9"}, "config": "seed: 0"},
}


def card(subject: EvaluatedModel, probabilities=None) -> str:
    labels = np.arange(100) % 2
    random = np.random.default_rng(0)
    logits = random.normal(4.0 * labels - 2, 1.5)
    values = 1 / (1 + np.exp(-logits)) if probabilities is None else probabilities
    found = PredictionTable(labels, values, logits, patients=np.arange(100).astype(np.str_))
    if subject.is_checkpoint and subject.metadata:
        point = choose_threshold(labels, found.probabilities, found.patients)
        subject = EvaluatedModel(
            subject.name, subject.data, True, (1.5, 0.2), point, subject.metadata
        )
    return model_card(evaluate_predictions(found, subject, replicates=200))


def test_holds_what_the_issue_asks_for():
    text = card(EvaluatedModel("best.ckpt", "split test", True, metadata=FACTS))
    for words in (
        "## Intended use",
        "not a medical device",
        "NORMAL = 0, PNEUMONIA = 1",
        "224 x 224 pixels",
        "0 (black) to 255 (white)",
        "0f1e",
        "7 images",
        "blocks",
        "PNEUMONIA means probability >=",
        "Promised there by",
        "| specificity | 0.",
        "## Limits",
        "CC BY 4.0",
        "abc",
        "2.9",
        "sigmoid(logit / 1.5 +0.2)",
    ):
        assert words in text, words


def test_text_from_outside_stays_in_its_cell():
    text = card(EvaluatedModel("a\n# b <b>", "x|y", True, metadata=FACTS))
    assert "\n# b" not in text
    assert "<b>" not in text
    assert "| root | data&#124;set |" in text


def test_an_older_checkpoint_says_what_it_lacks():
    text = card(EvaluatedModel("old.ckpt", "split test", True))
    assert "No calibration is recorded" in text
    assert "neither an operating point nor a calibration" in text
    assert text.count("Not recorded.") == 3


def test_a_degenerate_classifier_is_named_first():
    text = card(EvaluatedModel("a", "b", True), np.full(100, 0.9))
    assert text.splitlines()[2].startswith("**Degenerate classifier")
