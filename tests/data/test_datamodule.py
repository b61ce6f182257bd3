"""The data module: patient-grouped splits, and batches that depend on nothing but the seed."""

import logging
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning import Trainer

from pneumonia.data import datamodule as datamodule_module
from pneumonia.data.datamodule import ChestXrayDataModule, SyntheticDataModule, TableDataModule
from pneumonia.data.split import ValidationSplit
from pneumonia.data.transforms import STRONG, Augmentation
from pneumonia.errors import ConfigError, DataError, sentence
from pneumonia.labels import VAL_SETS


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
    if split == "val":
        loader = loader[0]
    for epoch in range(epochs):
        if split == "train":
            loader.sampler.set_epoch(epoch)
        yield from loader


def caches(folder: Path) -> int:
    return len(list(folder.glob("*.npy")))


def assert_equal_batches(one, other) -> None:
    one, other = list(one), list(other)
    assert len(one) == len(other) > 1
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_missing_or_wrong_root_is_named(tmp_path, kaggle):
    for root in (tmp_path / "nowhere", kaggle / "train"):
        with pytest.raises(DataError, match=f"data.root={root} .*data=synthetic"):
            module(root).prepare_data()


@pytest.mark.parametrize(
    ("name", "split"), [("valid", "val"), ("Validation", "val"), ("TEST", "test")]
)
def test_a_split_of_another_name_is_to_be_renamed(kaggle, name, split):
    (kaggle / split).rename(kaggle / name)
    with pytest.raises(DataError, match=f"{name} .*rename it to {split}"):
        module(kaggle).check_root()


def test_the_published_val_joins_the_training_images(kaggle, caplog):
    with caplog.at_level(logging.INFO, "pneumonia"):
        datamodule = ready(kaggle)
    train, val = datamodule.splits["train"], datamodule.splits["val"]
    assert {*train.paths, *val.paths} == {
        str(path) for split in ("train", "val") for path in kaggle.glob(f"{split}/*/*")
    }
    assert not {*train.patients} & {*val.patients}
    assert f"train: {train.summary()}" in caplog.text
    assert f"val: {val.summary()}" in caplog.text


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


@pytest.mark.parametrize("sampler", [None, "balanced"])
def test_batches_do_not_depend_on_workers_or_cache(synthetic, tmp_path, sampler):
    settings = {"augmentation": STRONG, "sampler": sampler, "seed": 5}
    one = ready(synthetic, cache_dir=tmp_path, num_workers=1, **settings)
    assert caches(tmp_path) == 1
    other = ready(synthetic, cache=False, cache_dir=tmp_path / "none", **settings)
    assert not (tmp_path / "none").exists()
    for split in ("train", "val"):
        torch.manual_seed(len(split))
        assert_equal_batches(batches(one, split, epochs=2), batches(other, split, epochs=2))


@pytest.mark.parametrize("sampler", [None, "balanced"])
def test_batches_after_a_resume_are_those_that_were_left(synthetic, sampler):
    settings = {"augmentation": STRONG, "sampler": sampler, "batch_size": 4}
    whole = list(batches(ready(synthetic, **settings), "train", epochs=2))
    resumed = ready(synthetic, **settings)
    done = len(whole) // 2
    resumed.load_state_dict({"epoch": 1, "batches": 2})
    assert_equal_batches(resumed.train_dataloader(), whole[done + 2 :])


def test_every_validation_split_shares_one_cache_and_the_test_split_has_its_own(kaggle, tmp_path):
    for split in (ValidationSplit(), ValidationSplit("random"), ValidationSplit("folder")):
        datamodule = ready(kaggle, split=split, cache_dir=tmp_path)
        assert caches(tmp_path) == 1
    datamodule.setup("test")
    assert caches(tmp_path) == 2
    assert len(list(datamodule.test_dataloader())) > 1


def test_training_batches_are_whole_and_others_hold_every_image_in_order(synthetic):
    datamodule = ready(synthetic, batch_size=7)
    datamodule.setup("test")
    for batch in batches(datamodule, "train"):
        assert set(batch) == {"image", "label", "index"}
        assert (batch["image"].dtype, batch["image"].shape) == (torch.uint8, (7, 1, 32, 32))
        assert batch["label"].dtype == batch["index"].dtype == torch.int64
    for split in ("val", "test"):
        rows = torch.cat([batch["index"] for batch in batches(datamodule, split)])
        assert rows.tolist() == list(range(len(datamodule.splits[split])))
        labels = torch.cat([batch["label"] for batch in batches(datamodule, split)])
        assert labels.tolist() == datamodule.splits[split].labels.tolist()


