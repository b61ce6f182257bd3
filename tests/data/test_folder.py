"""A split on disk: what is counted, and what is refused by name."""

import shutil

import pytest

from pneumonia.data.dataset import ChestXrayFolder, read_split
from pneumonia.errors import DataError


@pytest.fixture
def train(tmp_path, write_images):
    write_images(tmp_path / "train/NORMAL", ["IM-0001-0001.jpeg", "IM-0002-0001.jpeg"])
    write_images(tmp_path / "train/PNEUMONIA", ["person1_virus_1.jpeg", "person1_bacteria_1.png"])
    return tmp_path / "train"


def files(train):
    return sorted(read_split(train.parent, "train").paths)


def test_normal_is_0_and_pneumonia_is_1(train):
    folder = ChestXrayFolder(train)
    assert folder.class_to_idx == {"NORMAL": 0, "PNEUMONIA": 1}
    for path, label in folder.samples:
        assert f"/{folder.classes[label]}/" in path


def test_the_images_of_a_split_come_in_name_order(train):
    names = [path.rpartition("/")[2] for path in read_split(train.parent, "train").paths]
    assert names == [
        "IM-0001-0001.jpeg",
        "IM-0002-0001.jpeg",
        "person1_bacteria_1.png",
        "person1_virus_1.jpeg",
    ]


@pytest.mark.parametrize(
    "debris",
    [
        "train/__MACOSX/NORMAL/._IM-0001-0001.jpeg",
        "train/NORMAL/__MACOSX/IM-0009-0001.jpeg",
        "train/NORMAL/._IM-0001-0001.jpeg",
        "train/.DS_Store",
        "train/NORMAL/.DS_Store",
        "train/.ipynb_checkpoints/x.jpeg",
        "train/NORMAL/.hidden/x.jpeg",
        "train/NORMAL/Thumbs.db",
        "train/PNEUMONIA/labels.csv",
        "train/readme.txt",
        "chest_xray/train/NORMAL/IM-0001-0001.jpeg",
        "__MACOSX/chest_xray/train/NORMAL/._IM-0001-0001.jpeg",
    ],
)
def test_debris_is_not_counted(train, debris):
    before = files(train)
    path = train.parent / debris
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"debris")
    assert files(train) == before


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "tiff", "bmp", "webp", "pgm"])
def test_image_files_of_all_kinds_count(train, suffix):
    (train / f"NORMAL/IM-0003-0001.{suffix}").write_bytes(b"not read here")
    assert str(train / f"NORMAL/IM-0003-0001.{suffix}") in files(train)


@pytest.mark.parametrize("name", ["COVID", "normal", "chest_xray", "IM-0001-0001.jpeg"])
def test_what_is_no_class_is_refused_by_name(train, write_images, name):
    write_images(train, [name if name.endswith(".jpeg") else f"{name}/x.jpeg"])
    with pytest.raises(DataError, match=f"{train} holds {name}, .*NORMAL and PNEUMONIA"):
        files(train)


def test_a_folder_inside_a_class_is_refused_by_name(train, write_images):
    write_images(train / "PNEUMONIA/bacteria", ["person1_bacteria_1.jpeg"])
    with pytest.raises(DataError, match="PNEUMONIA holds the folder bacteria"):
        files(train)


def test_a_missing_class_is_refused_by_name(train):
    shutil.rmtree(train / "NORMAL")
    with pytest.raises(DataError, match="has no folder NORMAL;"):
        files(train)


def test_an_empty_class_is_refused_by_name(train):
    for path in (train / "PNEUMONIA").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DataError, match=r"PNEUMONIA holds no image \(.*\.jpeg.*\)"):
        files(train)


def test_a_missing_split_is_refused_by_name(train):
    with pytest.raises(DataError, match=f"{train.parent / 'test'} is not a folder"):
        read_split(train.parent, "test")


def test_what_a_patient_is_can_be_said(train, write_images):
    write_images(train / "NORMAL", ["scan-7-a.png"])
    with pytest.raises(DataError, match=r"scan-7-a\.png"):
        read_split(train.parent, "train")
    assert len(set(read_split(train.parent, "train", "file").patients)) == 5


@pytest.mark.shared
@pytest.mark.parametrize(
    ("split", "normal", "pneumonia"), [("train", 1190, 3263), ("val", 8, 8), ("test", 151, 612)]
)
def test_the_real_splits_have_their_published_counts(shared, split, normal, pneumonia):
    samples = read_split(shared / "data/chest_xray", split)
    assert samples.class_counts() == (normal, pneumonia)
    assert set(samples.subtypes) <= {"normal", "bacterial", "viral"}
