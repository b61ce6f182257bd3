"""Folders to batches: the honest split, and loaders whose batches depend on nothing else."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from pneumonia.data.cache import list_caches
from pneumonia.data.datamodule import ChestXrayDataModule, SyntheticDataModule
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


def test_a_missing_root_is_refused_with_the_way_on(tmp_path):
    with pytest.raises(DataError) as refusal:
        module(tmp_path / "nowhere").prepare_data()
    for part in (
        f"data.root={tmp_path / 'nowhere'} does not exist",
        "chest-xray",
        "data=synthetic",
    ):
        assert part in str(refusal.value)


def test_a_root_that_is_not_a_data_set_is_refused(tmp_path, kaggle):
    kaggle.rename(tmp_path / "nested")
    with pytest.raises(DataError, match="holds no folder train"):
        module(tmp_path).prepare_data()


def test_a_nested_copy_beside_the_splits_counts_for_nothing(kaggle):
    before = len(ready(kaggle).splits["train"])
    shutil.copytree(kaggle, kaggle / "chest_xray")
    shutil.copytree(kaggle, kaggle / "__MACOSX/chest_xray")
    assert len(ready(kaggle).splits["train"]) == before


@pytest.mark.parametrize("strategy", ["blocks", "random"])
def test_the_published_val_joins_the_training_images(kaggle, strategy):
    splits = ready(kaggle, split=ValidationSplit(strategy)).splits
    paths = [*splits["train"].paths, *splits["val"].paths]
    published = sum(len(files) for _, _, files in os.walk(kaggle / "val"))
    trained = sum(len(files) for _, _, files in os.walk(kaggle / "train"))
    assert published > 0
    assert len(set(paths)) == published + trained
    assert not any("/test/" in path for path in paths)


def test_with_folder_val_is_as_published(kaggle):
    splits = ready(kaggle, split=ValidationSplit("folder")).splits
    assert all("/val/" in path for path in splits["val"].paths)
    assert len(splits["val"]) == sum(len(files) for _, _, files in os.walk(kaggle / "val"))
    assert all("/train/" in path for path in splits["train"].paths)


def test_with_folder_a_val_that_shares_a_patient_is_refused(kaggle, write_images):
    write_images(kaggle / "val/NORMAL", ["IM-0005-0077.jpeg"])
    with pytest.raises(DataError, match=r"IM-0005-0077\.jpeg"):
        ready(kaggle, split=ValidationSplit("folder"))
    ready(kaggle)  # otherwise it is one more training image


def test_with_folder_a_missing_val_is_refused(kaggle):
    shutil.rmtree(kaggle / "val")
    ready(kaggle)
    with pytest.raises(DataError, match="val is not a folder"):
        ready(kaggle, split=ValidationSplit("folder"))


def test_the_same_seed_splits_the_same_way_and_seeds_of_the_run_do_not_matter(kaggle):
    first = ready(kaggle, split=ValidationSplit("random", seed=3)).splits
    again = ready(kaggle, split=ValidationSplit("random", seed=3), seed=9).splits
    assert first["val"].paths.tolist() == again["val"].paths.tolist()


def test_counts_are_logged(kaggle, caplog):
    with caplog.at_level(logging.INFO, "pneumonia"):
        datamodule = ready(kaggle)
    for split in ("train", "val"):
        assert f"{split}: {datamodule.splits[split].summary()}" in caplog.text
    assert datamodule.class_counts() == datamodule.splits["train"].class_counts()


def test_a_fit_does_not_open_the_test_split(kaggle):
    shutil.rmtree(kaggle / "test")
    datamodule = ready(kaggle)
    assert "test" not in datamodule.splits
    with pytest.raises(DataError, match="test is not a folder"):
        datamodule.setup("test")


def test_a_test_split_that_shares_a_patient_is_refused(kaggle, write_images):
    write_images(kaggle / "test/PNEUMONIA", ["person5_virus_777.jpeg"])
    with pytest.raises(DataError, match=r"1 of .*person5_virus_777\.jpeg"):
        ready(kaggle, "test")


def test_a_test_split_that_shares_a_patient_with_the_published_val_is_refused(kaggle, write_images):
    write_images(kaggle / "test/PNEUMONIA", ["person31_virus_777.jpeg"])
    with pytest.raises(DataError, match=r"person31_virus_777\.jpeg"):
        ready(kaggle, "test")


def test_odd_names_are_refused_and_both_ways_out_work(kaggle, write_images):
    write_images(kaggle / "train/NORMAL", ["scan_7_a.png", "scan_7_b.png"])
    with pytest.raises(DataError, match=r"2 of .*scan_7_a\.png, scan_7_b\.png"):
        ready(kaggle)
    for patients in (r"([A-Za-z0-9]+[-_]\w+)[-_]", "file"):
        assert (
            ready(kaggle, patients=patients, split=ValidationSplit("random"))
            .splits["val"]
            .paths.size
        )


def batches(datamodule, split, epochs=1):
    loader = getattr(datamodule, f"{split}_dataloader")()
    for epoch in range(epochs):
        if split == "train":
            loader.sampler.set_epoch(epoch)
        yield from loader


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_batches_do_not_depend_on_the_number_of_workers(synthetic, split):
    found = []
    for workers in (0, 1):
        datamodule = ready(synthetic, num_workers=workers, augmentation=Augmentation(), seed=5)
        datamodule.setup("test")
        torch.manual_seed(workers)
        found.append(list(batches(datamodule, split, epochs=2)))
    assert len(found[0]) == len(found[1]) > 1
    for one, other in zip(*found, strict=True):
        assert set(one) == {"image", "label", "index"}
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sampler", [None, "balanced"])
def test_batches_are_bit_identical_with_and_without_the_cache(
    synthetic, tmp_path, sampler, workers
):
    settings = {"augmentation": Augmentation(), "sampler": sampler, "num_workers": workers}
    cached = ready(synthetic, cache_dir=tmp_path, **settings)
    uncached = ready(synthetic, cache=False, **settings)
    assert len(list_caches(tmp_path)) == 1
    for split in ("train", "val"):
        one, other = (list(batches(m, split, epochs=2)) for m in (cached, uncached))
        assert len(one) == len(other) > 1
        for a, b in zip(one, other, strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)


def test_workers_that_are_spawned_map_the_cache_themselves(synthetic, tmp_path):
    datamodule = ready(synthetic, cache_dir=tmp_path)
    here = list(datamodule.val_dataloader())
    loader = datamodule.val_dataloader()
    spawned = DataLoader(loader.dataset, 8, num_workers=1, multiprocessing_context="spawn")
    for one, other in zip(here, spawned, strict=True):
        assert torch.equal(one["image"], other["image"])


def test_every_holdout_shares_one_cache_and_the_test_has_one_of_its_own(kaggle, tmp_path):
    settings = {"cache_dir": tmp_path / "caches"}
    for split in (
        ValidationSplit(),
        ValidationSplit("random", seed=3),
        ValidationSplit("folder"),
    ):
        ready(kaggle, split=split, **settings)
    assert len(list_caches(tmp_path / "caches")) == 1
    datamodule = ready(kaggle, **settings)
    assert len(list_caches(tmp_path / "caches")) == 1
    datamodule.setup("test")
    assert len(list_caches(tmp_path / "caches")) == 2
    datamodule.setup("test")
    assert len(list(datamodule.test_dataloader())) > 1


def test_without_a_cache_nothing_is_written(kaggle, tmp_path):
    ready(kaggle, cache=False, cache_dir=tmp_path / "caches")
    assert not (tmp_path / "caches").exists()


@pytest.mark.parametrize("cache", [True, False])
def test_a_root_that_changes_while_training(kaggle, tmp_path, cache):
    """A cached run goes on with what was listed; one without says which file has gone."""
    datamodule = ready(kaggle, cache=cache, cache_dir=tmp_path / "caches")
    loader = datamodule.val_dataloader()
    before = [batch["image"] for batch in loader]
    shutil.rmtree(kaggle)
    if cache:
        assert all(torch.equal(a, b["image"]) for a, b in zip(before, loader, strict=True))
    else:
        with pytest.raises(DataError, match=r"\.jpeg cannot be read as an image .*not exist"):
            list(loader)


def test_balanced_draws_reach_the_batches(kaggle, write_images):
    names = [f"person9_virus_{n}.jpeg" for n in range(1000, 1100)]
    write_images(kaggle / "train/PNEUMONIA", names)
    shares = {}
    for sampler in (None, "balanced"):
        datamodule = ready(kaggle, sampler=sampler)
        labels = [batch["label"] for batch in batches(datamodule, "train", epochs=5)]
        shares[sampler] = float(torch.cat(labels).float().mean())
    assert shares[None] > 0.7
    assert shares["balanced"] == pytest.approx(0.5, abs=0.06)


def test_names_with_anything_in_them_go_through(kaggle, write_images):
    odd = ["a b", "a,b", "a=b", "it's", '"q"', "größe", "肺"]
    names = [f"IM-{n:04d}-0001-{word}.png" for n, word in enumerate(odd, 200)]
    write_images(kaggle / "train/NORMAL", names)
    datamodule = ready(kaggle, patients=r"(\D+\d+)", split=ValidationSplit("random"))
    paths = [*datamodule.splits["train"].paths, *datamodule.splits["val"].paths]
    assert {str(kaggle / "train/NORMAL" / name) for name in names} <= set(paths)
    assert len(list(batches(datamodule, "train"))) > 1


@pytest.mark.parametrize("cache", [True, False])
def test_a_link_that_loops_is_named(kaggle, cache):
    loop = kaggle / "train/NORMAL/IM-0099-0001.jpeg"
    loop.symlink_to(loop)
    with pytest.raises(DataError, match=r"IM-0099-0001\.jpeg"):
        ready(kaggle, cache=cache)


def test_a_folder_that_links_back_to_its_parent_is_named(kaggle):
    (kaggle / "train/NORMAL/again").symlink_to(kaggle / "train")
    with pytest.raises(DataError, match="holds the folder again"):
        ready(kaggle)


def test_a_batch_is_uint8_images_and_int64_labels(synthetic):
    batch = next(batches(ready(synthetic), "train"))
    assert (batch["image"].dtype, batch["image"].shape) == (torch.uint8, (8, 1, 32, 32))
    assert (batch["label"].dtype, batch["label"].shape) == (torch.int64, (8,))
    assert batch["index"].dtype == torch.int64


def test_training_batches_are_whole_and_others_hold_every_image_in_order(synthetic):
    datamodule = ready(synthetic, batch_size=7)
    datamodule.setup("test")
    assert {len(batch["index"]) for batch in batches(datamodule, "train")} == {7}
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


@pytest.mark.parametrize(
    ("content", "workers"), [("truncated", 0), ("truncated", 1), ("text", 0), ("empty", 0)]
)
def test_a_bad_image_met_in_mid_epoch_is_named_in_one_sentence(kaggle, content, workers):
    datamodule = ready(kaggle, num_workers=workers, cache=False)
    row = list(datamodule.train_dataloader().sampler)[20][1]
    path = Path(datamodule.splits["train"].paths[row])
    whole = path.read_bytes()
    bad = {"truncated": whole[: len(whole) * 2 // 3], "text": b"an X-ray", "empty": b""}[content]
    path.write_bytes(bad)
    with pytest.raises(DataError) as refusal:
        list(batches(datamodule, "train"))
    said = sentence(refusal.value)
    assert said.startswith(f"{path} cannot be read as an image (")
    assert said.endswith("replace it or remove it.")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"batch_size": -4}, "data.batch_size=-4"),
        ({"num_workers": -1}, "data.num_workers=-1"),
        ({"num_workers": 1000}, "data.num_workers=1000"),
        ({"image_size": 0}, "data.image_size=0"),
        ({"resize_mode": "zoom"}, "data.resize_mode='zoom'"),
        ({"sampler": "even"}, "data.sampler='even'"),
    ],
)
def test_a_setting_out_of_range_is_refused(tmp_path, settings, key):
    with pytest.raises(ConfigError) as refusal:
        module(tmp_path, **settings)
    assert key in str(refusal.value)


def test_the_number_of_workers_is_chosen_within_the_cores(tmp_path):
    assert 0 <= module(tmp_path, num_workers=None).num_workers < (os.cpu_count() or 1)


def test_the_synthetic_is_drawn_once(tmp_path):
    datamodule = SyntheticDataModule(
        tmp_path / "deep/synthetic", images=60, image_size=32, batch_size=4, num_workers=0
    )
    datamodule.prepare_data()
    drawn = sorted((tmp_path / "deep/synthetic").rglob("*.jpeg"))
    assert len(drawn) == 60
    times = [path.stat().st_mtime_ns for path in drawn]
    datamodule.prepare_data()
    assert [path.stat().st_mtime_ns for path in drawn] == times
    datamodule.setup("fit")
    datamodule.setup("test")
    for split in ("train", "val", "test"):
        assert min(datamodule.splits[split].class_counts()) > 0


@pytest.mark.shared
def test_the_real_data_split(shared):
    datamodule = ready(shared / "data/chest_xray")
    datamodule.setup("test")
    train, val = datamodule.splits["train"], datamodule.splits["val"]
    assert len(train) + len(val) == 1190 + 3263 + 16
    assert 0.08 < len(val) / (len(train) + len(val)) < 0.18
    assert min(val.class_counts()) > 50
    assert datamodule.splits["test"].class_counts() == (151, 612)


def test_any_first_part_of_the_holdout_has_both_classes(synthetic):
    datamodule = ChestXrayDataModule(synthetic, image_size=16, num_workers=0)
    datamodule.setup("fit")
    assert set(datamodule.splits["val"].labels[:4]) == {0, 1}


def test_overfitting_a_few_batches_means_batches_of_both_classes(synthetic):
    datamodule = ChestXrayDataModule(synthetic, image_size=16, num_workers=0)
    datamodule.trainer = Trainer(
        accelerator="cpu", overfit_batches=1, logger=False, enable_checkpointing=False
    )
    datamodule.setup("fit")
    assert set(datamodule.splits["train"].labels[:8]) == {0, 1}
