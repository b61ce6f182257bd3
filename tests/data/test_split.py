"""The validation split, and what may not be on both sides of a split."""

import shutil

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


def numbers(samples: Manifest, mask: np.ndarray, stream: str) -> set[int]:
    return set(samples.numbers[mask & (samples.streams == stream)].tolist())


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.001, set()), (0.04, {1}), (0.12, {1, 2, 25})]
)
def test_blocks_take_the_lowest_and_highest_numbers_of_each_stream(train, fraction, expected):
    mask = ValidationSplit(fraction=fraction).mask(train)
    assert [numbers(train, mask, stream) for stream in STREAMS] == [expected] * 4


@pytest.mark.parametrize("strategy", ["blocks", "random"])
def test_a_patient_is_on_one_side_wherever_the_data_are(train, kaggle, tmp_path, strategy):
    split = ValidationSplit(strategy)
    mask = split.mask(train)
    assert not set(train.patients[mask]) & set(train.patients[~mask])
    moved = read_split(shutil.copytree(kaggle, tmp_path / "elsewhere"), "train")
    assert np.array_equal(split.mask(moved), mask)


def test_random_draws_a_fraction_of_each_stream_by_the_seed(train):
    mask, again, other = (ValidationSplit("random", 0.2, seed=s).mask(train) for s in (0, 0, 1))
    assert np.array_equal(mask, again)
    assert not np.array_equal(mask, other)
    drawn = [numbers(train, mask, stream) for stream in STREAMS]
    assert [len(some) for some in drawn] == [5] * 4
    assert len(set(map(frozenset, drawn))) == 4


@pytest.mark.parametrize("strategy", ["blocks", "random"])
def test_byte_identical_files_are_on_one_side(train, strategy):
    split = ValidationSplit(strategy, 0.4)
    virus = train.streams == "virus"
    validation = train.paths[virus & split.mask(train)][0]
    training = train.paths[virus & ~split.mask(train)][0]
    shutil.copyfile(validation, training)
    mask = split.mask(train)
    assert len(set(mask[np.isin(train.paths, [validation, training])])) == 1
    assert not set(train.patients[mask]) & set(train.patients[~mask])


@pytest.mark.parametrize("copies", [0, 6])
def test_every_image_is_in_one_fold(train, copies):
    virus = train.paths[train.streams == "virus"]
    for source, target in zip(virus[: 2 * copies : 2], virus[12::2], strict=False):
        shutil.copyfile(source, target)
    masks = [ValidationSplit("random", folds=5, fold=k).mask(train) for k in range(5)]
    assert np.array_equal(np.sum(masks, axis=0), np.ones(len(train)))
    for mask in masks:
        assert not set(train.patients[mask]) & set(train.patients[~mask])


def test_blocks_without_numbers_are_refused(kaggle):
    samples = read_split(kaggle, "train", "file")
    with pytest.raises(DataError, match=r"data\.split\.strategy=random"):
        ValidationSplit().mask(samples)
    assert ValidationSplit("random").mask(samples).any()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"strategy": "block"}, "strategy='block'"),
        ({"fraction": float("nan")}, "fraction=nan"),
        ({"folds": 5}, "strategy='blocks'"),
        ({"strategy": "random", "folds": 5, "fold": 5}, "fold=5"),
        ({"strategy": "random", "seed": -1}, "seed=-1"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, key):
    with pytest.raises(ConfigError, match=rf"data\.split\.{key}"):
        ValidationSplit(**settings)


def test_groups_link_patients_through_common_files(write_images, tmp_path):
    names = [f"person{n}_virus_{k}.jpeg" for n in (1, 2, 3, 4) for k in (1, 2)]
    paths = [str(path) for path in write_images(tmp_path, names)]
    shutil.copyfile(paths[1], paths[2])  # patients 1 and 2
    shutil.copyfile(paths[3], paths[4])  # patients 2 and 3
    assert sorted(identical_files(paths)) == [[1, 2], [3, 4]]
    groups = group_images(Manifest.from_paths(paths, [1] * 8))
    assert len(set(groups[:6])) == 1
    assert len(set(groups)) == 2


def test_splits_that_share_a_patient_or_a_file_are_refused(kaggle, write_images, train):
    check_disjoint(train, read_split(kaggle, "test"), "test")
    shutil.copyfile(train.paths[0], kaggle / "test/NORMAL/IM-0104-0001.jpeg")
    with pytest.raises(DataError, match=r"1 of \d+ images of test .*IM-0104-0001\.jpeg"):
        check_disjoint(train, read_split(kaggle, "test"), "test")
    write_images(kaggle / "test/NORMAL", ["IM-0003-0009.jpeg"])
    with pytest.raises(DataError, match=r"2 of \d+ images of test .*IM-0003-0009\.jpeg"):
        check_disjoint(train, read_split(kaggle, "test"), "test")


@pytest.mark.shared
def test_the_real_splits_share_no_patient_and_have_24_groups_of_copies(shared):
    splits = {name: read_split(shared / "data/chest_xray", name) for name in ("train", "test")}
    check_disjoint(splits["train"], splits["test"], "test")
    copies = [len(identical_files(list(map(str, samples.paths)))) for samples in splits.values()]
    assert sum(copies) == 24
