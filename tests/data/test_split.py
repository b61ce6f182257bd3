"""The hold-out: who is in it, and who may not be on both sides."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pneumonia.data.dataset import read_split
from pneumonia.data.manifest import Manifest
from pneumonia.data.split import ValidationSplit, check_disjoint, group_images, identical_files
from pneumonia.errors import ConfigError, DataError

STREAMS = ("IM", "NORMAL2-IM", "bacteria", "virus")


@pytest.fixture
def train(kaggle) -> Manifest:
    return read_split(kaggle, "train")


def held_numbers(samples: Manifest, mask: np.ndarray, stream: str) -> set[int]:
    return set(samples.numbers[mask & (samples.streams == stream)].tolist())


def copy_over(source: str, target: str) -> None:
    shutil.copyfile(source, target)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    ("fraction", "numbers"),
    [(0.04, {1}), (0.08, {1, 25}), (0.12, {1, 2, 25}), (0.2, {1, 2, 3, 24, 25})],
)
def test_blocks_take_the_lowest_and_highest_numbers_of_each_stream(
    train, stream, fraction, numbers
):
    assert held_numbers(train, ValidationSplit(fraction=fraction).mask(train), stream) == numbers


def test_numbers_are_ordered_as_numbers_and_not_as_text(write_images, tmp_path):
    names = [f"person{n}_virus_{n}.jpeg" for n in (1000, 9, 10, 200, 11, 12, 13, 14)]
    paths = [str(path) for path in write_images(tmp_path, names)]
    samples = Manifest.identified(paths, [1] * len(paths))
    assert held_numbers(samples, ValidationSplit(fraction=0.25).mask(samples), "virus") == {9, 1000}


@pytest.mark.parametrize(
    "holdout",
    [ValidationSplit(), ValidationSplit("random"), ValidationSplit("random", folds=5, fold=2)],
    ids=str,
)
def test_patients_never_straddle(train, holdout):
    mask = holdout.mask(train)
    assert not set(train.patients[mask]) & set(train.patients[~mask])


@pytest.mark.parametrize("stream", STREAMS)
def test_random_takes_the_fraction_of_the_patients_of_each_stream(train, stream):
    assert len(held_numbers(train, ValidationSplit("random", 0.2).mask(train), stream)) == 5


def test_random_is_the_same_for_a_seed_and_another_for_another(train):
    masks = [ValidationSplit("random", seed=seed).mask(train) for seed in (0, 0, 1)]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


def test_random_does_not_draw_the_same_numbers_from_every_stream(train):
    mask = ValidationSplit("random", 0.4).mask(train)
    assert len({frozenset(held_numbers(train, mask, stream)) for stream in STREAMS}) == 4


def test_the_split_does_not_depend_on_where_the_data_lie(train, kaggle, tmp_path):
    moved = read_split(shutil.copytree(kaggle, tmp_path / "elsewhere"), "train")
    for holdout in (ValidationSplit(), ValidationSplit("random")):
        assert np.array_equal(holdout.mask(moved), holdout.mask(train))


@pytest.mark.parametrize(
    "holdout", [ValidationSplit(), ValidationSplit("random", 0.4)], ids=["blocks", "random"]
)
def test_byte_identical_files_never_straddle(train, holdout):
    virus = train.streams == "virus"
    held = train.paths[virus & holdout.mask(train)][0]
    stays = train.paths[virus & ~holdout.mask(train)][0]
    copy_over(held, stays)
    mask = holdout.mask(train)
    rows = np.isin(train.paths, [held, stays])
    assert mask[rows].all() or not mask[rows].any()
    assert not set(train.patients[mask]) & set(train.patients[~mask])


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_hold_out_every_image_exactly_once(train, folds):
    masks = [ValidationSplit("random", folds=folds, fold=fold).mask(train) for fold in range(folds)]
    assert np.array_equal(np.sum(masks, axis=0), np.ones(len(train)))
    for stream in STREAMS:
        sizes = [len(held_numbers(train, mask, stream)) for mask in masks]
        assert max(sizes) - min(sizes) <= 1


def test_folds_hold_out_every_image_once_though_patients_share_files(train):
    virus = train.paths[train.streams == "virus"]
    for source, target in zip(virus[:12:2], virus[12::2], strict=False):
        copy_over(source, target)
    masks = [ValidationSplit("random", folds=5, fold=fold).mask(train) for fold in range(5)]
    assert np.array_equal(np.sum(masks, axis=0), np.ones(len(train)))


def test_folds_hold_out_every_image_once_though_patients_have_both_classes(write_images, tmp_path):
    names = [f"{label}/p{n}.png" for label in ("NORMAL", "PNEUMONIA") for n in range(10)]
    paths = [str(path) for path in write_images(tmp_path, names)]
    samples = Manifest.identified(paths, [0] * 10 + [1] * 10, r"p(\d+)")
    masks = [ValidationSplit("random", folds=3, fold=fold).mask(samples) for fold in range(3)]
    assert np.array_equal(np.sum(masks, axis=0), np.ones(20))
    for mask in masks:
        assert not set(samples.patients[mask]) & set(samples.patients[~mask])


def test_a_fraction_of_less_than_half_a_patient_holds_nothing_out(train):
    assert not ValidationSplit(fraction=0.001).mask(train).any()


@pytest.mark.parametrize("patients", ["file", r"(\d+)"])
def test_blocks_without_numbers_are_refused_with_the_advice(kaggle, patients):
    samples = read_split(kaggle, "train", patients)
    with pytest.raises(DataError, match=r"use data\.holdout\.strategy=random"):
        ValidationSplit().mask(samples)
    assert ValidationSplit("random").mask(samples).any()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"strategy": "block"}, "data.holdout.strategy='block'"),
        ({"fraction": 0.0}, "data.holdout.fraction=0.0"),
        ({"fraction": 1.0}, "data.holdout.fraction=1.0"),
        ({"fraction": -0.1}, "data.holdout.fraction=-0.1"),
        ({"fraction": float("nan")}, "data.holdout.fraction=nan"),
        ({"folds": 5}, "data.holdout.strategy=random"),
        ({"strategy": "folder", "folds": 5}, "data.holdout.strategy=random"),
        ({"strategy": "random", "folds": 1}, "data.holdout.folds=1"),
        ({"strategy": "random", "folds": 5, "fold": 5}, "fold=5"),
        ({"strategy": "random", "folds": 5, "fold": -1}, "fold=-1"),
        ({"strategy": "random", "seed": -1}, "data.holdout.seed=-1"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, key):
    with pytest.raises(ConfigError) as refusal:
        ValidationSplit(**settings)
    assert key in str(refusal.value)


def test_identical_files_are_found_by_content(tmp_path):
    contents = [b"one", b"two", b"one", b"three", b"two", b"one"]
    paths = [tmp_path / str(n) for n in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert sorted(identical_files([str(path) for path in paths])) == [[0, 2, 5], [1, 4]]


def test_groups_link_patients_through_common_files(write_images, tmp_path):
    names = [f"person{n}_virus_{k}.jpeg" for n in (1, 2, 3, 4) for k in (1, 2)]
    paths = [str(path) for path in write_images(tmp_path, names)]
    copy_over(paths[1], paths[2])  # patients 1 and 2
    copy_over(paths[3], paths[4])  # patients 2 and 3
    found = group_images(Manifest.identified(paths, [1] * 8))
    assert len(set(found[:6])) == 1
    assert len(set(found)) == 2


def test_a_file_that_is_gone_is_named(train):
    Path(train.paths[0]).unlink()
    with pytest.raises(DataError, match=str(train.paths[0])):
        ValidationSplit().mask(train)


def test_splits_without_a_common_patient_pass(kaggle, train):
    check_disjoint(train, read_split(kaggle, "test"), "test")


def test_a_common_patient_is_refused_by_name(kaggle, write_images, train):
    write_images(kaggle / "test/NORMAL", ["IM-0003-0009.jpeg"])
    with pytest.raises(DataError, match=r"1 of \d+ images of test .*IM-0003-0009\.jpeg"):
        check_disjoint(train, read_split(kaggle, "test"), "test")


def test_a_copy_of_a_training_file_is_refused_by_name(kaggle, train):
    copy_over(train.paths[0], kaggle / "test/NORMAL/IM-0104-0001.jpeg")
    with pytest.raises(DataError, match=r"IM-0104-0001\.jpeg"):
        check_disjoint(train, read_split(kaggle, "test"), "test")


@pytest.mark.shared
def test_the_real_files_have_24_groups_of_copies_none_across_folders(shared):
    root = shared / "data/chest_xray"
    copies = {}
    for split in ("train", "val", "test"):
        samples = read_split(root, split)
        copies[split] = identical_files([str(path) for path in samples.paths])
        assert all(len(set(samples.labels[rows])) == 1 for rows in copies[split])
    assert sum(map(len, copies.values())) == 24
    every = [str(path) for split in copies for path in read_split(root, split).paths]
    assert len(identical_files(every)) == 24


@pytest.mark.shared
@pytest.mark.parametrize("strategy", ["blocks", "random"])
def test_the_real_holdout_is_12_percent_of_the_patients_of_each_stream(shared, strategy):
    root = shared / "data/chest_xray"
    samples = read_split(root, "train") + read_split(root, "val")
    mask = ValidationSplit(strategy).mask(samples)
    for stream in STREAMS:
        rows = samples.streams == stream
        share = len(set(samples.patients[rows & mask])) / len(set(samples.patients[rows]))
        assert share == pytest.approx(0.12, abs=0.01)
    assert not set(samples.patients[mask]) & set(samples.patients[~mask])


@pytest.mark.shared
def test_the_real_test_folder_shares_no_patient_with_train(shared):
    root = shared / "data/chest_xray"
    check_disjoint(read_split(root, "train"), read_split(root, "test"), "test")
