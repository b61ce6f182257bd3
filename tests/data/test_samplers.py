"""The order in which images are drawn."""

from collections import Counter

import pytest

from pneumonia.data.manifest import Manifest
from pneumonia.data.samplers import SequentialSampler, TrainingSampler, balanced_probabilities


@pytest.fixture(scope="module")
def imbalanced() -> Manifest:
    """6 normals of 3 patients, the first with 4 images, and 40 pneumonias of 2 patients, 39 + 1."""
    names = [f"IM-0001-000{k}.jpeg" for k in range(4)] + ["IM-0002-0001.jpeg", "IM-0003-0001.jpeg"]
    names += [f"person1_virus_{k}.jpeg" for k in range(39)] + ["person1_bacteria_1.jpeg"]
    return Manifest.from_paths(names, [0] * 6 + [1] * 40)


def balanced(samples, *settings) -> TrainingSampler:
    return TrainingSampler(len(samples), *settings, probabilities=balanced_probabilities(samples))


def draw(sampler, epoch=0):
    sampler.set_epoch(epoch)
    draws = list(sampler)
    assert len(draws) == len(sampler)
    assert {drawn[0] for drawn in draws} <= {epoch}
    return draws


def rows(size: int, batch: int, seed: int = 0, epoch: int = 0) -> list[int]:
    return [row for _, row, _ in draw(TrainingSampler(size, batch, seed), epoch)]


def test_an_incomplete_batch_is_dropped_but_not_always_of_the_same_rows():
    epochs = [frozenset(rows(103, 10, epoch=number)) for number in range(3)]
    assert [len(epoch) for epoch in epochs] == [100] * 3
    assert len(set(epochs)) == 3
    assert rows(9, 10) == []


def test_the_order_depends_on_seed_and_epoch_only():
    assert sorted(rows(100, 10)) == list(range(100))
    assert len({tuple(rows(100, 10, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("even", [False, True])
def test_ranks_divide_the_same_global_batches(imbalanced, even, ranks):
    def make(*rank):
        return balanced(imbalanced, 8, 3, *rank) if even else TrainingSampler(103, 8, 3, *rank)

    whole = draw(make(), 2)
    parts = [draw(make(rank, ranks), 2) for rank in range(ranks)]
    own = 8 // ranks
    for step in range(len(whole) // 8):
        together = [row for part in parts for row in part[step * own : (step + 1) * own]]
        assert sorted(together) == sorted(whole[step * 8 : (step + 1) * 8])


@pytest.mark.parametrize("even", [False, True])
def test_a_resumed_epoch_continues_with_the_next_row(imbalanced, even):
    sampler = balanced(imbalanced, 8, 3) if even else TrainingSampler(46, 8, 3)
    first, second = draw(sampler, 2), draw(sampler, 3)
    sampler.resume(2, 16)
    assert list(sampler) == first[16:]
    sampler.set_epoch(3)
    assert list(sampler) == second


@pytest.mark.parametrize("size", [1, 20, 21])
def test_in_order_every_row_comes_once_over_all_ranks(size):
    parts = [SequentialSampler(size, rank, 3) for rank in range(3)]
    assert sorted(row for part in parts for row in part) == list(range(size))
    assert all(list(part) == sorted(part) for part in parts)


def test_classes_and_patients_within_a_class_are_drawn_equally_often(imbalanced):
    sampler = balanced(imbalanced, 2, 0)
    drawn = [row for epoch in range(400) for _, row, _ in draw(sampler, epoch)]
    patients = Counter(imbalanced.patients[drawn].tolist())
    fractions = {patient: count / len(drawn) for patient, count in patients.items()}
    expected = {"IM/1": 1 / 6, "IM/2": 1 / 6, "IM/3": 1 / 6, "virus/1": 1 / 4, "bacteria/1": 1 / 4}
    assert fractions == pytest.approx(expected, abs=0.02)
    images = Counter(row for row in drawn if row < 4)
    assert [images[row] / len(drawn) for row in range(4)] == pytest.approx([1 / 24] * 4, abs=0.01)


def test_balanced_draws_depend_on_seed_and_epoch_only_and_repeats_are_numbered(imbalanced):
    draws = draw(balanced(imbalanced, 2, 5), 3)
    assert draw(balanced(imbalanced, 2, 5), 3) == draws
    assert draw(balanced(imbalanced, 2, 6), 3) != draws
    for row, count in Counter(row for _, row, _ in draws).items():
        assert [k for _, r, k in draws if r == row] == list(range(count))
