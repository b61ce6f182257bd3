"""Items read on threads, a few batches ahead of who uses them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from pneumonia.data.pool import cores

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 2
"""Batches that are read while the network works on another."""


def batches(
    function: Callable[[Task], Result], tasks: Iterable[Task], size: int
) -> Iterator[list[Result]]:
    """Apply a function to every task on threads, a few batches ahead.

    At most three batches of results are held at once, however many tasks there are.

    Args:
        function: Spends its time outside Python's lock, as Pillow's decoding does.
        tasks: Its arguments.
        size: Tasks of a batch.

    Yields:
        The results in the order of the tasks, `size` of them at a time, the last batch less.

    Raises:
        Exception: What the function raised, when its batch is due.
    """
    with ThreadPoolExecutor(min(4, cores())) as pool:
        waiting: deque[list[Future[Result]]] = deque()
        rest = iter(tasks)
        try:
            while some := list(islice(rest, size)):
                waiting.append([pool.submit(function, task) for task in some])
                if len(waiting) > _AHEAD:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
