"""metrics.json: plain numbers under test/<metric>, whole or not at all."""

import json

import numpy as np
import pytest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import metrics
from pneumonia.evaluation.report.write import write_metrics


def test_every_metric_is_a_plain_number_under_test(tmp_path):
    file = tmp_path / "metrics.json"
    found = metrics.evaluate([0, 1, 1], [-1, 2, 3])
    write_metrics(file, found | {"loss": np.float32(0.25), "batches": np.int64(3)})
    written = json.loads(file.read_text())
    expected = {f"test/{name}": value for name, value in found.items()}
    assert written == expected | {"test/loss": 0.25, "test/batches": 3}
    assert list(written) == sorted(written)
    assert written["test/sensitivity"] == written["test/recall"]
    assert '"test/n": 3,' in file.read_text()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_what_json_cannot_say_is_refused_and_the_old_file_stays(tmp_path, value):
    file = tmp_path / "metrics.json"
    write_metrics(file, {"loss": 1.0})
    with pytest.raises(EvaluationError, match=r"metrics\.json was not written.*loss = (nan|inf)"):
        write_metrics(file, {"accuracy": 0.5, "loss": value})
    assert json.loads(file.read_text()) == {"test/loss": 1.0}
    assert list(tmp_path.iterdir()) == [file]
