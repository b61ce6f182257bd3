"""The report: one HTML file that needs nothing else."""

import base64
import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from pneumonia.evaluation import plots
from pneumonia.evaluation.confidence import Estimate
from pneumonia.evaluation.evaluate import EvaluationResult
from pneumonia.evaluation.metrics import PREVALENCE_METRICS, PREVALENCES, metric_values
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.report import wording
from pneumonia.evaluation.report.wording import counts, degenerate
from pneumonia.labels import CLASSES, PNEUMONIA, SUBTYPES

ERRORS_SHOWN = 6
"""Misses, and false alarms, in the gallery."""

_THUMBNAIL = 200
_TEMPLATE = "report.html.jinja"

AT_THRESHOLD = (
    ("sensitivity (recall)", "sensitivity"),
    ("specificity", "specificity"),
    ("PPV (precision)", "ppv"),
    ("NPV", "npv"),
    ("accuracy", "accuracy"),
    ("balanced accuracy", "balanced_accuracy"),
    ("F1", "f1"),
    ("MCC", "mcc"),
)
THRESHOLD_FREE = (
    ("AUROC", "auroc"),
    ("AUROC, Obuchowski", "auroc_obuchowski"),
    ("average precision", "average_precision"),
    ("Brier score", "brier"),
    ("log loss", "log_loss"),
    ("calibration error (ECE)", "ece"),
    ("calibration slope", "calibration_slope"),
    ("calibration intercept", "calibration_intercept"),
)

DECIDED = (
    ("coverage: images decided", "coverage"),
    ("coverage of PNEUMONIA", "coverage_positive"),
    ("coverage of NORMAL", "coverage_negative"),
    ("sensitivity among the decided", "decided/sensitivity"),
    ("specificity among the decided", "decided/specificity"),
    ("accuracy among the decided (1 - selective risk)", "decided/accuracy"),
)
PROMISED = (
    (
        "PNEUMONIA patients with an image confidently called NORMAL",
        "decided/false_negative_patients",
    ),
    (
        "NORMAL patients with an image confidently called PNEUMONIA",
        "decided/false_positive_patients",
    ),
)


