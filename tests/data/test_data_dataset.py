"""Items, and the order in which they are drawn."""

import os

import numpy as np
import pytest
import torch

from pneumonia.data.augment import Augmentation
from pneumonia.data.dataset import OrderedRows, Radiographs, ShuffledRows
from pneumonia.data.folder import read_split
from pneumonia.data.image import Preprocessing
from pneumonia.errors import DataError


@pytest.fixture
def radiographs(kaggle):
    """Makes a dataset of the small training split."""
    samples = read_split(kaggle, "train")

    def make(augmentation: Augmentation | None = None, seed: int = 0) -> Radiographs:
        return Radiographs(samples, Preprocessing(32), augmentation, seed)

    return make


def test_an_item_is_an_image_its_label_and_its_row(radiographs):
    dataset = radiographs()
    item = dataset[3]
    assert set(item) == {"image", "label", "index"}
    assert item["image"].dtype == torch.uint8
    assert item["image"].shape == (1, 32, 32)
    assert (item["label"], item["index"]) == (dataset.samples.labels[3], 3)
    assert {dataset[row]["label"] for row in range(len(dataset))} == {0, 1}


def test_without_augmentation_the_epoch_does_not_matter(radiographs):
    dataset = radiographs()
    assert torch.equal(dataset[3]["image"], dataset[5, 3]["image"])
    assert dataset[5, 3]["index"] == 3


def test_augmentation_depends_on_seed_epoch_and_row_alone(radiographs):
    image = radiographs(Augmentation(), seed=1)[2, 3]["image"]
    torch.manual_seed(99)
    again = radiographs(Augmentation(), seed=1)
    again[0, 0]  # what was drawn before does not matter
    assert torch.equal(again[2, 3]["image"], image)
    assert not torch.equal(again[1, 3]["image"], image)
    assert not torch.equal(radiographs(Augmentation(), seed=2)[2, 3]["image"], image)


def test_an_unreadable_file_is_named(radiographs):
    dataset = radiographs()
    os.truncate(dataset.samples.paths[3], 200)
    with pytest.raises(DataError, match=str(dataset.samples.paths[3])):
        dataset[0, 3]


def epoch(size: int, batch: int, seed: int = 0, epoch: int = 0, rank: int = 0, ranks: int = 1):
    order = ShuffledRows(size, batch, seed, rank, ranks)
    order.set_epoch(epoch)
    draws = list(order)
    assert len(draws) == len(order)
    assert {drawn for drawn, _ in draws} <= {epoch}
    return [row for _, row in draws]


def test_an_epoch_is_a_whole_permutation():
    rows = epoch(100, 10)
    assert rows != sorted(rows)
    assert sorted(rows) == list(range(100))


def test_rows_that_fill_no_whole_batch_sit_out_but_not_always_the_same():
    epochs = [epoch(103, 10, epoch=number) for number in range(3)]
    assert [len(set(rows)) for rows in epochs] == [100] * 3
    assert len({frozenset(rows) for rows in epochs}) == 3


def test_fewer_rows_than_a_batch_are_no_epoch():
    assert epoch(9, 10) == []


def test_the_order_depends_on_seed_and_epoch():
    assert epoch(100, 10) == epoch(100, 10)
    assert len({tuple(epoch(100, 10, seed, number)) for seed in (0, 1) for number in (0, 1)}) == 4


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_out_the_same_global_batches(ranks):
    whole = epoch(103, 8, seed=3, epoch=2)
    parts = [epoch(103, 8, 3, 2, rank, ranks) for rank in range(ranks)]
    own = 8 // ranks
    for step in range(len(whole) // 8):
        together = [row for part in parts for row in part[step * own : (step + 1) * own]]
        assert sorted(together) == sorted(whole[step * 8 : (step + 1) * 8])


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [0, 1, 20, 21])
def test_in_order_every_row_comes_once_over_all_ranks(size, ranks):
    parts = [OrderedRows(size, rank, ranks) for rank in range(ranks)]
    assert sorted(row for part in parts for row in part) == list(range(size))
    assert all(len(part) == len(list(part)) for part in parts)
    assert all(list(part) == sorted(part) for part in parts)


def test_the_rows_of_a_rank_are_plain_integers():
    assert all(type(row) is int for row in epoch(10, 2))
    assert isinstance(np.asarray(list(OrderedRows(4, 1, 2))), np.ndarray)
