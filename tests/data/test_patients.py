"""Who an image shows, as its file name tells."""

import pytest

from pneumonia.data.patients import UNNUMBERED, identify_patients
from pneumonia.errors import ConfigError, DataError, sentence
from pneumonia.labels import NORMAL, PNEUMONIA


@pytest.mark.parametrize(
    ("name", "label", "patient", "stream", "number", "subtype"),
    [
        ("person78_bacteria_378.jpeg", PNEUMONIA, "bacteria/78", "bacteria", 78, "bacterial"),
        ("person78_virus_378.jpeg", PNEUMONIA, "virus/78", "virus", 78, "viral"),
        ("person1017_virus_1695_1.jpeg", PNEUMONIA, "virus/1017", "virus", 1017, "viral"),
        ("IM-0115-0001.jpeg", NORMAL, "IM/115", "IM", 115, "normal"),
        ("IM-0543-0001-0002.jpeg", NORMAL, "IM/543", "IM", 543, "normal"),
        ("NORMAL2-IM-0115-0001.jpeg", NORMAL, "NORMAL2-IM/115", "NORMAL2-IM", 115, "normal"),
        ("NORMAL2-IM-1094-0001-0003.png", NORMAL, "NORMAL2-IM/1094", "NORMAL2-IM", 1094, "normal"),
    ],
)
def test_a_patient_is_a_stream_and_a_number(name, label, patient, stream, number, subtype):
    (found,) = identify_patients([f"/data/{name}"], [label])
    assert (found.patient, found.stream, found.number, found.subtype) == (
        patient,
        stream,
        number,
        subtype,
    )


def test_the_same_number_in_two_streams_is_two_patients():
    names = ["person7_bacteria_1.jpeg", "person7_virus_2.jpeg", "IM-0007-0001.jpeg"]
    names += ["NORMAL2-IM-0007-0001.jpeg"]
    assert len({found.patient for found in identify_patients(names, [1, 1, 0, 0])}) == 4


def test_all_images_of_a_number_in_a_stream_are_one_patient():
    names = ["IM-0115-0001.jpeg", "IM-0115-0002.jpeg", "IM-0115-0001-0003.jpeg", "IM-115-1.jpeg"]
    assert {found.patient for found in identify_patients(names, [0] * 4)} == {"IM/115"}


@pytest.mark.parametrize(
    "name",
    [
        "scan1.jpeg",
        "person1_fungus_2.jpeg",
        "personX_virus_2.jpeg",
        "copy of person1_virus_2.jpeg",
        "person1_virus_2 (1).jpeg",
        "XIM-0001-0001.jpeg",
    ],
)
def test_a_name_of_no_stream_is_refused_with_both_ways_out(name):
    with pytest.raises(DataError) as refusal:
        identify_patients(
            ["/data/train/NORMAL/IM-0001-0001.jpeg", f"/data/train/PNEUMONIA/{name}"], [0, 1]
        )
    for part in ("1 of 2", name, "/data/train/PNEUMONIA", "data.patients=REGEX", "=file"):
        assert part in str(refusal.value)
    assert sentence(refusal.value) == str(refusal.value)


def test_of_many_odd_names_the_first_three_are_named():
    with pytest.raises(
        DataError, match=r"5 of 5 .*first: a0\.png, a1\.png, a2\.png, in"
    ) as refusal:
        identify_patients([f"a{n}.png" for n in range(5)], [0] * 5)
    assert "a3.png" not in str(refusal.value)


def test_an_expression_says_what_a_patient_is():
    names = ["/d/p12-a.png", "/d/p12-b.png", "/d/p3-a.png"]
    found = identify_patients(names, [1, 1, 0], r"^p(\d+)-")
    assert [f.patient for f in found] == ["12", "12", "3"]
    assert [f.number for f in found] == [UNNUMBERED] * 3
    assert [f.subtype for f in found] == ["unknown", "unknown", "normal"]


def test_an_expression_reads_the_file_name_and_not_the_folders():
    with pytest.raises(DataError, match="do not match"):
        identify_patients(["/p12-/scan.png"], [0], r"p(\d+)-")


@pytest.mark.parametrize("expression", [r"p(\d+)?", r"p(\d*)"])
def test_a_name_whose_group_is_empty_is_refused(expression):
    with pytest.raises(DataError, match=r"1 of 2 .*first: p\.png"):
        identify_patients(["p1.png", "p.png"], [0, 0], expression)


def test_with_file_each_file_is_its_own_patient():
    found = identify_patients(
        ["/a/x.png", "/b/x.png", "/b/person1_virus_2.jpeg"], [0, 1, 1], "file"
    )
    assert len({f.patient for f in found}) == 3
    assert [f.subtype for f in found] == ["normal", "unknown", "viral"]


@pytest.mark.parametrize(
    ("expression", "found"),
    [(r"p(\d+", "not a regular expression"), (r"p\d+", "0 groups"), (r"(p)(\d+)", "2 groups")],
)
def test_an_unusable_expression_is_refused(expression, found):
    with pytest.raises(ConfigError, match=found) as refusal:
        identify_patients(["p1.png"], [0], expression)
    assert expression.replace("\\", "\\\\") in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "label", "folder", "says"),
    [
        ("IM-0001-0001.jpeg", PNEUMONIA, "PNEUMONIA", "normal"),
        ("person1_virus_1.jpeg", NORMAL, "NORMAL", "viral"),
        ("person1_bacteria_1.jpeg", NORMAL, "NORMAL", "bacterial"),
    ],
)
def test_a_name_that_contradicts_its_class_folder_is_refused(name, label, folder, says):
    with pytest.raises(DataError, match=f"{name} is labelled {folder} but its name says {says}"):
        identify_patients([f"/data/{folder}/{name}"], [label])
