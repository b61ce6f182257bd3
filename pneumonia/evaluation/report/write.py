"""Write a result to `metrics.json`, `predictions.csv`, `report.html` and `MODEL_CARD.md`."""

import json
import os
from pathlib import Path

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.evaluate import EvaluationResult
from pneumonia.evaluation.report.html import render_html
from pneumonia.evaluation.report.model_card import model_card
from pneumonia.files import atomic_write

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"
REPORT_FILE = "report.html"
CARD = "MODEL_CARD.md"


def write_report(
    result: EvaluationResult,
    directory: str | os.PathLike[str],
    card: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write all files of a result, each of them atomically.

    `metrics.json` is `{"test/<name>": {"value", "low", "high", "method"}}` with null for NaN. It
    also has `test/loss`, the name that training uses for `test/log_loss`.

    Args:
        result: The result.
        directory: Where `metrics.json`, `predictions.csv` and `report.html` go; created if missing.
        card: Where the model card goes; None for no model card.

    Returns:
        The files written.

    Raises:
        EvaluationError: If a file cannot be written.
    """
    folder = Path(directory)
    files = [folder / METRICS_FILE, folder / PREDICTIONS_FILE, folder / REPORT_FILE]
    metrics = {**result.metrics, "loss": result.metrics["log_loss"]}
    values = {f"test/{name}": estimate.to_dict() for name, estimate in metrics.items()}
    texts = {
        files[0]: json.dumps(values, indent=2, sort_keys=True) + "\n",
        files[2]: render_html(result),
    }
    if card is not None:
        files.append(Path(card))
        texts[files[3]] = model_card(result)
    try:
        result.table.write(files[1])
        for path, text in texts.items():
            with atomic_write(path) as file:
                file.write(text)
    except OSError as error:
        raise EvaluationError(
            f"{error.filename or folder} cannot be written ({error.strerror}). Choose another"
            " output folder."
        ) from error
    return files
