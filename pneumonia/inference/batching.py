"""Batching of concurrent requests."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects the items of concurrent requests into batches.

    A batch starts as soon as the previous one is done, without waiting to be full. The items of
    one request stay in one batch.

    Args:
        function: Takes a list of items and returns one result for each; runs in a thread.
        batch_size: Items that a batch has at most, unless a single request has more.
        lock: Held while the function runs.
    """

    def __init__(
        self,
        function: Callable[[list[Item]], Sequence[Result]],
        batch_size: int,
        lock: asyncio.Lock,
    ) -> None:
        self._function, self._batch_size, self._lock = function, batch_size, lock
        self._waiting: deque[tuple[Sequence[Item], asyncio.Future[Sequence[Result]]]] = deque()
        self._runner: asyncio.Task[None] | None = None

    async def __call__(self, items: Sequence[Item]) -> Sequence[Result]:
        """Return the results of a request's items; raises what the function raises."""
        future: asyncio.Future[Sequence[Result]] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            async with self._lock:
                await self._compute(self._take())

    def _take(self) -> list[tuple[Sequence[Item], asyncio.Future[Sequence[Result]]]]:
        """Take the requests that have waited longest."""
        requests, count = [self._waiting.popleft()], 0
        while self._waiting:
            count += len(requests[-1][0])
            if count + len(self._waiting[0][0]) > self._batch_size:
                break
            requests.append(self._waiting.popleft())
        return [(items, future) for items, future in requests if not future.cancelled()]

    async def _compute(
        self, requests: list[tuple[Sequence[Item], asyncio.Future[Sequence[Result]]]]
    ) -> None:
        found: Sequence[Result] | Exception
        try:
            found = await asyncio.to_thread(
                self._function, [item for items, _ in requests for item in items]
            )
        except Exception as error:  # noqa: BLE001  each of the requests raises it
            found = error
        start = 0
        for items, future in requests:
            if future.cancelled():  # its client is gone
                pass
            elif isinstance(found, Exception):
                future.set_exception(found)
            else:
                future.set_result(found[start : start + len(items)])
            start += len(items)
