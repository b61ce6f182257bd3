"""The report: one self-contained HTML file."""

import base64
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pneumonia.evaluation import plots
from pneumonia.evaluation.confidence import Estimate
from pneumonia.evaluation.evaluate import AT_HALF, EvaluationResult
from pneumonia.evaluation.metrics import METRICS, PREVALENCE_METRICS, metric_values
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.report import wording
from pneumonia.labels import CLASSES, PNEUMONIA, UNKNOWN_SUBTYPE

ERRORS_SHOWN = 6
"""False negatives, and false positives, in the gallery."""

_THUMBNAIL = 200
_COUNT = "/n_positive"


def render_html(result: EvaluationResult) -> str:
    """Render the report as HTML that refers to no other file, all values escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["estimate"] = _estimate
    source = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(_context(result))


def _context(result: EvaluationResult) -> dict[str, Any]:
    model, table, counts = result.model, result.table, result.confusion
    labels, probabilities = table.label, table.probability
    logits = table.logit if model.calibration is not None else None
    return {
        "result": result,
        "model": model,
        "warnings": (*model.warnings, *result.notes),
        "metrics": result.metrics,
        "registry": METRICS,
        "half": AT_HALF,
        "confusion": counts,
        "wording": wording,
        "validation": wording.validation_estimate(result),
        "roc": _svg(plots.plot_roc(labels, table.scores, counts)),
        "precision_recall": _svg(plots.plot_precision_recall(labels, table.scores, counts)),
        "reliability": _svg(plots.plot_reliability(labels, probabilities, logits)),
        "decision_curve": _svg(plots.plot_decision_curve(result.decision_curve, result.threshold)),
        "histogram": _svg(
            plots.plot_histogram(labels, probabilities, result.threshold, result.abstention)
        ),
        "uncalibrated": _uncalibrated_metrics(result),
        "subtypes": [name[: -len(_COUNT)] for name in result.metrics if name.endswith(_COUNT)],
        "prevalence_metrics": PREVALENCE_METRICS,
        "errors": _errors(result),
        "probes": [(probe, _data_url(probe.picture)) for probe in result.probes],
        "splits": split_counts(result),
        "sections": metadata_sections(result),
        "config": model.lookup("training", "config"),
        "history": [json.dumps(entry, indent=1, default=str) for entry in model.history],
    }


def split_counts(result: EvaluationResult) -> list[dict[str, str]]:
    """Count images and patients of each split by column name, the tested images last."""
    splits = result.model.lookup("data", "splits") or {}
    rows = [
        {"split": str(name), **{str(k): str(v) for k, v in counts.items()}}
        for name, counts in splits.items()
        if name != "test"
    ]
    table = result.table
    tested = {"split": "tested here", "images": str(len(table))}
    if table.patient is not None:
        tested["patients"] = str(np.unique(table.patient).size)
    for label, name in enumerate(CLASSES):
        tested[name] = str(int((table.label == label).sum()))
    if table.subtype is not None:
        subtypes = Counter(table.subtype[table.label == PNEUMONIA].tolist())
        tested |= {subtype: str(n) for subtype, n in subtypes.items() if subtype}
    return [*rows, tested]


def metadata_sections(result: EvaluationResult) -> list[tuple[str, list[tuple[str, str]]]]:
    """Collect by title the recorded names and values of data, split, model and training."""
    data, split, model, training = (
        result.model.lookup(name) or {} for name in ("data", "split", "model", "training")
    )
    sections = {
        "Data": {k: v for k, v in data.items() if not isinstance(v, dict)},
        "Validation split": split,
        "Model": model,
        "Training": {k: v for k, v in training.items() if k not in {"config", "versions"}},
        "Versions": training.get("versions", {}),
    }
    return [
        (title, [_readable(*item) for item in found.items()]) for title, found in sections.items()
    ]


def _readable(name: str, value: Any) -> tuple[str, str]:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return str(name).replace("_", " "), "not set" if value is None else text


def _uncalibrated_metrics(result: EvaluationResult) -> dict[str, float]:
    """The calibration metrics of the raw logits, by name."""
    if result.model.calibration is None or result.table.logit is None:
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
