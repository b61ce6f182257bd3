"""The files of a result: metrics.json, predictions.csv, report.html, MODEL_CARD.md."""

import json
import math

import numpy as np
import pytest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.confidence import Estimate
from pneumonia.evaluation.evaluate import EvaluatedModel, EvaluationResult, evaluate_predictions
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.report.write import write_metrics, write_report


def result() -> EvaluationResult:
    labels = np.arange(40) % 2
    table = PredictionTable(label=labels, probability=0.3 * labels + 0.3)
    return evaluate_predictions(table, EvaluatedModel("a", "b"), replicates=200)


def test_metrics_are_written_under_test_with_their_interval(tmp_path):
    file = tmp_path / "metrics.json"
    write_metrics(
        file, {"f1": Estimate.without_interval(math.nan, "x"), "auroc": Estimate(1, 0, 1, "m")}
    )
    assert json.loads(file.read_text()) == {
        "test/auroc": {"value": 1, "low": 0, "high": 1, "method": "m"},
        "test/f1": {"value": None, "low": None, "high": None, "method": "none: x"},
    }


def test_all_files_are_written(tmp_path):
    found = result()
    files = write_report(found, tmp_path / "new", tmp_path / "new/card.md")
    names = ["metrics.json", "predictions.csv", "report.html", "card.md"]
    assert [file.name for file in files] == names
    metrics = json.loads(files[0].read_text())
    assert metrics["test/loss"] == metrics["test/log_loss"]
    again = PredictionTable.read(files[1])
    np.testing.assert_array_equal(again.probability, found.table.probability)


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="file"):
        write_report(result(), tmp_path / "file")
