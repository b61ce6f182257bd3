"""`pneumonia export`: a checkpoint -> one ONNX file."""
# ruff: noqa: PLC0415  see the package

from pathlib import Path
from typing import Annotated

import typer


def export_command(
    checkpoint: Annotated[Path, typer.Option(help="Model: best.ckpt of a run.")],
    out: Annotated[Path, typer.Option(help="File to write (.onnx); replaced if it is there.")],
) -> None:
    """Write a model as one ONNX file, and check that it answers alike."""
    from pneumonia.inference.export import export

    written = export(checkpoint, out)
    size = written.stat().st_size / 1e6
    typer.echo(f"Wrote {written} ({size:.1f} MB); it answers as {checkpoint}")
