"""A loader process, which obeys nobody but the run it reads for."""

import os
import signal
import threading


def obey_the_run(worker: int) -> None:
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
