"""The model card: what a checkpoint is, for whoever finds it. Generated, never hand-written.

Headings after Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from collections.abc import Iterable
from typing import Any

from pneumonia.evaluation.evaluate import EvaluationResult
from pneumonia.evaluation.report import wording
from pneumonia.evaluation.report.html import AT_THRESHOLD, THRESHOLD_FREE, cohort
from pneumonia.evaluation.report.wording import degenerate
from pneumonia.labels import CLASSES

_ESCAPES = str.maketrans(
    {sign: f"\\{sign}" for sign in "\\`*_[]#"} | {sign: f"&#{ord(sign)};" for sign in "&<>|"}
)


def model_card(dossier: EvaluationResult) -> str:
    """Write the card.

    Args:
        dossier: The model's test.

    Returns:
        Markdown; text from outside cannot break out of its place.
    """
    subject, found = dossier.model, dossier
    point, fact = subject.operating_point, subject.lookup
    side = fact("model", "image_size")
    broken = degenerate(found.confusion)
    lines = [
        f"# Model card: {_safe(subject.name)}",
        "",
        *([f"**{broken}**", ""] if broken else []),
        " ".join(wording.verdict(found, subject, dossier.threshold_origin)),
        "",
        "## Intended use",
        "",
        (
            f"{wording.NOT_A_DEVICE} For research on classifiers of chest X-rays: one frontal X-ray"
            f" of a child aged 1 to 5 in, a probability of {CLASSES[1]} out."
        ),
        "",
        "## Model",
        "",
        *_rows(
            [
                ("classes", " = 0, ".join(CLASSES) + " = 1"),
                ("input", f"one grey channel, {side} x {side} pixels" if side else "not recorded"),
                ("input range", "0 (black) to 255 (white), uint8; normalised inside the model"),
                ("output", "one logit"),
                *subject.section("model").items(),
            ]
        ),
        "## Operating point and calibration",
        "",
        (
            f"{CLASSES[1]} means probability >= {found.threshold:.6g}:"
            f" {wording.threshold_origin(dossier.threshold_origin, point)}."
        ),
        "",
        _calibration(dossier),
        "",
        *_promise(dossier),
        *_band(dossier),
        "## Test",
        "",
        f"On {_safe(subject.data)}: {wording.size(found)}.",
        "",
        f"95% intervals: {found.metrics['auroc'].method}.",
        "",
        f"| metric | at {found.threshold:.3g} | at 0.5 |",
        "|---|---|---|",
        *(
            f"| {name} | {wording.figure(found.metrics[key])} |"
            f" {wording.figure(found.metrics[f'at_0.5/{key}'])} |"
            for name, key in AT_THRESHOLD
        ),
        "",
        "| metric | without a threshold |",
        "|---|---|",
        *(f"| {name} | {wording.figure(found.metrics[key])} |" for name, key in THRESHOLD_FREE),
        "",
        *(f"- {note}" for note in found.notes),
        *([""] if found.notes else []),
        "## Data",
        "",
        *(
            "- " + ", ".join([f"**{_safe(row['split'])}**", *_counts(row)])
            for row in cohort(dossier)
        ),
        "",
        *_rows((k, v) for k, v in subject.section("data").items() if not isinstance(v, dict)),
        *_section("Hold-out", subject.section("holdout")),
        *_section(
            "Training",
            {
                k: v
                for k, v in subject.section("training").items()
                if k not in {"config", "versions"}
            },
        ),
        *_section("Versions", subject.section("training", "versions")),
        "## Limits",
        "",
        *(f"- {_safe(limit)}" for limit in wording.limits(subject)),
        "",
        wording.ATTRIBUTION,
        "",
    ]
    return "\n".join(lines)


def _calibration(dossier: EvaluationResult) -> str:
    calibration = dossier.model.calibration
    if calibration is None:
        return "No calibration is recorded: probabilities are the sigmoid of the raw logits."
    temperature, offset = calibration
    moved = f" {offset:+.6g}" if offset else ""
    return f"Probability = sigmoid(logit / {temperature:.6g}{moved})."


def _promise(dossier: EvaluationResult) -> list[str]:
    point = dossier.model.operating_point
    if point is None:
        return []
    return [
        (
            f"Promised there by {wording.promise(point)}: sensitivity {point.sensitivity:.3f},"
            f" specificity {point.specificity:.3f}. New images keep less."
        ),
        "",
    ]


def _band(dossier: EvaluationResult) -> list[str]:
    found = dossier
    if found.abstention is None:
        return []
    return [
        wording.abstention(found)
        + f" {wording.guarantee(found.abstention, dossier.threshold_origin)}",
        "",
    ]


def _counts(row: dict[str, str]) -> list[str]:
    return [f"{_safe(value)} {_safe(key)}" for key, value in row.items() if key != "split"]


def _section(title: str, values: dict[str, Any]) -> list[str]:
    return [f"## {title}", "", *(_rows(values.items()) if values else ["Not recorded.", ""])]


def _rows(values: Iterable[tuple[str, Any]]) -> list[str]:
    rows = [f"| {_safe(str(key).replace('_', ' '))} | {_safe(value)} |" for key, value in values]
    return ["| | |", "|---|---|", *rows, ""] if rows else []


def _safe(value: Any) -> str:
    """Keep text on one line and in its cell, without markup of its own."""
    return " ".join(str(value).split()).translate(_ESCAPES)
