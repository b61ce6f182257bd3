"""The data module: patient-grouped splits, and batches that depend on nothing but the seed."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from pneumonia.data import synthetic as synthetic_module
from pneumonia.data.cache import list_caches
from pneumonia.data.datamodule import ChestXrayDataModule, SyntheticDataModule, TableDataModule
from pneumonia.data.split import ValidationSplit
from pneumonia.data.transforms import Augmentation
from pneumonia.errors import ConfigError, DataError, sentence


def module(root, **settings) -> ChestXrayDataModule:
    defaults = {"image_size": 32, "batch_size": 8, "num_workers": 0}
    return ChestXrayDataModule(root, **(defaults | settings))


def ready(root, stage="fit", **settings) -> ChestXrayDataModule:
    datamodule = module(root, **settings)
    datamodule.prepare_data()
    datamodule.setup(stage)
    return datamodule


def batches(datamodule, split, epochs=1):
    loader = getattr(datamodule, f"{split}_dataloader")()
    for epoch in range(epochs):
        if split == "train":
            loader.sampler.set_epoch(epoch)
        yield from loader


def assert_equal_batches(one, other) -> None:
    one, other = list(one), list(other)
    assert len(one) == len(other) > 1
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_missing_or_wrong_root_is_named(tmp_path, kaggle):
    with pytest.raises(DataError, match=f"data.root={tmp_path / 'nowhere'} .*data=synthetic"):
        module(tmp_path / "nowhere").prepare_data()
    kaggle.rename(tmp_path / "nested")
    with pytest.raises(DataError, match=f"data.root={tmp_path} "):
        module(tmp_path).prepare_data()


@pytest.mark.parametrize("strategy", ["blocks", "random"])
def test_the_published_val_joins_the_training_images(kaggle, strategy):
    splits = ready(kaggle, split=ValidationSplit(strategy)).splits
    listed = {*splits["train"].paths, *splits["val"].paths}
    assert len(listed) == len(splits["train"]) + len(splits["val"])
    assert listed == {str(p) for split in ("train", "val") for p in kaggle.glob(f"{split}/*/*")}


def test_with_strategy_folder_val_is_the_published_folder(kaggle, write_images):
    split = ValidationSplit("folder")
    splits = ready(kaggle, split=split).splits
    for name in ("train", "val"):
        assert set(splits[name].paths) == {str(path) for path in kaggle.glob(f"{name}/*/*")}
    write_images(kaggle / "val/NORMAL", ["IM-0005-0077.jpeg"])
    with pytest.raises(DataError, match=r"IM-0005-0077\.jpeg"):
        ready(kaggle, split=split)
    ready(kaggle)  # otherwise it is one more training image
    shutil.rmtree(kaggle / "val")
    ready(kaggle)
    with pytest.raises(DataError, match=str(kaggle / "val")):
        ready(kaggle, split=split)


def test_counts_are_logged(kaggle, caplog):
    with caplog.at_level(logging.INFO, "pneumonia"):
        datamodule = ready(kaggle)
    for split in ("train", "val"):
        assert f"{split}: {datamodule.splits[split].summary()}" in caplog.text
    assert datamodule.class_counts() == datamodule.splits["train"].class_counts()


def test_a_fit_does_not_read_the_test_split(kaggle):
    shutil.rmtree(kaggle / "test")
    datamodule = ready(kaggle)
    assert not datamodule.has_split("test")
    assert "test" not in datamodule.splits
    with pytest.raises(DataError, match=str(kaggle / "test")):
        datamodule.setup("test")


@pytest.mark.parametrize("name", ["person5_virus_777.jpeg", "person31_virus_777.jpeg"])
def test_a_test_split_that_shares_a_patient_with_train_or_val_is_refused(
    kaggle, write_images, name
):
    write_images(kaggle / "test/PNEUMONIA", [name])
    with pytest.raises(DataError, match=name):
        ready(kaggle, "test")


def test_unknown_patients_are_refused_and_both_remedies_work(kaggle, write_images):
    write_images(kaggle / "train/NORMAL", ["scan_7_a.png", "scan_7_b.png"])
    with pytest.raises(DataError, match=r"scan_7_a\.png, scan_7_b\.png"):
        ready(kaggle)
    for patients in (r"([A-Za-z0-9]+[-_]\w+)[-_]", "file"):
        datamodule = ready(kaggle, patients=patients, split=ValidationSplit("random"))
        assert len(datamodule.splits["val"]) > 0


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_batches_do_not_depend_on_the_number_of_workers(synthetic, split):
    found = []
    for workers in (0, 1):
        datamodule = ready(synthetic, num_workers=workers, augmentation=Augmentation(), seed=5)
        datamodule.setup("test")
        torch.manual_seed(workers)
        found.append(list(batches(datamodule, split, epochs=2)))
    assert set(found[0][0]) == {"image", "label", "index"}
    assert_equal_batches(*found)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sampler", [None, "balanced"])
def test_batches_do_not_depend_on_the_cache(synthetic, tmp_path, sampler, workers):
    settings = {"augmentation": Augmentation(), "sampler": sampler, "num_workers": workers}
    cached = ready(synthetic, cache_dir=tmp_path / "caches", **settings)
    assert len(list_caches(tmp_path / "caches")) == 1
    uncached = ready(synthetic, cache=False, cache_dir=tmp_path / "none", **settings)
    assert not (tmp_path / "none").exists()
    for split in ("train", "val"):
        assert_equal_batches(batches(cached, split, epochs=2), batches(uncached, split, epochs=2))


@pytest.mark.parametrize("sampler", [None, "balanced"])
def test_batches_after_a_resume_are_those_that_were_left(synthetic, sampler):
    settings = {"augmentation": Augmentation(), "sampler": sampler, "batch_size": 4}
    whole = list(batches(ready(synthetic, **settings), "train", epochs=2))
    resumed = ready(synthetic, **settings)
    done = len(whole) // 2
    resumed.load_state_dict({"epoch": 1, "batches": 2})
    assert_equal_batches(resumed.train_dataloader(), whole[done + 2 :])


def test_every_validation_split_shares_one_cache_and_the_test_split_has_its_own(kaggle, tmp_path):
    settings = {"cache_dir": tmp_path / "caches"}
    for split in (ValidationSplit(), ValidationSplit("random"), ValidationSplit("folder")):
        datamodule = ready(kaggle, split=split, **settings)
        assert len(list_caches(tmp_path / "caches")) == 1
    datamodule.setup("test")
    assert len(list_caches(tmp_path / "caches")) == 2
    assert len(list(datamodule.test_dataloader())) > 1


def test_training_batches_are_whole_and_others_hold_every_image_in_order(synthetic):
    datamodule = ready(synthetic, batch_size=7)
    datamodule.setup("test")
    for batch in batches(datamodule, "train"):
        assert (batch["image"].dtype, batch["image"].shape) == (torch.uint8, (7, 1, 32, 32))
        assert batch["label"].dtype == batch["index"].dtype == torch.int64
    for split in ("val", "test"):
        rows = torch.cat([batch["index"] for batch in batches(datamodule, split)])
        assert rows.tolist() == list(range(len(datamodule.splits[split])))
        labels = torch.cat([batch["label"] for batch in batches(datamodule, split)])
        assert labels.tolist() == datamodule.splits[split].labels.tolist()


def test_only_training_images_are_augmented(synthetic):
    plain, augmented = (ready(synthetic, augmentation=a) for a in (None, Augmentation()))
    for split, same in (("train", False), ("val", True)):
        one, other = (next(batches(datamodule, split)) for datamodule in (plain, augmented))
        assert torch.equal(one["index"], other["index"])
        assert torch.equal(one["image"], other["image"]) is same


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_in_mid_epoch_is_named_in_one_sentence(kaggle, workers):
    datamodule = ready(kaggle, num_workers=workers, cache=False)
    row = list(datamodule.train_dataloader().sampler)[20][1]
    path = Path(datamodule.splits["train"].paths[row])
    os.truncate(path, int(0.6 * path.stat().st_size))
    with pytest.raises(DataError) as refusal:
        list(batches(datamodule, "train"))
    assert sentence(refusal.value).startswith(f"{path} cannot be read as an image (")
    assert "Traceback" not in sentence(refusal.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("batch_size", 0), ("num_workers", -1), ("num_workers", 1000), ("image_size", 0)),
        *(("resize_mode", "zoom"), ("sampler", "even")),
    ],
)
def test_a_setting_out_of_range_is_refused(tmp_path, key, value):
    with pytest.raises(ConfigError, match=f"data.{key}={value!r}"):
        module(tmp_path, **{key: value})


def test_synthetic_images_are_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_module, "available_cores", lambda: 1)
    root = tmp_path / "deep/synthetic"
    datamodule = SyntheticDataModule(root, images=60, image_size=32, batch_size=4, num_workers=0)
    datamodule.check_root()
    datamodule.prepare_data()
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.jpeg")}
    assert len(times) == 60
    datamodule.prepare_data()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.jpeg")} == times
    datamodule.setup("fit")
    datamodule.setup("test")
    for split in ("train", "val", "test"):
        assert min(datamodule.splits[split].class_counts()) > 0


def test_a_table_can_replace_folders(kaggle):
    names = [path.relative_to(kaggle) for path in sorted(kaggle.glob("t*/*/*"))]
    rows = [f"{name},{name.parts[1]},{name.parts[0]}" for name in names]
    (kaggle / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    datamodule = TableDataModule(kaggle / "table.csv", image_size=32, num_workers=0)
    datamodule.check_root()
    found = {split for split in ("train", "val", "test") if datamodule.has_split(split)}
    assert found == {"train", "test"}
    datamodule.setup("fit")
    datamodule.setup("test")
    assert sum(map(len, datamodule.splits.values())) == len(names)


@pytest.mark.shared
def test_the_real_data_split(shared):
    datamodule = ready(shared / "data/chest_xray")
    datamodule.setup("test")
    train, val = datamodule.splits["train"], datamodule.splits["val"]
    assert len(train) + len(val) == 1190 + 3263 + 16
    assert 0.08 < len(val) / (len(train) + len(val)) < 0.18
    assert min(val.class_counts()) > 50
    assert datamodule.splits["test"].class_counts() == (151, 612)


def test_the_first_images_of_val_and_of_an_overfitted_train_have_both_classes(synthetic):
    datamodule = module(synthetic)
    datamodule.trainer = Trainer(
        accelerator="cpu", overfit_batches=1, logger=False, enable_checkpointing=False
    )
    datamodule.setup("fit")
    assert set(datamodule.splits["val"].labels[:4]) == {0, 1}
    assert set(datamodule.splits["train"].labels[:8]) == {0, 1}
