"""A split on disk: which files are listed, and the items made of them."""

import os
import shutil

import pytest
import torch

from pneumonia.data.audit.scan import Inventory
from pneumonia.data.dataset import ChestXrayDataset, ChestXrayFolder, read_split
from pneumonia.data.image_io import Preprocessing
from pneumonia.data.transforms import STRONG
from pneumonia.errors import DataError


@pytest.fixture
def train(tmp_path, write_images):
    write_images(tmp_path / "train/NORMAL", ["IM-0001-0001.jpeg", "IM-0002-0001.jpeg"])
    write_images(tmp_path / "train/PNEUMONIA", ["person1_virus_1.jpeg", "person1_bacteria_1.png"])
    return tmp_path / "train"


def files(train):
    return read_split(train.parent, "train").paths.tolist()


def test_normal_is_0_and_pneumonia_is_1(train):
    folder = ChestXrayFolder(train)
    assert folder.class_to_idx == {"NORMAL": 0, "PNEUMONIA": 1}
    for path, label in folder.samples:
        assert f"/{folder.classes[label]}/" in path
    assert [path.rpartition("/")[2] for path in files(train)] == [
        "IM-0001-0001.jpeg",
        "IM-0002-0001.jpeg",
        "person1_bacteria_1.png",
        "person1_virus_1.jpeg",
    ]


def test_debris_is_not_listed_and_image_files_of_all_kinds_are(train):
    listed = files(train)
    for debris in (
        "train/__MACOSX/NORMAL/._IM-0001-0001.jpeg",
        "train/NORMAL/.cache/IM-0001-0001.jpeg",
        "train/NORMAL/._IM-0001-0001.jpeg",
        "train/PNEUMONIA/labels.csv",
        "chest_xray/train/NORMAL/IM-0001-0001.jpeg",
    ):
        path = train.parent / debris
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"debris")
    for suffix in ("JPEG", "webp", "DCM"):
        path = train / f"NORMAL/IM-0003-0001.{suffix}"
        path.write_bytes(b"not read here")
        listed.append(str(path))
    assert files(train) == sorted(listed)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("COVID/x.jpeg", "COVID"),
        ("IM-0001-0001.jpeg", "IM-0001-0001.jpeg"),
        ("PNEUMONIA/bacteria/person1_bacteria_1.jpeg", "PNEUMONIA .*bacteria"),
    ],
)
def test_a_folder_or_image_in_a_wrong_place_is_named(train, write_images, path, named):
    write_images(train, [path])
    with pytest.raises(DataError, match=f"{train}.*{named}"):
        files(train)


def test_a_missing_or_empty_class_is_named(train):
    for path in (train / "PNEUMONIA").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DataError, match=f"{train / 'PNEUMONIA'} "):
        files(train)
    shutil.rmtree(train / "NORMAL")
    with pytest.raises(DataError, match=f"{train} has no folder NORMAL"):
        files(train)


@pytest.fixture
def make(kaggle):
    """Makes a dataset of the small training split."""
    samples = read_split(kaggle, "train")
    return lambda augmentation=None, seed=0: ChestXrayDataset(
        samples, Preprocessing(32), augmentation, seed
    )


def test_an_item_is_an_image_its_label_and_its_row(make):
    dataset = make()
    item = dataset[3]
    assert set(item) == {"image", "label", "index"}
    assert (item["image"].dtype, item["image"].shape) == (torch.uint8, (1, 32, 32))
    assert (item["label"], item["index"]) == (dataset.samples.labels[3], 3)
    assert torch.equal(item["image"], dataset[5, 3, 0]["image"])  # the epoch does not matter


def test_augmentation_depends_on_seed_epoch_row_and_repeat_only(make):
    image = make(STRONG, seed=1)[2, 3, 0]["image"]
    torch.manual_seed(99)
    again = make(STRONG, seed=1)
    again[0, 0, 0]  # earlier draws do not matter
    assert torch.equal(again[2, 3, 0]["image"], image)
    assert not torch.equal(again[1, 3, 0]["image"], image)
    assert not torch.equal(again[2, 3, 0]["image"], again[2, 3, 1]["image"])
    assert not torch.equal(make(STRONG, seed=2)[2, 3, 0]["image"], image)


def test_an_unreadable_file_is_named(make):
    dataset = make()
    os.truncate(dataset.samples.paths[3], 200)
    with pytest.raises(DataError, match=str(dataset.samples.paths[3])):
        dataset[0, 3, 0]


@pytest.mark.parametrize("names", [("Normal", "pneumonia"), ("normal", "Pneumonia")])
def test_class_folders_may_have_their_names_in_any_case(train, names):
    for old, new in zip(("NORMAL", "PNEUMONIA"), names, strict=True):
        (train / old).rename(train / new)
    assert sorted(ChestXrayFolder(train).targets) == [0, 0, 1, 1]
    for path, label in ChestXrayFolder(train).samples:
        assert f"/{names[label]}/" in path
    images = Inventory(train.parent).images
    assert [(image.name.split("/")[1], image.label) for image in images[::2]] == [
        (names[0], 0),
        (names[1], 1),
    ]


def test_images_are_listed_by_content_and_other_files_are_counted(train, caplog):
    for name in ("a.jfif", "b.jpe", "person3_virus_1", "person4_virus_1.2.276"):
        shutil.copy(train / "PNEUMONIA/person1_virus_1.jpeg", train / "PNEUMONIA" / name)
    (train / "NORMAL/notes").write_text("no image")
    caplog.set_level("INFO")
    assert len(ChestXrayFolder(train)) == 8
    assert "Skipped 1 file" in caplog.text
    assert "notes" in caplog.text
