"""The model card is generated from what is recorded, and says what is not."""

import numpy as np

from pneumonia.evaluation.evaluate import EvaluatedModel, evaluate_predictions
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.report.write import model_card
from pneumonia.evaluation.threshold import choose_threshold

METADATA = {
    "model": {"backbone": "resnetv2_50", "image_size": 224},
    "data": {"root": "data|set", "fingerprint": "0f1e", "splits": {"train": {"images": 7}}},
    "split": {"strategy": "blocks", "fraction": 0.12},
    "training": {"commit": "abc", "versions": {"torch": "2.9"}, "config": "seed: 0"},
}
LABELS = np.arange(100) % 2
LOGITS = np.random.default_rng(0).normal(4.0 * LABELS - 2, 1.5)
TABLE = PredictionTable(label=LABELS, logit=LOGITS, patient=np.arange(100))


def card(model: EvaluatedModel, table: PredictionTable = TABLE) -> str:
    return model_card(evaluate_predictions(table, model, replicates=200))


def test_a_complete_checkpoint_is_described():
    point = choose_threshold(TABLE.label, TABLE.probability, TABLE.patient)
    model = EvaluatedModel("best.ckpt", "split test", True, (1.5, 0.2), point, metadata=METADATA)
    text = card(model)
    for words in (
        *("## Intended use", "not a medical device", "NORMAL = 0, PNEUMONIA = 1", "CC BY 4.0"),
        *("224 x 224 pixels", "0 (black) to 255 (white)", "sigmoid(logit / 1.5 +0.2)"),
        *("| fingerprint | 0f1e |", "7 images", "| strategy | blocks |", "| commit | abc |"),
        *("| torch | 2.9 |", "Validation estimate", "| specificity | 0."),
    ):
        assert words in text, words


def test_text_from_outside_stays_in_its_cell():
    text = card(EvaluatedModel("a\n# b <b>", "x|y", True, metadata=METADATA))
    assert "\n# b" not in text
    assert "<b>" not in text
    assert "| root | data&#124;set |" in text


def test_missing_metadata_are_named():
    text = card(EvaluatedModel("old.ckpt", "split test", True))
    assert "No calibration is recorded" in text
    assert text.count("Not recorded.") == 5
