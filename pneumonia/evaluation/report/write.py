"""Write a result to `metrics.json`, `predictions.csv`, `report.html` and `MODEL_CARD.md`."""

import json
import os
from pathlib import Path
from typing import Any

import jinja2

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.evaluate import AT_HALF, EvaluationResult
from pneumonia.evaluation.metrics import METRICS
from pneumonia.evaluation.report import wording
from pneumonia.evaluation.report.html import metadata_sections, render_html, split_counts
from pneumonia.files import atomic_write

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"
REPORT_FILE = "report.html"
CARD = "MODEL_CARD.md"

_ESCAPES = str.maketrans(
    {sign: f"\\{sign}" for sign in "\\`*_[]#"} | {sign: f"&#{ord(sign)};" for sign in "&<>|"}
)


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
        directory: For all files but the model card; created if missing.
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


def model_card(result: EvaluationResult) -> str:
    """Generate the model card of a checkpoint as Markdown, in which every value is escaped.

    Headings after Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
    """
    model = result.model
    environment = jinja2.Environment(  # noqa: S701 - Markdown: `_escape` escapes every value
        finalize=_escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    source = Path(__file__).with_name("MODEL_CARD.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        result=result,
        model=model,
        metrics=result.metrics,
        point=model.operating_point,
        registry=METRICS,
        half=AT_HALF,
        wording=wording,
        estimate=wording.format_estimate,
        degenerate=wording.degenerate(result.confusion),
        side=model.lookup("model", "image_size") or "?",
        splits=split_counts(result),
        sections=metadata_sections(result),
        limits=(*model.warnings, *result.notes, *wording.limits(model)),
    )


def _escape(value: Any) -> str:
    """Keep text on one line and in its cell, without markup of its own."""
    return " ".join(str(value).split()).translate(_ESCAPES)
