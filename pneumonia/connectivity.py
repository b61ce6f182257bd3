"""Whether a server answers, asked before a library waits for it for minutes."""

import queue
import threading
from collections.abc import Callable

ANSWER_WITHIN = 4.0
"""Seconds."""


def connection_error(ask: Callable[[], object]) -> str | None:
    """Call a function that contacts a server and raises an exception if it cannot be reached.

    Returns:
        Why there was no answer within `ANSWER_WITHIN`, on one line; None if there was one.
    """
    # In a thread, since a name look-up has no timeout of its own.
    answer: queue.Queue[str | None] = queue.Queue()

    def run() -> None:
        try:
            ask()
            answer.put(None)
        except Exception as error:  # noqa: BLE001  whatever it is, it is the reason
            answer.put((str(error).splitlines() or [type(error).__name__])[0])

    threading.Thread(target=run, daemon=True).start()
    try:
        return answer.get(timeout=ANSWER_WITHIN)
    except queue.Empty:
        return f"no answer within {ANSWER_WITHIN:.0f} s"
