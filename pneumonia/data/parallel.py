"""Many items on all cores: in order, with a progress bar, and no orphans when it stops."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from pneumonia.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")

CHUNK = 16
"""Tasks that travel to a worker at once; single ones would spend the time travelling."""

WORTH_A_WORKER = 256
"""Tasks below which another process takes longer to start than it saves."""


def available_cores() -> int:
    """The number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def parallel_map(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    title: str,
    workers: int | None = None,
    *,
    threads: bool = False,
) -> Generator[Result, None, None]:
    """Apply a function to every task, on several processes or threads where that pays.

    A progress bar is drawn on standard error if that is a terminal.

    Args:
        function: For processes, at the top level of a light module: each imports it afresh.
        tasks: Its arguments.
        title: What the progress bar says.
        workers: Number of processes or threads; 1 works in this one. None: one for each core,
            but no more than the tasks are worth.
        threads: Use threads: they start at once and ask nothing of the caller's script, but
            only serve a function that spends its time outside Python, as Pillow's decoding and
            resizing do.

    Yields:
        The results, in the order of the tasks.

    Raises:
        DataError: If a worker died.
    """
    if workers is None:
        workers = min(available_cores(), 1 + len(tasks) // WORTH_A_WORKER)
    if workers == 1:
        yield from _shown(map(function, tasks), len(tasks), title)
        return
    pool: Executor
    if threads:
        pool = ThreadPoolExecutor(workers)
    else:  # spawned, not forked: the caller may hold torch threads, which a fork would break
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _follow_parent)
    try:
        yield from _shown(pool.map(function, tasks, chunksize=CHUNK), len(tasks), title)
    except BrokenProcessPool as error:
        raise DataError(
            f"A worker process died while {title}; try again with less else running, and in a"
            " script keep the call under `if __name__ == '__main__':`."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _shown(results: Iterator[Result], total: int, title: str) -> Iterator[Result]:
    if not sys.stderr.isatty():
        yield from results
        return
    yield from track(results, title, total, console=Console(stderr=True), transient=True)


def _follow_parent() -> None:
    """Make a worker leave Ctrl-C to its parent, and end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # nobody is left to hear an exception

    threading.Thread(target=watch, daemon=True).start()


def init_worker(worker: int) -> None:
    """Leave signals from outside to the run; the `worker_init_fn` of a `DataLoader`.

    Ctrl-C reaches all processes of a terminal, and a scheduler signals all of a job; the run then
    still has a step to finish and a checkpoint to save, for which it needs its workers.

    Args:
        worker: Its number, not used.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_the_run, daemon=True).start()


def _await_the_run() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
