"""The files of a result: metrics.json, predictions.csv, report.html, MODEL_CARD.md."""

import json

import numpy as np
import pytest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.evaluate import EvaluatedModel, EvaluationResult, evaluate_predictions
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.report.write import write_report


def result() -> EvaluationResult:
    labels = np.arange(40) % 2
    table = PredictionTable(label=labels, probability=0.3 * labels + 0.3)
    return evaluate_predictions(table, EvaluatedModel("a", "b"), replicates=200)


def test_all_files_are_written(tmp_path):
    found = result()
    files = write_report(found, tmp_path / "new", tmp_path / "new/card.md")
    names = ["metrics.json", "predictions.csv", "report.html", "card.md"]
    assert [file.name for file in files] == names
    metrics = json.loads(files[0].read_text())
    assert metrics["test/loss"] == metrics["test/log_loss"]
    assert metrics["test/auroc"].keys() == {"value", "low", "high", "method"}
    assert metrics["test/calibration_slope"]["value"] is None  # the classes are separated
    again = PredictionTable.read(files[1])
    np.testing.assert_array_equal(again.probability, found.table.probability)


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="file"):
        write_report(result(), tmp_path / "file")
