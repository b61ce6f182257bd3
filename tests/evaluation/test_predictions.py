"""Predictions survive the disk exactly, and a damaged table is refused by row and column."""

import csv
import re

import numpy as np
import pytest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.predictions import COLUMNS, Predictions, sigmoid

HEADER = "path,label,logit,probability,patient,subtype"
NASTY = (
    "test/NORMAL/plain.jpeg",
    'a, "quoted", name.jpeg',
    "Lungenentzündung 肺炎 🫁.jpeg",
    "line\nbreak.jpeg",
    " spaces at both ends ",
    "undecodable \udcff byte.jpeg",
)


def columns(n: int = 6) -> dict[str, list]:
    label = [i % 2 for i in range(n)]
    return {
        "path": [f"image{i}.jpeg" for i in range(n)],
        "label": label,
        "logit": [i - 2.5 for i in range(n)],
        "probability": [i / n for i in range(n)],
        "patient": [f"virus/{i // 2}" for i in range(n)],
        "subtype": [("normal", "viral")[x] for x in label],
    }


def test_the_file_is_what_the_issue_says(tmp_path):
    file = tmp_path / "predictions.csv"
    Predictions(**columns(2)).write(file)
    assert file.read_bytes().decode() == (
        f"{HEADER}\n"
        "image0.jpeg,NORMAL,-2.5,0.0,virus/0,normal\n"
        "image1.jpeg,PNEUMONIA,-1.5,0.5,virus/0,viral\n"
    )


def test_what_is_written_is_read_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    logit = np.r_[rng.normal(0, 30, 4), 5e-324, -1.7e308]
    table = Predictions(
        path=np.array(NASTY),
        label=np.array([0, 1, 1, 1, 0, 1]),
        logit=logit,
        probability=sigmoid(logit),
        patient=np.array(NASTY)[::-1],
        subtype=np.array(["normal", "bacterial", "viral", "unknown", "normal", "viral"]),
    )
    table.write(tmp_path / "deep" / "predictions.csv")
    again = Predictions.read(tmp_path / "deep" / "predictions.csv")
    assert len(again) == 6
    for name in COLUMNS:
        mine, theirs = getattr(table, name), getattr(again, name)
        assert mine.dtype.kind == theirs.dtype.kind
        assert mine.tolist() == theirs.tolist()


def test_float32_logits_keep_their_value(tmp_path):
    logit = np.random.default_rng(1).normal(size=6).astype(np.float32)
    Predictions(**columns() | {"logit": logit}).write(tmp_path / "p.csv")
    assert (Predictions.read(tmp_path / "p.csv").logit.astype(np.float32) == logit).all()


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "predictions.csv"
    Predictions(**columns(2)).write(file)
    before = file.read_bytes()

    class Interrupted:
        def __init__(self, out, **_):
            self.out = out

        def writerow(self, _):
            self.out.write("half a li")

        def writerows(self, _):
            raise KeyboardInterrupt

    monkeypatch.setattr(csv, "writer", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        Predictions(**columns(4)).write(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


BAD_VALUES = {
    "label": (3, "row 2, column label: found 3, expected 0 or 1."),
    "logit": (np.nan, "row 2, column logit: found nan, expected a finite number."),
    "probability": (1.5, "row 2, column probability: found 1.5, expected a number from 0 to 1."),
    "path": ("image0.jpeg", "row 2, column path: found 'image0.jpeg', expected each image once."),
    "patient": ("", "row 2, column patient: found '', expected a name"),
    "subtype": ("fungal", "row 2, column subtype: found 'fungal', expected one of normal, "),
}


@pytest.mark.parametrize("column", BAD_VALUES)
def test_a_bad_value_is_refused_by_row_and_column(column):
    value, sentence = BAD_VALUES[column]
    table = columns()
    table[column][1] = value
    with pytest.raises(EvaluationError, match=re.escape(sentence)):
        Predictions(**table)


def test_a_subtype_agrees_with_its_label():
    with pytest.raises(EvaluationError, match="row 1, column subtype: found 'viral'"):
        Predictions(**columns() | {"subtype": ["viral"] * 6})
    with pytest.raises(EvaluationError, match="row 2, column subtype: found 'normal'"):
        Predictions(**columns() | {"subtype": ["normal"] * 6})


@pytest.mark.parametrize("change", [{"logit": [1.0]}, {name: [] for name in COLUMNS}])
def test_columns_are_of_one_length_and_not_empty(change):
    with pytest.raises(EvaluationError, match="columns of one length, at least 1"):
        Predictions(**columns() | change)


def test_columns_are_of_their_type():
    with pytest.raises(EvaluationError, match="column label: found type float64, expected int64"):
        Predictions(**columns() | {"label": [0.7] * 6})
    with pytest.raises(EvaluationError, match="column logit: found type <U1, expected float64"):
        Predictions(**columns() | {"logit": ["a"] * 6})


ROW = "a.jpeg,NORMAL,-1.0,0.25,IM/1,normal\n"
BAD_FILES = {
    "": "begins with the columns ''",
    "path,label\n": "begins with the columns 'path,label', expected 'path,label,logit",
    f"{HEADER}\n": "columns of one length, at least 1",
    f"{HEADER}\n{ROW}b.jpeg,PNEUM": "row 2: found 2 cells, expected 6",
    f"{HEADER}\n{ROW.replace('NORMAL', '0')}": "row 1, column label: found '0', expected NORMAL or",
    f"{HEADER}\n{ROW.replace('-1.0', 'x')}": "row 1, column logit: found 'x', expected a number",
    f"{HEADER}\n{ROW.replace('0.25', '')}": "row 1, column probability: found '', expected a num",
    f"{HEADER}\n{ROW.replace('0.25', 'nan')}": "row 1, column probability: found nan, expected",
    f"{HEADER}\n{ROW}{ROW}": "row 2, column path: found 'a.jpeg', expected each image once",
    f'{HEADER}\n"a.jpeg': "cannot be read as a table of predictions",
}


@pytest.mark.parametrize(("text", "sentence"), BAD_FILES.items())
def test_a_damaged_file_is_refused_by_name_row_and_column(tmp_path, text, sentence):
    file = tmp_path / "predictions.csv"
    file.write_text(text)
    with pytest.raises(EvaluationError, match=re.escape(sentence)) as refusal:
        Predictions.read(file)
    assert str(refusal.value).startswith(str(file))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EvaluationError, match=r"none\.csv cannot be read"):
        Predictions.read(tmp_path / "none.csv")
