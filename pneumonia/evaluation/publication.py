"""A result in files: `metrics.json`, `predictions.csv`, `report.html`, `MODEL_CARD.md`."""

import os
from pathlib import Path

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.card import model_card
from pneumonia.evaluation.dossier import Dossier
from pneumonia.evaluation.report import report
from pneumonia.evaluation.result import write_metrics
from pneumonia.files import whole_file

METRICS, PREDICTIONS, REPORT, CARD = (
    "metrics.json",
    "predictions.csv",
    "report.html",
    "MODEL_CARD.md",
)


def publish(
    dossier: Dossier,
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
    files = [folder / METRICS, folder / PREDICTIONS, folder / REPORT]
    found = dossier.assessment.metrics
    try:
        dossier.cases.write(files[1])
        write_metrics(files[0], {**found, "loss": found["log_loss"]})
        with whole_file(files[2]) as file:
            file.write(report(dossier))
        if card is not None:
            files.append(Path(card))
            with whole_file(card) as file:
                file.write(model_card(dossier))
    except OSError as error:
        raise EvaluationError(
            f"{error.filename or folder} cannot be written ({error.strerror}); choose another"
            " folder for the result."
        ) from error
    return files
