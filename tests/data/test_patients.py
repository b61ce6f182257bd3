"""Patients and subtypes from file names."""

import pytest

from pneumonia.data.patients import UNNUMBERED, identify_patients
from pneumonia.errors import ConfigError, DataError
from pneumonia.labels import NORMAL, PNEUMONIA


@pytest.mark.parametrize(
    ("name", "label", "stream", "number", "subtype"),
    [
        ("person78_bacteria_378.jpeg", PNEUMONIA, "bacteria", 78, "bacterial"),
        ("person78_virus_378.jpeg", PNEUMONIA, "virus", 78, "viral"),
        ("IM-0115-0001-0003.jpeg", NORMAL, "IM", 115, "normal"),
        ("NORMAL2-IM-1094-0001-0003.png", NORMAL, "NORMAL2-IM", 1094, "normal"),
    ],
)
def test_a_patient_is_a_stream_and_a_number(name, label, stream, number, subtype):
    (found,) = identify_patients([f"/data/{name}"], [label])
    assert (found.patient, found.stream) == (f"{stream}/{number}", stream)
    assert (found.number, found.subtype) == (number, subtype)


@pytest.mark.parametrize("name", ["person1_fungus_2.jpeg", "XIM-0001-0001.jpeg"])
def test_a_name_of_no_stream_is_refused_with_both_remedies(name):
    paths = ["/data/train/NORMAL/IM-0001-0001.jpeg", f"/data/train/PNEUMONIA/{name}"]
    with pytest.raises(DataError, match=rf"{name}.*data\.patients=REGEX.*data\.patients=file"):
        identify_patients(paths, [0, 1])


def test_an_expression_identifies_patients():
    names = ["/d/p12-a.png", "/d/p12-b.png", "/d/p3-a.png"]
    found = identify_patients(names, [1, 1, 0], r"^p(\d+)-")
    assert [f.patient for f in found] == ["12", "12", "3"]
    assert [f.number for f in found] == [UNNUMBERED] * 3
    assert [f.subtype for f in found] == ["unknown", "unknown", "normal"]


def test_a_name_with_an_empty_group_is_named():
    with pytest.raises(DataError, match=r"p\.png"):
        identify_patients(["p1.png", "p.png"], [0, 0], r"p(\d*)")


def test_with_file_each_file_is_a_patient():
    paths = ["/a/x.png", "/b/x.png", "/b/person1_virus_2.jpeg"]
    found = identify_patients(paths, [0, 1, 1], "file")
    assert len({f.patient for f in found}) == 3
    assert [f.subtype for f in found] == ["normal", "unknown", "viral"]


@pytest.mark.parametrize("expression", [r"p(\d+", r"(p)(\d+)"])
def test_an_invalid_expression_is_refused(expression):
    with pytest.raises(ConfigError, match=r"data\.patients="):
        identify_patients(["p1.png"], [0], expression)


@pytest.mark.parametrize(
    ("name", "label"), [("IM-0001-0001.jpeg", PNEUMONIA), ("person1_virus_1.jpeg", NORMAL)]
)
def test_a_name_that_contradicts_its_label_is_refused(name, label):
    with pytest.raises(DataError, match=name):
        identify_patients([f"/data/{name}"], [label])
