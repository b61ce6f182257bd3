"""Write a result: `metrics.json`, `predictions.csv`, the HTML report and the model card."""

import base64
import io
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import plots
from pneumonia.evaluation.confidence import Estimate
from pneumonia.evaluation.evaluate import AT_HALF, EvaluationResult
from pneumonia.evaluation.metrics import METRICS, metric_values
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.report import wording
from pneumonia.files import atomic_write
from pneumonia.labels import CLASSES, PNEUMONIA, UNKNOWN_SUBTYPE

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"
REPORT_FILE = "report.html"
CARD = "MODEL_CARD.md"

ERRORS_SHOWN = 6
"""False negatives, and false positives, in the gallery."""

_THUMBNAIL = 200
_COUNT = "/n_positive"

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


def render_html(result: EvaluationResult) -> str:
    """Render the report as HTML that refers to no other file, all values escaped."""
    model, table, counts = result.model, result.table, result.confusion
    labels, probabilities = table.label, table.probability
    logits = table.logit if model.temperature is not None else None
    context = {
        "warnings": (*model.warnings, *result.notes),
        "confusion": counts,
        "validation": wording.validation_estimates(result),
        "roc": _svg(plots.plot_roc(labels, table.scores, counts)),
        "precision_recall": _svg(plots.plot_precision_recall(labels, table.scores, counts)),
        "reliability": _svg(plots.plot_reliability(labels, probabilities, logits)),
        "histogram": _svg(
            plots.plot_histogram(labels, probabilities, result.threshold, result.abstention)
        ),
        "uncalibrated": _uncalibrated_metrics(result),
        "subtypes": [name[: -len(_COUNT)] for name in result.metrics if name.endswith(_COUNT)],
        "errors": _errors(result),
        "probes": [(probe, _data_url(probe.picture)) for probe in result.probes],
        "config": model.lookup("training", "config"),
        "history": [json.dumps(entry, indent=1, default=str) for entry in model.history],
    }
    return _render("report.html.jinja", result, context, autoescape=True)


def model_card(result: EvaluationResult) -> str:
    """Generate the model card of a checkpoint as Markdown, in which every value is escaped.

    Headings after Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
    """
    model = result.model
    context = {
        "point": model.operating_point,
        "estimate": wording.format_estimate,
        "degenerate": wording.degenerate(result.confusion),
        "side": model.lookup("model", "image_size") or "?",
        "limits": (*model.warnings, *result.notes, *wording.limits(model)),
    }
    return _render(
        "MODEL_CARD.md.jinja", result, context, finalize=_escape, keep_trailing_newline=True
    )


def _render(
    template: str, result: EvaluationResult, context: dict[str, Any], **settings: Any
) -> str:
    environment = jinja2.Environment(  # noqa: S701 - the card is no HTML: `_escape` is for Markdown
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, **settings
    )
    environment.filters["estimate"] = _estimate
    source = Path(__file__).with_name(template).read_text(encoding="utf-8")
    shared = {
        "result": result,
        "model": result.model,
        "metrics": result.metrics,
        "registry": METRICS,
        "half": AT_HALF,
        "wording": wording,
        "splits": _split_counts(result),
        "sections": _metadata_sections(result),
    }
    return environment.from_string(source).render(shared | context)


def _escape(value: Any) -> str:
    """Keep text on one line and in its cell, without markup of its own."""
    return " ".join(str(value).split()).translate(_ESCAPES)


def _split_counts(result: EvaluationResult) -> list[dict[str, str]]:
    """Count images and patients of each split by column name, the tested images last."""
    splits = result.model.section("data", "splits")
    rows = [
        {"split": str(name), **{str(k): str(v) for k, v in counts.items()}}
        for name, counts in splits.items()
        if name != "test" and isinstance(counts, Mapping)
    ]
    table = result.table
    tested = {"split": "tested here", "images": str(len(table))}
    if table.patient is not None:
        tested["patients"] = str(table.n_patients)
    for label, name in enumerate(CLASSES):
        tested[name] = str(int((table.label == label).sum()))
    if table.subtype is not None:
        subtypes = Counter(table.subtype[table.label == PNEUMONIA].tolist())
        tested |= {subtype: str(n) for subtype, n in subtypes.items() if subtype}
    return [*rows, tested]


def _metadata_sections(result: EvaluationResult) -> list[tuple[str, list[tuple[str, str]]]]:
    """Collect by title the recorded names and values of data, split, model and training."""
    data, split, model, training = (
        result.model.section(name) for name in ("data", "split", "model", "training")
    )
    sections = {
        "Data": {k: v for k, v in data.items() if not isinstance(v, dict)},
        "Validation split": split,
        "Model": model,
        "Training": {k: v for k, v in training.items() if k not in {"config", "versions"}},
        "Versions": result.model.section("training", "versions"),
    }
    return [
        (title, [_readable(*item) for item in found.items()]) for title, found in sections.items()
    ]


def _readable(name: str, value: Any) -> tuple[str, str]:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return str(name).replace("_", " "), "not set" if value is None else text


def _uncalibrated_metrics(result: EvaluationResult) -> dict[str, float]:
    """The calibration metrics of the raw logits, by name."""
    if result.model.temperature is None or result.table.logit is None:
        return {}
    values = metric_values(replace(result.table, probability=sigmoid(result.table.logit)), {})
    return {name: values[name] for name in ("brier", "log_loss", "ece")}


def _errors(result: EvaluationResult) -> list[dict[str, Any]]:
    """Choose the most confident errors of each kind, with their images."""
    table = result.table
    predicted, truth = table.probability >= result.threshold, table.positive
    groups = []
    for title, wrong, sign in (
        ("False negatives (missed pneumonia)", truth & ~predicted, 1),
        ("False positives", ~truth & predicted, -1),
    ):
        rows = np.flatnonzero(wrong)
        rows = rows[np.argsort(sign * table.scores[rows], kind="stable")]
        entries = [_error(result, int(row)) for row in rows[:ERRORS_SHOWN]]
        groups.append({"title": title, "total": rows.size, "entries": entries})
    return groups


def _error(result: EvaluationResult, row: int) -> dict[str, Any]:
    table = result.table
    path = None if table.path is None else str(table.path[row])
    picture = None if result.load_image is None or path is None else result.load_image(path)
    subtype = "" if table.subtype is None else str(table.subtype[row])
    return {
        "name": f"row {row + 1}" if path is None else Path(path).name,
        "picture": _data_url(picture),
        "probability": f"{table.probability[row]:.3g}",
        "subtype": subtype if table.label[row] and subtype != UNKNOWN_SUBTYPE else "",
        "patient": "" if table.patient is None else str(table.patient[row]),
    }


def _data_url(pixels: NDArray[np.uint8] | None) -> str | None:
    """Encode grey pixels as a small JPEG in a data URL."""
    if pixels is None:
        return None
    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX, reducing_gap=None)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _estimate(estimate: Estimate) -> Markup:
    """Keep an interval on one line, below its number in a narrow column."""
    number, bracket, interval = wording.format_estimate(estimate).partition(" (")
    template = "{} <span class='interval'>({}</span>" if bracket else "{}"
    return Markup(template).format(number, interval)  # noqa: S704 - `format` escapes


def _svg(figure: Figure) -> Markup:
    return Markup(plots.to_svg(figure))  # noqa: S704 - drawn by matplotlib, which escapes