def render_html(dossier: EvaluationResult) -> str:
    """Draw the report.

    Args:
        dossier: The result.

    Returns:
        HTML without a link to any other file; all text from outside is escaped.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = _figure
    source = Path(__file__).with_name(_TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(_content(dossier))


def _content(dossier: EvaluationResult) -> dict[str, Any]:
    subject, cases, found = dossier.model, dossier.table, dossier
    logits = cases.logit if subject.calibration is not None else None
    return {
        "subject": subject,
        "assessment": found,
        "confusion": found.confusion,
        "metrics": found.metrics,
        "notes": found.notes,
        "degenerate": degenerate(found.confusion),
        "verdict": wording.verdict(found, subject, dossier.threshold_origin),
        "origin": wording.threshold_origin(dossier.threshold_origin, subject.operating_point),
        "point": subject.operating_point
        if dossier.threshold_origin in {"validation", "site"}
        else None,
        "promise": wording.promise,
        "band": _band(dossier),
        "counts": counts(found.confusion),
        "at_threshold": AT_THRESHOLD,
        "threshold_free": THRESHOLD_FREE,
        "roc": _drawn(plots.roc_svg(cases, found)),
        "precision_recall": _drawn(plots.precision_recall_svg(cases, found)),
        "reliability": _drawn(plots.reliability_diagram(cases.label, cases.probability, logits)),
        "calibration": _calibration(dossier),
        "decision": _drawn(plots.decision_curve(found.decision_curve, found.threshold)),
        "subtypes": _subtypes(dossier),
        "prevalences": [
            (f"{p:.0%}", found.metrics[ppv.name], found.metrics[npv.name])
            for p, ppv, npv in zip(
                PREVALENCES, PREVALENCE_METRICS[::2], PREVALENCE_METRICS[1::2], strict=True
            )
        ],
        "of_hundred": wording.of_hundred,
        "errors": _errors(dossier),
        "pictures": dossier.load_image is not None and cases.path is not None,
        "probes": [(probe, _picture(probe.picture)) for probe in dossier.probes],
        "probe_meaning": wording.PROBE_MEANING,
        "cohort": cohort(dossier),
        "holdout": _plain(subject.section("holdout")),
        "fingerprints": _plain(
            {k: v for k, v in subject.section("data").items() if not isinstance(v, dict)}
        ),
        "model": _plain(subject.section("model")),
        "training": _plain(
            {
                k: v
                for k, v in subject.section("training").items()
                if k not in {"config", "versions"}
            }
        ),
        "versions": _plain(subject.section("training", "versions")),
        "config": subject.lookup("training", "config"),
        "history": [json.dumps(entry, indent=1, default=str) for entry in subject.history],
        "limits": wording.limits(subject),
        "attribution": wording.ATTRIBUTION,
        "not_a_device": wording.NOT_A_DEVICE,
        "claim": _claim(dossier),
        "claim_source": wording.SOURCE,
    }


def cohort(dossier: EvaluationResult) -> list[dict[str, str]]:
    """Count images and patients of each split, the tested one last.

    Args:
        dossier: The result.

    Returns:
        A row for each split: its name, and counts by the names of the columns.
    """
    rows = []
    for name, known in dossier.model.section("data", "splits").items():
        if isinstance(known, dict) and name != "test":
            title = "val, the hold-out" if name == "val" else str(name)
            rows.append({"split": title, **{str(k): str(v) for k, v in known.items()}})
    cases = dossier.table
    tested = {"split": "tested here", "images": str(len(cases))}
    if cases.patient is not None:
        tested["patients"] = str(np.unique(cases.patient).size)
    for label, name in enumerate(CLASSES):
        tested[name] = str(int((cases.label == label).sum()))
    if cases.subtype is not None:
        kinds = Counter(cases.subtype[cases.label == PNEUMONIA].tolist())
        tested |= {kind: str(n) for kind, n in kinds.items() if kind}
    return [*rows, tested]


def _calibration(dossier: EvaluationResult) -> list[tuple[str, str, str]]:
    """Give what calibration changed on the tested images: name, before, after."""
    calibration, cases = dossier.model.calibration, dossier.table
    if calibration is None or cases.logit is None:
        return []
    before = metric_values(PredictionTable(label=cases.label, logit=cases.logit), {})
    return [
        (name, f"{before[key]:.3f}", wording.figure(dossier.metrics[key]))
        for name, key in THRESHOLD_FREE
        if key in {"brier", "log_loss", "ece"}
    ]


def _band(dossier: EvaluationResult) -> dict[str, Any] | None:
    """Give what is said and drawn of a band of abstention."""
    band, found = dossier.abstention, dossier
    if band is None:
        return None
    return {
        "undecided": wording.undecided(band),
        "guarantee": wording.guarantee(band, dossier.threshold_origin),
        "promised": [(name, found.metrics[key]) for name, key in PROMISED],
        "decided": [(name, found.metrics[key]) for name, key in DECIDED],
        "drawn": _drawn(plots.undecided(dossier.table, found)),
    }


def _subtypes(dossier: EvaluationResult) -> list[tuple[str, int, Estimate, Estimate]]:
    found = dossier.metrics
    names = [name.removesuffix("/sensitivity") for name in found if name.endswith("/sensitivity")]
    return [
        (
            name,
            int(found[f"{name}/n_positive"].value),
            found[f"{name}/sensitivity"],
            found[f"{name}/auroc"],
        )
        for name in names
        if f"{name}/n_positive" in found
    ]


def _errors(dossier: EvaluationResult) -> list[dict[str, Any]]:
    """Choose the surest misses, and the surest false alarms, with their images."""
    cases, cut = dossier.table, dossier.threshold
    called = cases.probability >= cut
    truth = cases.label == PNEUMONIA
    shown = []
    for title, wrong, sign in (
        ("Missed pneumonias", truth & ~called, 1),
        ("False alarms", ~truth & called, -1),
    ):
        rows = np.flatnonzero(wrong)
        rows = rows[np.argsort(sign * cases.scores[rows], kind="stable")]
        entries = [_entry(dossier, int(row)) for row in rows[:ERRORS_SHOWN]]
        shown.append({"title": title, "all": rows.size, "entries": entries})
    return shown


def _entry(dossier: EvaluationResult, row: int) -> dict[str, Any]:
    cases = dossier.table
    path = None if cases.path is None else str(cases.path[row])
    picture = None if dossier.load_image is None or path is None else dossier.load_image(path)
    subtype = "" if cases.subtype is None else str(cases.subtype[row])
    return {
        "name": f"row {row + 1}" if path is None else Path(path).name,
        "picture": _picture(picture),
        "probability": _probability(float(cases.probability[row])),
        "kind": subtype if subtype not in {"", SUBTYPES[0]} else "",
        "patient": "" if cases.patient is None else str(cases.patient[row]),
    }


def _probability(value: float) -> str:
    if 0 < value < 0.001:  # noqa: PLR2004 - three digits would hide it
        return f"{value:.1g}"
    return "above 0.999" if value > 0.999 else f"{value:.3f}"  # noqa: PLR2004


def _claim(dossier: EvaluationResult) -> list[tuple[wording.Item, str]]:
    """Give each item of the checklist with what this very report has of it."""
    lacking = {
        "training": None if dossier.model.lookup("training") else "not recorded by this model",
        "probe": None if dossier.probes else "not run; evaluate with --probe",
    }
    return [(item, lacking.get(item.section or "") or item.remark) for item in wording.ITEMS]


def _plain(values: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, float) and math.isfinite(value):
            text = f"{value:.6g}"
        else:
            text = "not set" if value is None else str(value)
        rows.append((str(key).replace("_", " "), text))
    return rows


def _picture(pixels: NDArray[np.uint8] | None) -> str | None:
    """Make a small JPEG of grey pixels, as the address of an image."""
    if pixels is None:
        return None
    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX, reducing_gap=None)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _figure(estimate: Estimate) -> Markup:
    """Keep an interval on one line, below its number where both have no room."""
    number, bracket, interval = wording.figure(estimate).partition(" (")
    whole = Markup("{} <span class='interval'>({}</span>")
    return whole.format(number, interval) if bracket else Markup("{}").format(number)


def _drawn(figure: Any) -> Markup:
    return Markup(plots.svg(figure))  # noqa: S704 - drawn by matplotlib, which escapes
