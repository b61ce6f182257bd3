"""`pneumonia export`: writes a checkpoint as one ONNX file."""
# ruff: noqa: PLC0415  see the package

from pathlib import Path
from typing import Annotated

import typer


def export_command(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint: best.ckpt of a run.")],
    out: Annotated[Path, typer.Option(help="File to write (.onnx); an existing one is replaced.")],
) -> None:
    """Write a checkpoint as one ONNX file, and check that both give the same output."""
    from pneumonia.inference.export import export

    written = export(checkpoint, out)
    megabytes = written.stat().st_size / 1e6
    typer.echo(f"Wrote {written} ({megabytes:.1f} MB); its outputs equal those of {checkpoint}")
