"""Requests that wait together are computed together, and none is lost."""

import asyncio
import threading

import pytest

from pneumonia.inference.batching import Batcher


def answers(requests, batch_size=8, function=None, cancelled=()):
    """Send requests while a first one is computed; gives the batches and the answers."""
    batches, release = [], threading.Event()

    def double(batch):
        batches.append(batch)
        release.wait()
        return [function(item) if function else 2 * item for item in batch]

    async def run():
        batcher = Batcher(double, batch_size, asyncio.Lock())
        tasks = [asyncio.create_task(batcher([0]))]
        while not batches:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(batcher(items)) for items in requests]
        await asyncio.sleep(0.01)
        for number in cancelled:
            tasks[number].cancel()
        release.set()
        async with asyncio.timeout(20):
            return await asyncio.gather(*tasks, return_exceptions=True)

    return batches, asyncio.run(run())


def test_requests_that_wait_are_one_batch_and_each_gets_its_own_results():
    batches, found = answers([[1], [2, 3], [4]])
    assert batches == [[0], [1, 2, 3, 4]]
    assert found == [[0], [2], [4, 6], [8]]


def test_a_batch_ends_before_it_is_too_large_and_a_request_is_not_divided():
    batches, found = answers([[1, 2], [3, 4], [5] * 9, [6]], batch_size=3)
    assert batches == [[0], [1, 2], [3, 4], [5] * 9, [6]]
    assert [len(results) for results in found] == [1, 2, 2, 9, 1]


def test_an_error_reaches_every_request_of_its_batch_and_the_next_batch_is_computed():
    _, found = answers([[1], [2], [3]], batch_size=2, function=lambda item: 6 // (item - 2))
    assert [type(results) for results in found] == [list, *[ZeroDivisionError] * 2, list]


@pytest.mark.parametrize("gone", [[0], [1], [1, 2, 3]])
def test_a_client_that_leaves_holds_up_nobody(gone):
    _, found = answers([[1], [2], [3]], cancelled=gone)
    for number, results in enumerate(found):
        assert isinstance(results, asyncio.CancelledError) == (number in gone)
        assert number in gone or results == [2 * number]
