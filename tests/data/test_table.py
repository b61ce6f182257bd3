"""A table instead of folders: the same samples, and every mistake by its rows."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from pneumonia.data.dataset import read_split
from pneumonia.data.manifest import COLUMN, read_table
from pneumonia.data.split import ValidationSplit, check_disjoint
from pneumonia.errors import ConfigError, DataError


@pytest.fixture
def write(tmp_path, write_images):
    """Writes a table, and the images that it names unless told otherwise."""

    def table(header: str, *rows: str, images: bool = True, name: str = "table.csv") -> Path:
        file = tmp_path / name
        file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        if images:
            place = header.split(",").index("path")
            paths = [cells[place] for cells in csv.reader(rows)]
            write_images(tmp_path, [path for path in paths if not (tmp_path / path).exists()])
        return file

    return table


def refusal(file: Path, **settings) -> str:
    with pytest.raises(DataError) as error:
        read_table(file, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def rows_of(samples) -> dict[str, tuple]:
    columns = {name: column.tolist() for name, column in vars(samples).items()}
    return {row[0]: row[1:] for row in zip(*columns.values(), strict=True)}


def test_a_table_of_kaggles_folders_gives_the_very_same_samples(kaggle):
    file = kaggle / "table.csv"
    with file.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["path", "label", "split"])
        for path in sorted(kaggle.rglob("*.jpeg")):
            name = path.relative_to(kaggle)
            writer.writerow([name, name.parts[1], name.parts[0]])
    table = read_table(file)
    for split in ("train", "val", "test"):
        assert rows_of(table.read(split)) == rows_of(read_split(kaggle, split))
        assert rows_of(table.read(split, "file")) == rows_of(read_split(kaggle, split, "file"))
    in_folders, in_table = read_split(kaggle, "train"), table.read("train")
    held = [
        sorted(s.take(ValidationSplit("blocks").mask(s)).paths.tolist())
        for s in (in_folders, in_table)
    ]
    assert held[0] == held[1] != []


def test_labels_are_class_names_or_digits(write):
    file = write("path,label", "IM-1-1.png,0", "IM-2-1.png,NORMAL", "person1_virus_1.png,1")
    assert read_table(file).read("train").labels.tolist() == [0, 0, 1]
    file = write("label,path", "PNEUMONIA,person1_virus_1.png", " NORMAL ,IM-1-1.png")
    assert read_table(file).read("train").labels.tolist() == [1, 0]


def test_relative_paths_start_from_the_tables_folder_whatever_the_working_one(write, tmp_path):
    elsewhere = str(tmp_path / "IM-2-1.png")
    file = write("path,label", "sub/IM-1-1.png,0", f"{elsewhere},0", "person1_virus_1.png,1")
    assert read_table(file).read("train").paths.tolist() == [
        str(tmp_path / "sub/IM-1-1.png"),
        elsewhere,
        str(tmp_path / "person1_virus_1.png"),
    ]


def test_a_root_of_their_own_can_be_given(write, tmp_path):
    file = write("path,label", "IM-1-1.png,0", "person1_virus_1.png,1")
    other = tmp_path / "tables"
    other.mkdir()
    moved = file.rename(other / "table.csv")
    assert read_table(moved, tmp_path).read("train").class_counts() == (1, 1)
    assert f"no file under {other}" in refusal(moved)


def test_without_a_column_split_all_is_train_and_the_others_are_refused_by_name(write):
    table = read_table(write("path,label", "IM-1-1.png,0", "person1_virus_1.png,1"))
    assert table.has("train")
    assert not table.has("val")
    assert len(table.read("train")) == 2
    with pytest.raises(DataError, match=r"no image in split test \(it has no column split"):
        table.read("test")


def test_a_split_without_rows_or_without_a_class_is_refused_by_name(write):
    table = read_table(
        write(
            "path,label,split",
            "IM-1-1.png,0,train",
            "person1_virus_1.png,1,train",
            "IM-2-1.png,0,test",
        )
    )
    with pytest.raises(DataError, match="no PNEUMONIA image in split test"):
        table.read("test")
    with pytest.raises(DataError, match="no image in split val; write val"):
        table.read("val")


def test_patients_come_from_the_column_if_asked_for(write):
    file = write(
        "path,label,patient",
        "a.png,0,Ann",
        "b.png,1,Ann",
        "c.png,1,Bob",
        "d.png,0, Bob ",
        "e.png,0,7",
    )
    samples = read_table(file).read("train", COLUMN)
    assert samples.patients.tolist() == ["Ann", "Ann", "Bob", "Bob", "7"]
    assert samples.subtypes.tolist() == ["normal", "unknown", "unknown", "normal", "normal"]


def test_a_patient_of_both_classes_is_held_out_as_a_whole(write):
    rows = [f"{n}-{k}.png,{k},patient {n}" for n in range(20) for k in (0, 1)]
    samples = read_table(write("path,label,patient", *rows)).read("train", COLUMN)
    held = ValidationSplit("random", fraction=0.2).mask(samples)
    assert set(samples.patients[held]).isdisjoint(samples.patients[~held])
    assert held.sum() == 8


def test_a_patient_in_two_splits_is_found(write):
    file = write(
        "path,label,patient,split",
        *("a.png,0,Ann,train", "b.png,1,Bob,train", "c.png,0,Ann,test", "d.png,1,Eve,test"),
    )
    table = read_table(file)
    train, test = (table.read(split, COLUMN) for split in ("train", "test"))
    with pytest.raises(DataError, match=r"1 of 2 images of .* show a patient .*c\.png"):
        check_disjoint(train, test, "the test split")


def test_blocks_of_patients_without_numbers_are_refused_with_the_way_out(write):
    table = read_table(write("path,label,patient", "a.png,0,Ann", "b.png,1,Bob"))
    with pytest.raises(DataError, match=r"needs patient numbers.*strategy=random"):
        ValidationSplit("blocks").mask(table.read("train", COLUMN))


def test_patients_can_be_told_by_file_or_expression_as_in_folders(write):
    table = read_table(write("path,label", "x/7_a.png,0", "x/7_b.png,1", "x/8_a.png,1"))
    assert len(set(table.read("train", "file").patients)) == 3
    assert table.read("train", r"^(\d+)_").patients.tolist() == ["7", "7", "8"]
    with pytest.raises(DataError, match=r"7_a\.png, 7_b\.png, 8_a\.png.*data\.patients=REGEX"):
        table.read("train")


def test_names_that_tell_no_patient_are_refused_with_the_column_if_there_is_one(write):
    table = read_table(write("path,label,patient", "a.png,0,Ann", "b.png,1,Bob"))
    with pytest.raises(DataError, match=r"a\.png, b\.png.* column patient, .*patients=column"):
        table.read("train")


def test_a_patient_column_that_is_not_there_or_has_gaps_is_refused(write):
    with pytest.raises(ConfigError, match=r"data\.patients=column needs a column patient"):
        read_table(write("path,label", "a.png,0", "b.png,1")).read("train", COLUMN)
    table = read_table(write("path,label,patient", "a.png,0,Ann", "b.png,1, "))
    with pytest.raises(DataError, match=r"1 row has no patient \(first: 'b.png' in line 3\)"):
        table.read("train", COLUMN)


def test_a_label_that_contradicts_a_kaggle_name_is_refused(write):
    table = read_table(write("path,label", "IM-1-1.png,0", "person1_virus_1.png,0", "a.png,1"))
    with pytest.raises(DataError, match=r"person1_virus_1\.png .*NORMAL but its name says viral"):
        table.read("train")


def test_a_given_subtype_wins_and_gaps_are_filled_from_the_names(write):
    file = write(
        "path,label,subtype",
        *("IM-1-1.png,0,", "person1_virus_1.png,1,", "person2_virus_2.png,1,bacterial"),
        "person3_virus_3.png,1,unknown",
    )
    subtypes = read_table(file).read("train").subtypes.tolist()
    assert subtypes == ["normal", "viral", "bacterial", "unknown"]


def test_other_columns_are_passed_over_and_named_in_the_log(write, caplog):
    caplog.set_level("INFO", "pneumonia")
    file = write("age,path,label,site", "3,IM-1-1.png,0,A", "4,person1_virus_1.png,1,B")
    assert len(read_table(file).read("train")) == 2
    assert "columns passed over: age, site" in caplog.text


@pytest.mark.parametrize(
    "name", ["a b.png", "a, b.png", "a=b.png", 'a "b" c.png', "größe.png", "胸部.png", " a.png"]
)
def test_names_of_all_kinds(tmp_path, write_images, name):
    write_images(tmp_path, [name, "normal.png"])
    file = tmp_path / "table.csv"
    with file.open("w", encoding="utf-8", newline="") as text:
        csv.writer(text).writerows([("path", "label"), (name, 1), ("normal.png", 0)])
    samples = read_table(file).read("train", "file")
    assert samples.paths.tolist() == [str(tmp_path / name), str(tmp_path / "normal.png")]


@pytest.mark.parametrize("form", ["BOM", "CRLF", "blank lines", "no last line end"])
def test_what_spreadsheets_write_is_read(write, form):
    file = write("path,label", "IM-1-1.png,0", "person1_virus_1.png,1")
    text = file.read_bytes()
    file.write_bytes(
        {
            "BOM": b"\xef\xbb\xbf" + text,
            "CRLF": text.replace(b"\n", b"\r\n"),
            "blank lines": text.replace(b"\n", b"\n\n"),
            "no last line end": text.rstrip(),
        }[form]
    )
    assert read_table(file).read("train").class_counts() == (1, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no column path and no column label; its header is ''"),
        (b"path,label\n", "holds a header and no rows"),
        (b"file,label\na.png,0\n", "has no column path; its header is 'file,label'"),
        (b"path;label\na.png;0\n", "its header is 'path;label', .*with commas"),
        (b"path,label,label\na.png,0,1\n", "has two columns label"),
        ("path,label\ngröße.png,0\n".encode("latin-1"), "is not UTF-8 text"),
        ("path,label\na.png,0\n".encode("utf-16"), "is not UTF-8 text"),
        (b'path,label\n"a.png,0\n', "is not a CSV file: line 2"),
        (
            b"path,label\na, b.png,0\n",
            r'1 row has not 2 cells .*\(first: line 2 with 3\); put "quotes"',
        ),
        (b"path,label\na.png\n", r"first: line 2 with 1"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, said):
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"^{file}:? {said}" if said[0] == "h" else said):
        read_table(file)


def test_a_table_that_is_not_there_is_refused_with_what_is_expected(tmp_path):
    said = refusal(tmp_path / "nowhere.csv")
    assert f"data.table={tmp_path / 'nowhere.csv'} cannot be read (No such file" in said
    assert "path, label and, if wanted, split, patient, subtype" in said
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("label", "normal", "an unknown label (first: 'normal' in line 3, 'normal' in line 4"),
        ("label", "2", "use NORMAL, PNEUMONIA, 0, 1"),
        ("label", "", "an unknown label (first: '' in line 3"),
        ("split", "dev", "an unknown split (first: 'dev' in line 3"),
        ("split", "", "use train, val, test"),
        ("subtype", "fungal", "use normal, bacterial, viral, unknown"),
        ("subtype", "normal", "a subtype of the other class (first: normal for PNEUMONIA in line"),
    ],
)
def test_unknown_words_are_refused_with_the_first_three_rows(write, column, value, said):
    values = {"label": "PNEUMONIA", "split": "train", "subtype": "viral"} | {column: value}
    bad = ",".join(values.values())
    file = write(
        "path,label,split,subtype",
        *("a.png,NORMAL,train,normal", *(f"{name}.png,{bad}" for name in "bcdef")),
    )
    message = refusal(file)
    assert f"{file}: 5 rows have " in message
    assert said in message
    assert "line 5" in message
    assert "line 6" not in message


def test_missing_files_are_refused_with_the_first_three_rows(write, tmp_path):
    write("path,label", "a.png,0", "b.png,1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    file = write(
        "path,label",
        *("a.png,0", "b.png,1", "gone.png,0", "folder,1", "loop.png,0", ",1", "A.PNG.gz,0"),
        images=False,
    )
    assert refusal(file).startswith(
        f"{file}: 5 rows have no file under {tmp_path} (first: 'gone.png' in line 4, 'folder' in"
        " line 5, 'loop.png' in line 6);"
    )


@pytest.mark.parametrize("again", ["a.png", "./a.png", "sub/../a.png", "link.png", "absolute"])
def test_a_file_named_twice_is_refused_however_it_is_spelt(write, tmp_path, again):
    write("path,label", "a.png,0", "sub/b.png,1")
    (tmp_path / "link.png").symlink_to("a.png")
    again = str(tmp_path / "a.png") if again == "absolute" else again
    file = write("path,label", "a.png,0", "sub/b.png,1", f"{again},1", images=False)
    said = f"1 row has a file that has a row already (first: {again!r} in line 4 as in line 2)"
    assert said in refusal(file)


def test_hard_links_are_files_of_their_own_and_stay_together(write, tmp_path):
    write("path,label", "a.png,0", "b.png,1")
    os.link(tmp_path / "a.png", tmp_path / "c.png")
    file = write("path,label", "a.png,0", "b.png,1", "c.png,0", images=False)
    samples = read_table(file).read("train", "file")
    held = ValidationSplit("random", fraction=0.5).mask(samples)
    assert len(np.unique(held[[0, 2]])) == 1
