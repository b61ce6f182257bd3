"""`pneumonia ensemble`: combines the checkpoints of several runs into one."""
# ruff: noqa: PLC0415  see the package

from pathlib import Path
from typing import Annotated

import typer


def ensemble_command(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Two or more best.ckpt of finished runs.", metavar="CKPT")
    ],
    root: Annotated[
        Path, typer.Option("--data", help="Data set of the runs: its folder, or its table (.csv).")
    ],
    out: Annotated[Path, typer.Option(help="Checkpoint (.ckpt) to write.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Combine runs into one checkpoint that averages their logits, and finalize it."""
    from pneumonia.training.ensemble import ensemble_checkpoints

    result = ensemble_checkpoints(checkpoints, root, out, device)
    width = max(map(len, result.auroc))
    for row, (name, auroc) in enumerate(result.auroc.items()):
        if row == 0:
            typer.echo(f"{'AUROC':{width}}  {'  '.join(auroc)}")
        values = (f"{value:{len(key)}.3f}" for key, value in auroc.items())
        typer.echo(f"{name:{width}}  {'  '.join(values)}")
    point = result.operating_point
    typer.echo(
        f"Threshold {point.threshold:.4g}: sensitivity {point.sensitivity:.3f} and specificity"
        f" {point.specificity:.3f} on the clean validation images (optimistic)\n"
        f"Wrote {out}: {result.n_views} forward passes per image"
    )
