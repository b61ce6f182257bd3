"""Work on all cores: results in order, a progress bar, and no orphaned processes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

from pneumonia.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")

_CHUNK = 16  # tasks sent to a worker process at once
_TASKS_PER_WORKER = 256  # fewer do not pay for starting another worker


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
    """Apply a function to every task, with a progress bar if standard error is a terminal.

    Args:
        function: For processes: at the top level of a module.
        tasks: Its arguments.
        title: Text of the progress bar.
        workers: Number of processes or threads. None: one for each core, fewer for few tasks.
        threads: Use threads, which start at once; for functions that release the GIL.

    Yields:
        The results, in the order of the tasks.

    Raises:
        DataError: If a worker process died.
    """
    if workers is None:
        workers = min(available_cores(), 1 + len(tasks) // _TASKS_PER_WORKER)
    if workers == 1:
        yield from with_progress(map(function, tasks), len(tasks), title)
        return
    pool: Executor = (
        ThreadPoolExecutor(workers)
        if threads  # spawned: a fork would break torch's threads
        else ProcessPoolExecutor(workers, get_context("spawn"), _follow_parent)
    )
    try:
        results = pool.map(function, tasks, chunksize=_CHUNK)
        yield from with_progress(results, len(tasks), title)
    except BrokenProcessPool as error:
        raise DataError(
            f"A worker process died while {title}, perhaps for lack of memory; try again with fewer"
            " programs running. A script must keep the call under `if __name__ == '__main__':`."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def with_progress(results: Iterator[Result], total: int, title: str) -> Iterator[Result]:
    """Show a progress bar of results, if standard error is a terminal."""
    if sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415 - start-up time
        from rich.progress import track  # noqa: PLC0415

        results = iter(track(results, title, total, console=Console(stderr=True), transient=True))
    yield from results


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent process, and exit when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)


def init_worker(worker: int) -> None:
    """Make a loader process ignore all signals but SIGTERM from its parent; a `worker_init_fn`.

    Terminals and schedulers signal all processes of a job, but training still needs the workers
    to finish a step.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_terminate, daemon=True).start()


def _exit_on_terminate() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
