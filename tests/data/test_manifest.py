"""The table of images, and the CSV file that can list them."""

import csv
from pathlib import Path

import numpy as np
import pytest

from pneumonia.data.dataset import read_split
from pneumonia.data.manifest import COLUMN, read_table
from pneumonia.data.split import ValidationSplit
from pneumonia.errors import DataError


@pytest.fixture
def write(tmp_path, write_images):
    """Writes a CSV file, and the images that it names unless told otherwise."""

    def table(header: str, *rows: str, images: bool = True) -> Path:
        file = tmp_path / "table.csv"
        file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        if images:
            place = header.split(",").index("path")
            paths = [cells[place] for cells in csv.reader(rows)]
            write_images(tmp_path, [path for path in paths if not (tmp_path / path).exists()])
        return file

    return table


def test_a_table_of_kaggles_folders_gives_the_same_images(kaggle):
    names = [path.relative_to(kaggle) for path in sorted(kaggle.rglob("*.jpeg"))]
    rows = [f"{name},{name.parts[1]},{name.parts[0]}" for name in names]
    (kaggle / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    table = read_table(kaggle / "table.csv")
    for split in ("train", "val", "test"):
        one, other = table.read(split), read_split(kaggle, split)
        for column, expected in vars(other).items():
            assert np.array_equal(getattr(one, column), expected)


def test_relative_paths_start_from_the_tables_folder_or_a_given_root(write, tmp_path):
    elsewhere = str(tmp_path / "IM-2-1.png")
    file = write("path,label", "sub/IM-1-1.png,0", f"{elsewhere},0", "person1_virus_1.png,1")
    paths = [str(tmp_path / "sub/IM-1-1.png"), elsewhere, str(tmp_path / "person1_virus_1.png")]
    assert read_table(file).read("train").paths.tolist() == paths
    (tmp_path / "tables").mkdir()
    moved = file.rename(tmp_path / "tables/table.csv")
    assert read_table(moved, tmp_path).read("train").paths.tolist() == paths
    with pytest.raises(DataError, match="tables/sub"):
        read_table(moved)


def test_without_a_column_split_all_rows_are_train(write):
    table = read_table(write("path,label", "IM-1-1.png,0", "person1_virus_1.png,1"))
    assert (table.has_split("train"), table.has_split("val")) == (True, False)
    assert len(table.read("train")) == 2
    with pytest.raises(DataError, match="column split"):
        table.read("test")


def test_a_split_without_a_class_is_named(write):
    rows = ("IM-1-1.png,0,train", "person1_virus_1.png,1,train", "IM-2-1.png,0,test")
    table = read_table(write("path,label,split", *rows))
    with pytest.raises(DataError, match=r"PNEUMONIA .*split test"):
        table.read("test")
    with pytest.raises(DataError, match="split val"):
        table.read("val")


def test_patients_come_from_the_column_on_request(write):
    rows = ("a.png,0,Ann", "b.png,1,Ann", "c.png,1,Bob", "d.png,0, Bob ", "e.png,0,7")
    samples = read_table(write("path,label,patient", *rows)).read("train", COLUMN)
    assert samples.patients.tolist() == ["Ann", "Ann", "Bob", "Bob", "7"]
    assert samples.subtypes.tolist() == ["normal", "unknown", "unknown", "normal", "normal"]


def test_a_patient_of_both_classes_stays_on_one_side(write):
    rows = [f"{n}-{k}.png,{k},patient {n}" for n in range(20) for k in (0, 1)]
    samples = read_table(write("path,label,patient", *rows)).read("train", COLUMN)
    validation = ValidationSplit("random", fraction=0.2).mask(samples)
    assert set(samples.patients[validation]).isdisjoint(samples.patients[~validation])
    assert validation.sum() == 8


def test_patients_can_be_identified_by_file_or_expression_as_in_folders(write):
    table = read_table(write("path,label", "x/7_a.png,0", "x/7_b.png,1", "x/8_a.png,1"))
    assert len(set(table.read("train", "file").patients)) == 3
    assert table.read("train", r"^(\d+)_").patients.tolist() == ["7", "7", "8"]
    with pytest.raises(DataError, match=r"7_a\.png, 7_b\.png, 8_a\.png.*data\.patients=column"):
        table.read("train")
    with pytest.raises(DataError, match=r"data\.patients=column.*line 2"):
        table.read("train", COLUMN)
    table = read_table(write("path,label,patient", "a.png,0,Ann", "b.png,1, "))
    with pytest.raises(DataError, match="line 3"):
        table.read("train", COLUMN)


def test_a_subtype_in_the_table_overrides_the_file_name(write):
    rows = ("IM-1-1.png,0,", "person1_virus_1.png,1,", "person2_virus_2.png,1,bacterial")
    file = write("path,label,subtype", *rows, "person3_virus_3.png,1,unknown")
    subtypes = read_table(file).read("train").subtypes.tolist()
    assert subtypes == ["normal", "viral", "bacterial", "unknown"]


def test_other_columns_are_ignored_and_logged(write, caplog):
    caplog.set_level("INFO", "pneumonia")
    file = write("age,path,label,site", "3,IM-1-1.png,0,A", "4,person1_virus_1.png,1,B")
    assert len(read_table(file).read("train")) == 2
    assert "age, site" in caplog.text


def test_any_file_name_can_be_listed(write, tmp_path):
    names = ["a, b.png", "胸部.png", " a.png"]
    file = write("path,label", *(f'"{name}",{row % 2}' for row, name in enumerate(names)))
    samples = read_table(file).read("train", "file")
    assert samples.paths.tolist() == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"path,label\n", "no rows"),
        (b"file;label\na.png;0\n", "file,label"),
        (b"path,label,label\na.png,0,1\n", "path,label,label"),
        (b"\xff\xfep\x00a", "UTF-16"),
        (b"path,label\na, b.png,0\n", "line 2 has 3 cells"),
    ],
)
def test_an_invalid_table_is_refused(tmp_path, content, named):
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"{file}.*{named}"):
        read_table(file)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=f"data.table={tmp_path} "):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("label", "2"), ("split", "some"), ("subtype", "fungal"), ("subtype", "normal")],
)
def test_the_first_three_invalid_rows_are_named(write, column, value):
    values = {"label": "PNEUMONIA", "split": "train", "subtype": "viral"} | {column: value}
    bad = ",".join(values.values())
    rows = ["a.png,NORMAL,train,normal", *(f"{name}.png,{bad}" for name in "bcdef")]
    with pytest.raises(
        DataError, match=f"5 invalid rows .*line 3: .*{column}.*line 5: "
    ) as refusal:
        read_table(write("path,label,split,subtype", *rows))
    assert "line 6" not in str(refusal.value)


@pytest.mark.parametrize("name", ["gone.png", "folder", "a\0.png"])
def test_a_missing_file_is_named(write, tmp_path, name):
    write("path,label", "a.png,0", "b.png,1")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="line 4: "):
        read_table(write("path,label", "a.png,0", "b.png,1", f"{name},0", images=False))


@pytest.mark.parametrize("again", ["a.png", "link.png"])
def test_a_file_listed_twice_is_refused(write, tmp_path, again):
    write("path,label", "a.png,0", "sub/b.png,1")
    (tmp_path / "link.png").symlink_to("a.png")
    with pytest.raises(DataError, match=r"line 4: .* line 2"):
        read_table(write("path,label", "a.png,0", "sub/b.png,1", f"{again},1", images=False))
