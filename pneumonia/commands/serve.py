"""`pneumonia serve`: a page and a JSON API for one model."""
# ruff: noqa: PLC0415  see the package

import logging
from pathlib import Path
from typing import Annotated

import typer

from pneumonia.commands import Backend


def serve_command(
    checkpoint: Annotated[
        Path, typer.Option(help="Model: best.ckpt of a run, or an exported .onnx.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; there is no login.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Host name of this machine that clients may use, besides --host."),
    ] = None,
    backend: Backend = "auto",
) -> None:
    """Serve a page and a JSON API that predict uploaded X-rays."""
    from pneumonia.errors import ExtraError

    try:
        from pneumonia.inference.server import serve
    except ImportError as error:
        raise ExtraError("pneumonia serve", "serve") from error
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("pneumonia.inference").setLevel(logging.INFO)
    serve(checkpoint, host, port, allowed_host or (), backend)
