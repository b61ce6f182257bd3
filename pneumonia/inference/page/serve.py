"""Serves the page until it is interrupted, and leaves nothing behind."""

import contextlib
import errno
import logging
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from pneumonia.errors import ConfigError, ExtraError
from pneumonia.inference.page.blocks import build, uploads
from pneumonia.inference.page.desk import Desk, describe
from pneumonia.inference.page.tray import Tray
from pneumonia.inference.predictor import Predictor

log = logging.getLogger(__name__)

LOCAL = "127.0.0.1"
PORT = 7860

_LOOPBACK = (LOCAL, "localhost", "::1")


def serve(checkpoint: str | Path, host: str = LOCAL, port: int = PORT) -> None:
    """Show the page until it is interrupted.

    Args:
        checkpoint: A `.ckpt` or `.onnx` file.
        host: Address to listen on.
        port: Likewise.

    Raises:
        CheckpointError: If the model cannot be used.
        ConfigError: If the port is taken, or the host is not of this machine.
        ExtraError: If gradio is not installed.
        KeyboardInterrupt: When it is interrupted.
        SystemExit: With 143, when it is told to end (SIGTERM).
    """
    try:
        import uvicorn  # noqa: PLC0415  comes with gradio
    except ImportError as error:
        raise ExtraError("pneumonia app", "app") from error
    with _listening(host, port) as listener, _ending(), _private_folder() as folder:
        predictor = Predictor.load(checkpoint)
        uploads(folder).mkdir()
        tray = Tray(uploads(folder))
        desk = Desk(predictor, checkpoint, tray)
        page = build(desk, tray, describe(predictor, checkpoint), folder, host)
        if host not in _LOOPBACK:
            log.warning(
                "Listening on %s without a login or encryption: whoever reaches it can use it.",
                host,
            )
        log.info("Open http://%s:%s (Ctrl-C ends it)", f"[{host}]" if ":" in host else host, port)
        server = uvicorn.Server(
            uvicorn.Config(
                page,
                log_level="critical",  # an address or an error could tell of a patient's file
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                timeout_graceful_shutdown=1,  # open pages keep a line to it
            )
        )
        try:
            server.run(sockets=[listener])
        finally:
            desk.close()


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(_unusable(error, host, port)) from error
    with listener:
        yield listener


def _unusable(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is taken; choose another --port."
    if error.errno == errno.EACCES:
        return f"Port {port} is not for everybody; choose a --port above 1023."
    return (
        f"{host} is no address of this machine ({error.strerror or error}); choose another --host."
    )


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Let a signal to end, or a closed terminal, unwind as an interruption does."""

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    def hang_up(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    former = {signal.SIGTERM: signal.signal(signal.SIGTERM, end)}
    if hasattr(signal, "SIGHUP"):
        former[signal.SIGHUP] = signal.signal(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """Make a folder that nobody else can read, also for what libraries put down for a moment."""
    former = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="pneumonia-", ignore_cleanup_errors=True) as name:
        tempfile.tempdir = name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = former
