"""Tables of other programs are read alike, as predictions and as lists of images."""

import numpy as np
import pytest
from PIL import Image

from pneumonia.data.manifest import read_table
from pneumonia.errors import DataError, EvaluationError
from pneumonia.evaluation.evaluate import EvaluatedModel, evaluate_predictions
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.tables import parse_label, parse_number, read_csv

ROWS = [["Path", "Label", "Probability"], ["a.png", "Normal", "0.25"], ["b.png", "1.0", "0.75"]]


def text(delimiter: str = ",", decimal: str = ".", first: str = "") -> str:
    lines = [delimiter.join(cell.replace(".", decimal) for cell in row) for row in ROWS[1:]]
    return first + "\n".join([delimiter.join(ROWS[0]), *lines]).replace(",png", ".png") + "\n"


CONTENTS = {
    "UTF-8": text().encode(),
    "byte order mark": text().encode("utf-8-sig"),
    "UTF-16": text().encode("utf-16"),
    "UTF-16 without a mark": text().encode("utf-16-le"),
    "semicolons": text(";").encode(),
    "tabs": text("\t").encode(),
    "decimal commas": text(";", ",").encode(),
    "tabs and decimal commas": text("\t", ",").encode("utf-16"),
    "Excel names the delimiter": text(";", first="sep=;\n").encode(),
    "Windows line ends": text().replace("\n", "\r\n").encode(),
    "separators of Unicode": text()
    .replace("Probability", "Probability,x")
    .replace("25", "25,a\u2028b\x0bc")
    .replace("75", "75,d")
    .encode(),
    "blank lines": text().replace("\n", "\n\n").encode(),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_table_is_read_as_predictions_and_as_images(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    predictions = PredictionTable.read(tmp_path / "t.csv")
    assert predictions.path.tolist() == ["a.png", "b.png"]
    assert predictions.label.tolist() == [0, 1]
    assert predictions.probability.tolist() == [0.25, 0.75]
    images = read_table(tmp_path / "t.csv").read("train", "file")
    assert images.labels.tolist() == [0, 1]


@pytest.mark.parametrize("word", ["pneumonia", " PNEUMONIA ", "1", "1.0", "1,0", "1e0"])
def test_labels_in_any_notation(word):
    assert parse_label(word) == 1
    for wrong in ("2", "yes", "", "0.5"):
        with pytest.raises(ValueError, match=f"'{wrong}'"):
            parse_label(wrong)


def test_numbers_with_a_decimal_comma():
    assert parse_number("0,125") == parse_number("0.125") == 0.125
    with pytest.raises(ValueError, match="could not convert"):
        parse_number("1,2,3")


@pytest.mark.parametrize("split", ["valid", "Validation", "val"])
def test_names_of_splits(tmp_path, split):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    (tmp_path / "t.csv").write_text(f"path,label,split\na.png,0,{split}\nb.png,1,{split}\n")
    assert len(read_table(tmp_path / "t.csv").read("val", "file")) == 2


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"", "empty"), (b"path,label\na,0,1\n", "line 2"), (b'path,label\n"a,0\n', "line 2")],
)
def test_a_file_that_is_no_table_is_refused_by_both(tmp_path, content, named):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=named):
        read_csv(tmp_path / "t.csv")
    with pytest.raises(DataError, match=named):
        read_table(tmp_path / "t.csv")
    with pytest.raises(EvaluationError, match=named):
        PredictionTable.read(tmp_path / "t.csv")


@pytest.mark.parametrize(("digits", "noted"), [(0, True), (1, True), (3, False)])
def test_hard_and_coarse_scores_are_noted(digits, noted):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    scores = np.round(np.clip(0.2 + 0.5 * labels + random.normal(0, 0.2, 60), 0, 0.9), digits)
    table = PredictionTable(label=labels, probability=scores)
    result = evaluate_predictions(table, EvaluatedModel("x", "y"), replicates=200)
    assert any("Distinct scores" in note for note in result.notes) == noted


def test_inverted_scores_are_asked_about():
    labels = np.arange(60) % 2
    scores = np.clip(0.8 - 0.6 * labels + np.random.default_rng(0).normal(0, 0.2, 60), 0, 1)
    for probability, inverted in ((scores, True), (1 - scores, False)):
        table = PredictionTable(label=labels, probability=probability)
        result = evaluate_predictions(table, EvaluatedModel("x", "y"), replicates=200)
        assert ("NORMAL?" in result.notes[0]) == inverted
