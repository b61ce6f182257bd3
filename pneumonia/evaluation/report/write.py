"""A result in files: `metrics.json`, `predictions.csv`, `report.html`, `MODEL_CARD.md`."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.confidence import Estimate
from pneumonia.evaluation.evaluate import EvaluationResult
from pneumonia.evaluation.report.html import render_html
from pneumonia.evaluation.report.model_card import model_card
from pneumonia.files import atomic_write


def write_metrics(path: str | os.PathLike[str], metrics: Mapping[str, float | Estimate]) -> None:
    """Write metrics as JSON: `{"test/<metric>": ..., ...}`, sorted by key, whole or not at all.

    A plain number stays one; an `Estimate` becomes `{"value", "low", "high", "method"}`, with
    null for what is undefined, as its method says.

    Args:
        path: The file, by custom `metrics.json` in the run directory.
        metrics: Plain metric names (`recall`, `n`), each with a finite number, of which whole
            ones stay whole, or an `Estimate`.

    Raises:
        EvaluationError: If a plain number is NaN or infinite, which JSON cannot say.
    """
    estimates = {k: found.to_dict() for k, found in metrics.items() if isinstance(found, Estimate)}
    numbers = {
        name: np.asarray(value).item() for name, value in metrics.items() if name not in estimates
    }
    wrong = [f"{name} = {value}" for name, value in numbers.items() if not math.isfinite(value)]
    if wrong:
        raise EvaluationError(
            f"{path} was not written, for it holds finite numbers only and found "
            f"{', '.join(wrong)}; look for a diverged training or an empty split."
        )
    keyed = {f"test/{name}": value for name, value in (numbers | estimates).items()}
    with atomic_write(path) as file:
        file.write(json.dumps(keyed, indent=2, sort_keys=True) + "\n")


METRICS_FILE, PREDICTIONS, REPORT, CARD = (
    "metrics.json",
    "predictions.csv",
    "report.html",
    "MODEL_CARD.md",
)


def write_report(
    dossier: EvaluationResult,
    directory: str | os.PathLike[str],
    card: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write a result down, each file whole or not at all.

    `metrics.json` gains `test/loss`, which is `test/log_loss` under the name that training uses.

    Args:
        dossier: The result.
        directory: Where `metrics.json`, `predictions.csv` and `report.html` go; made if missing.
        card: Where the model card goes; None for none.

    Returns:
        The files written.

    Raises:
        EvaluationError: If a file cannot be written.
    """
    folder = Path(directory)
    files = [folder / METRICS_FILE, folder / PREDICTIONS, folder / REPORT]
    found = dossier.metrics
    try:
        dossier.table.write(files[1])
        write_metrics(files[0], {**found, "loss": found["log_loss"]})
        with atomic_write(files[2]) as file:
            file.write(render_html(dossier))
        if card is not None:
            files.append(Path(card))
            with atomic_write(card) as file:
                file.write(model_card(dossier))
    except OSError as error:
        raise EvaluationError(
            f"{error.filename or folder} cannot be written ({error.strerror}); choose another"
            " folder for the result."
        ) from error
    return files
