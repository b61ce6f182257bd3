"""`pneumonia calibrate`: a checkpoint moved to a site."""
# ruff: noqa: PLC0415  see the package

from pathlib import Path
from typing import Annotated

import typer

from pneumonia.commands.options import Patients


def calibrate_command(
    checkpoint: Annotated[Path, typer.Option(help="Model to start from (.ckpt); is not changed.")],
    root: Annotated[Path, typer.Option("--data", help="The site's own images, labelled.")],
    out: Annotated[Path, typer.Option(help="Model to write (.ckpt).")],
    split: Annotated[
        str | None, typer.Option(help="Use only this split: train, val or test.")
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(
            help="Share of pneumonia among those the site X-rays, if its labelled images have"
            " another."
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="sensitivity, specificity, youden, cost or fixed; by default the model's."
        ),
    ] = None,
    target: Annotated[float | None, typer.Option(help="Of the policy, such as 0.95.")] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Share of a class's patients that may be called confidently wrong; by default the"
            " model's."
        ),
    ] = None,
    patients: Patients = None,
) -> None:
    """Refit temperature, threshold and band on a site's own labelled images."""
    from pneumonia.evaluation.report.wording import (
        abstention_guarantee,
        uncertain_range,
        validation_size,
    )
    from pneumonia.inference.recalibrate import recalibrate_checkpoint

    calibration, point, band = recalibrate_checkpoint(
        checkpoint,
        root,
        out,
        split,
        patients=patients,
        policy=policy,
        target=target,
        prevalence=prevalence,
        alpha=alpha,
    )
    moved = f", offset {calibration.offset:+.3f}" if calibration.offset else ""
    typer.echo(
        f"Temperature {calibration.temperature:.3f}{moved}; PNEUMONIA from probability"
        f" {point.threshold:.4g} up ({point.policy}"
        + (f" {point.target:g}" if point.target is not None else "")
        + f").\nThere {validation_size(point)} give sensitivity"
        f" {point.sensitivity:.3f} and specificity {point.specificity:.3f}:"
        " an optimistic estimate, from the images that chose the threshold.\n"
        f"{uncertain_range(band)} {abstention_guarantee(band, 'site')}\n"
        f"Wrote {out}; what it replaced is kept in it."
    )
