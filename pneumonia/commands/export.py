"""`pneumonia export`: writes a checkpoint as one ONNX file."""
# ruff: noqa: PLC0415  see the package

from pathlib import Path
from typing import Annotated

import typer


def export_command(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint: best.ckpt of a run.")],
    out: Annotated[Path, typer.Option(help="File to write (.onnx); an existing one is replaced.")],
    int8: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE",
            help="Quantize to int8, about twice as fast on CPUs with VNNI (Intel since 2019, AMD"
            " since Zen 4), on the labelled images of a CSV file path,label: validation.csv of the"
            " run.",
        ),
    ] = None,
) -> None:
    """Write a checkpoint as one ONNX file, and check its outputs against the checkpoint's."""
    from pneumonia.inference.export import export

    if int8 is None:
        written = export(checkpoint, out)
        megabytes = written.stat().st_size / 1e6
        typer.echo(f"Wrote {written} ({megabytes:.1f} MB); its outputs equal those of {checkpoint}")
        return
    from pneumonia.inference.quantize import export_int8

    report = export_int8(checkpoint, int8, out)
    typer.echo(f"On the {report.images} images of {int8}:\n{'float':>30}{'int8':>9}")
    for name, values in report.metrics.items():
        digits = 1 if max(values) > 1 else 3
        typer.echo(f"{name:21}" + "".join(f"{value:9.{digits}f}" for value in values))
    typer.echo(
        f"Same predicted class for {report.agreement:.1%} of the images; probabilities differ by at"
        f" most {report.max_difference:.3f}.\n"
        f"Wrote {out} ({out.stat().st_size / 1e6:.1f} MB)"
    )
