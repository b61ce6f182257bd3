"""`pneumonia calibrate`: recalibrates a checkpoint at a new site."""
# ruff: noqa: PLC0415  see the package

from pathlib import Path
from typing import Annotated

import typer

from pneumonia.commands import Patients


def calibrate_command(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint (.ckpt) to start from.")],
    root: Annotated[Path, typer.Option("--data", help="Labelled images of the site.")],
    out: Annotated[Path, typer.Option(help="Checkpoint (.ckpt) to write.")],
    split: Annotated[
        str | None, typer.Option(help="Use only this split: train, val or test.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="sensitivity, specificity, youden, cost or fixed; else as before."),
    ] = None,
    target: Annotated[float | None, typer.Option(help="Target of the policy, as 0.95.")] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Accepted fraction of a class's patients with a confident error."),
    ] = None,
    patients: Patients = None,
) -> None:
    """Refit temperature, threshold and abstention on labelled images of a new site."""
    from pneumonia.inference.recalibrate import recalibrate_checkpoint

    calibration, point, abstention = recalibrate_checkpoint(
        checkpoint,
        root,
        out,
        split,
        patients=patients,
        policy=policy,
        target=target,
        alpha=alpha,
    )
    aim = point.policy if point.target is None else f"{point.policy} {point.target:g}"
    typer.echo(
        f"Temperature {calibration.temperature:.3f}\n"
        f"Threshold {point.threshold:.4g} ({aim}), sensitivity {point.sensitivity:.3f} and"
        f" specificity {point.specificity:.3f} on these images; new images give less\n"
        f"Uncertain from {abstention.lower:.4g} to {abstention.upper:.4g} (alpha"
        f" {abstention.alpha:g})\n"
        f"Wrote {out}, which also keeps the values it replaced"
    )
