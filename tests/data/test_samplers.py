"""The order in which images are drawn."""

from collections import Counter

import numpy as np
import pytest

from pneumonia.data.manifest import Manifest
from pneumonia.data.samplers import BalancedSampler, SequentialSampler, ShuffledSampler


def epoch(size: int, batch: int, seed: int = 0, epoch: int = 0, rank: int = 0, ranks: int = 1):
    order = ShuffledSampler(size, batch, seed, rank, ranks)
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
    parts = [SequentialSampler(size, rank, ranks) for rank in range(ranks)]
    assert sorted(row for part in parts for row in part) == list(range(size))
    assert all(len(part) == len(list(part)) for part in parts)
    assert all(list(part) == sorted(part) for part in parts)


def test_the_rows_of_a_rank_are_plain_integers():
    assert all(type(row) is int for row in epoch(10, 2))
    assert isinstance(np.asarray(list(SequentialSampler(4, 1, 2))), np.ndarray)


@pytest.fixture(scope="module")
def lopsided() -> Manifest:
    """6 normals of 3 patients, the first with 4 images, and 40 pneumonias of 2 patients, 39 + 1."""
    names = [f"IM-0001-000{k}.jpeg" for k in range(4)] + ["IM-0002-0001.jpeg", "IM-0003-0001.jpeg"]
    names += [f"person1_virus_{k}.jpeg" for k in range(39)] + ["person1_bacteria_1.jpeg"]
    return Manifest.identified(names, [0] * 6 + [1] * 40)


def balanced(samples, batch=2, seed=0, epoch=0, rank=0, ranks=1):
    order = BalancedSampler(samples, batch, seed, rank, ranks)
    order.set_epoch(epoch)
    draws = list(order)
    assert len(draws) == len(order) == len(samples) // batch * batch // ranks
    return draws


def test_classes_and_patients_within_a_class_are_drawn_equally_often(lopsided):
    rows = [row for epoch in range(400) for _, row, _ in balanced(lopsided, epoch=epoch)]
    patients = Counter(lopsided.patients[rows].tolist())
    shares = {patient: count / len(rows) for patient, count in patients.items()}
    expected = {"IM/1": 1 / 6, "IM/2": 1 / 6, "IM/3": 1 / 6, "virus/1": 1 / 4, "bacteria/1": 1 / 4}
    assert shares == pytest.approx(expected, abs=0.02)
    images = Counter(row for row in rows if row < 4)
    assert [images[row] / len(rows) for row in range(4)] == pytest.approx([1 / 24] * 4, abs=0.01)


def test_the_draws_depend_on_seed_and_epoch_alone(lopsided):
    once = balanced(lopsided, seed=5, epoch=3)
    assert balanced(lopsided, seed=5, epoch=3) == once
    assert balanced(lopsided, seed=6, epoch=3) != once
    assert [row for _, row, _ in balanced(lopsided, seed=5, epoch=4)] != [r for _, r, _ in once]


def test_each_repetition_of_a_row_is_numbered(lopsided):
    draws = balanced(lopsided, epoch=2)
    assert len(set(draws)) == len(draws)
    for row, count in Counter(row for _, row, _ in draws).items():
        assert [k for _, r, k in draws if r == row] == list(range(count))
    assert {epoch for epoch, _, _ in draws} == {2}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_out_the_same_global_balanced_batches(lopsided, ranks):
    whole = balanced(lopsided, 8, 3, 2)
    parts = [balanced(lopsided, 8, 3, 2, rank, ranks) for rank in range(ranks)]
    own = 8 // ranks
    for step in range(len(whole) // 8):
        together = [draw for part in parts for draw in part[step * own : (step + 1) * own]]
        assert sorted(together) == sorted(whole[step * 8 : (step + 1) * 8])
