"""`pneumonia app`: a page to drop X-rays on."""
# ruff: noqa: PLC0415  see the package

import logging
from pathlib import Path
from typing import Annotated

import typer


def app_command(
    checkpoint: Annotated[
        Path, typer.Option(help="Model: best.ckpt of a run, or an exported .onnx.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; no login.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """Show a page to drop X-rays on; only this machine reaches it."""
    from pneumonia.inference.page.serve import serve

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("pneumonia.inference").setLevel(logging.INFO)
    serve(checkpoint, host, port)
