"""PredictionTable: validation, statistics of patients, and reading and writing CSV."""

from contextlib import suppress

import numpy as np
import pytest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.predictions import COLUMNS, PredictionTable, check_threshold, sigmoid
from pneumonia.files import atomic_write

HEADER = "path,label,logit,probability,patient,subtype"
ODD_NAMES = (
    "test/NORMAL/plain.jpeg",
    'a, "quoted", name.jpeg',
    "Lungenentzündung 肺炎 🫁.jpeg",
    "line\nbreak.jpeg",
    "=1+1",
    "undecodable \udcff byte.jpeg",
)


def columns(n: int = 6) -> dict[str, np.ndarray]:
    label = np.arange(n) % 2
    return {
        "path": np.array([f"image{i}.jpeg" for i in range(n)]),
        "label": label,
        "logit": np.arange(n) - 2.5,
        "probability": np.arange(n) / n,
        "patient": np.array([f"virus/{i // 2}" for i in range(n)]),
        "subtype": np.array(["normal", "viral"])[label],
    }


def write(path, text: str):
    path.write_text(text)
    return path


@pytest.mark.filterwarnings("error")
def test_sigmoid_is_stable():
    x = np.array([-1e4, -800, -40, 0, 40, 800, 1e4])
    assert sigmoid(x).tolist()[:2] == [0, 0]
    assert sigmoid(x).tolist()[-2:] == [1, 1]
    assert sigmoid(-40.0) == pytest.approx(np.exp(-40.0))
    assert sigmoid(np.float32([0.1])).dtype == np.float64


@pytest.mark.parametrize("threshold", [-0.1, 1.1, np.nan])
def test_threshold_is_a_probability(threshold):
    with pytest.raises(EvaluationError, match="threshold"):
        check_threshold(threshold)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_labels_of_any_numeric_type(dtype):
    table = PredictionTable(label=np.array([0, 1, 1], dtype), logit=np.array([-1, 1, 2]))
    assert table.label.tolist() == [0, 1, 1]
    assert table.positive.tolist() == [False, True, True]
    assert table.probability == pytest.approx(sigmoid([-1, 1, 2]))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("label", [0, 0]),
        ("label", [0, 2]),
        ("label", [0.0, np.nan]),
        ("label", ["NORMAL", "PNEUMONIA"]),
        ("label", []),
        ("logit", [1, np.nan]),
        ("probability", [0.2, 1.2]),
        ("path", ["a.jpeg", "a.jpeg"]),
        ("path", ["a.jpeg", ""]),
        ("path", ["a.jpeg", "a\rb.jpeg"]),
        ("patient", ["a", ""]),
        ("patient", [1.0, np.nan]),
        ("subtype", ["viral"]),
    ],
)
def test_invalid_columns_are_refused_by_name(column, values):
    with pytest.raises(EvaluationError, match=f"column {column}"):
        PredictionTable(**columns(2) | {column: np.array(values)})


@pytest.mark.parametrize(
    ("logit", "probability", "scores"),
    [
        ([40, 50], [1, 1], [40, 50]),  # saturated
        ([5, -5], [0.1, 0.9], [0.1, 0.9]),
        (None, [0.1, 0.9], [0.1, 0.9]),
    ],
)
def test_scores_are_logits_unless_they_contradict_the_probabilities(logit, probability, scores):
    logit = None if logit is None else np.array(logit)
    given = {"label": np.array([0, 1]), "probability": np.array(probability), "logit": logit}
    assert PredictionTable(**given).scores.tolist() == scores


def test_patients_are_counted_by_class():
    table = PredictionTable(
        label=np.array([0, 1, 0, 1, 1]),
        probability=np.full(5, 0.5),
        patient=np.array(["a", "a", "b", "c", "c"]),
    )
    assert table.n_patients == 3
    assert table.class_patients == (2, 2)
    assert table.mixed_patients.tolist() == [0]
    assert table.sum_by_patient(np.ones((5, 1)))[:, 0].tolist() == [2, 1, 2]
    part = table.take(np.array([1, 2, 3]))
    assert part.patient_ids.tolist() == [0, 1, 2]
    with pytest.raises(EvaluationError, match="label"):
        table.take(table.positive)


def test_file_format(tmp_path):
    PredictionTable(**columns(2)).write(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_bytes().decode() == (
        f"{HEADER}\n"
        "image0.jpeg,NORMAL,-2.5,0.0,virus/0,normal\n"
        "image1.jpeg,PNEUMONIA,-1.5,0.5,virus/0,viral\n"
    )


def test_written_table_is_read_back_exactly(tmp_path):
    logit = np.r_[np.random.default_rng(0).normal(0, 30, 4), 5e-324, -1.7e308]
    names = {"path": np.array([*ODD_NAMES[:-1], " spaces "]), "patient": np.array(ODD_NAMES)}
    given = PredictionTable(**columns() | names | {"logit": logit, "probability": sigmoid(logit)})
    given.write(tmp_path / "deep" / "p.csv")
    read = PredictionTable.read(tmp_path / "deep" / "p.csv")
    for name in COLUMNS:
        assert getattr(read, name).tolist() == getattr(given, name).tolist()
    PredictionTable(label=given.label, probability=given.probability).write(tmp_path / "p.csv")
    read = PredictionTable.read(tmp_path / "p.csv")
    assert (read.path, read.logit, read.patient, read.subtype) == (None,) * 4


def test_interrupted_write_leaves_the_old_file(tmp_path):
    file = write(tmp_path / "p.csv", "old")
    with suppress(KeyboardInterrupt), atomic_write(file) as out:
        out.write("half a li")
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("label,probability\n", "no rows"),
        ("truth,probability\n1,0.5\n", "column label"),
        ("label,score\n1,0.5\n", "column probability"),
        ("label,label,probability\n1,1,0.5\n", "label"),
        ("label,probability\n2,0.5\n0,0.6\n", "row 1, column label"),
        ("label,probability\n1,high\n0,0.6\n", "row 1, column probability"),
        ("path,label,probability\na,1,0.5\na,0,0.6\n", "row 2, column path"),
    ],
)
def test_bad_file_is_refused_by_name_row_and_column(tmp_path, text, named):
    with pytest.raises(EvaluationError, match=named) as error:
        PredictionTable.read(write(tmp_path / "a.csv", text))
    assert str(error.value).startswith(str(tmp_path / "a.csv"))
    assert "\n" not in str(error.value)


def test_output_of_predict_is_refused(tmp_path):
    text = "path,probability,predicted_class,error\na.jpeg,0.1,NORMAL,\nb.jpeg,0.9,PNEUMONIA,\n"
    with pytest.raises(EvaluationError, match=r"column label.*`pneumonia predict`"):
        PredictionTable.read(write(tmp_path / "a.csv", text))