def test_only_training_images_are_augmented(synthetic):
    plain, augmented = (ready(synthetic, augmentation=a) for a in (None, STRONG))
    for split, same in (("train", False), ("val", True)):
        one, other = (next(batches(datamodule, split)) for datamodule in (plain, augmented))
        assert torch.equal(one["index"], other["index"])
        assert torch.equal(one["image"], other["image"]) is same


def test_the_validation_set_is_scored_as_it_is_and_under_two_fixed_sets_of_changes(synthetic):
    loaders = ready(synthetic, num_workers=1, batch_size=3).val_dataloader()
    settings = {"batch_size": 3, "cache": False, "seed": 3, "augmentation": STRONG}
    again = ready(synthetic, **settings).val_dataloader()
    assert len(loaders) == len(VAL_SETS) == 3
    found = [list(loader) for loader in loaders]
    for one, other in zip(found, again, strict=True):
        assert_equal_batches(one, other)
    for changed in found[1:]:
        for clean, batch in zip(found[0], changed, strict=True):
            assert torch.equal(clean["index"], batch["index"])
            assert not torch.equal(clean["image"], batch["image"])
    assert len(ready(synthetic, shifted_validation=False).val_dataloader()) == 1


def test_training_images_are_augmented_from_a_larger_cache(synthetic, tmp_path):
    settings = {"augmentation": Augmentation(area=(0.2, 0.3)), "cache_size": 64}
    cached = ready(synthetic, cache_dir=tmp_path, **settings)
    assert caches(tmp_path) == 2
    batch = next(batches(cached, "train"))
    assert batch["image"].shape[1:] == (1, 32, 32)
    assert_equal_batches(
        batches(cached, "train"), batches(ready(synthetic, cache=False, **settings), "train")
    )
    blurred = next(batches(ready(synthetic, augmentation=settings["augmentation"]), "train"))
    assert not torch.equal(batch["image"], blurred["image"])


def test_a_damaged_image_in_mid_epoch_is_named_in_one_sentence(kaggle):
    datamodule = ready(kaggle, num_workers=1, cache=False)
    row = list(datamodule.train_dataloader().sampler)[20][1]
    path = Path(datamodule.splits["train"].paths[row])
    os.truncate(path, int(0.6 * path.stat().st_size))
    with pytest.raises(DataError) as refusal:
        list(batches(datamodule, "train"))
    assert sentence(refusal.value).startswith(f"{path} cannot be read as an image (")


@pytest.mark.parametrize(
    ("key", "value"), [("batch_size", 0), ("num_workers", 1000), ("sampler", "even")]
)
def test_a_setting_out_of_range_is_refused(tmp_path, key, value):
    with pytest.raises(ConfigError, match=f"data.{key}={value!r}"):
        module(tmp_path, **{key: value})


def test_synthetic_images_are_drawn_once(tmp_path, synthetic, monkeypatch):
    draw = Mock(side_effect=lambda root, *_: shutil.copytree(synthetic, root))
    monkeypatch.setattr(datamodule_module, "write_synthetic", draw)
    root = tmp_path / "deep/synthetic"
    datamodule = SyntheticDataModule(root, images=60, synthetic_seed=7)
    datamodule.check_root()
    for _ in range(2):
        datamodule.prepare_data()
    draw.assert_called_once_with(root, 60, 7)


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


def test_the_first_images_of_val_and_of_an_overfitted_train_have_both_classes(synthetic):
    datamodule = module(synthetic)
    datamodule.trainer = Trainer(
        accelerator="cpu", overfit_batches=1, logger=False, enable_checkpointing=False
    )
    datamodule.prepare_data()  # before `setup`, so that other processes find the cache
    assert set(datamodule.splits["val"].labels[:4]) == {0, 1}
    assert set(datamodule.splits["train"].labels[:8]) == {0, 1}
