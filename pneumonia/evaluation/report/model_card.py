"""The model card, generated from a checkpoint and its test.

Headings after Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from pathlib import Path
from typing import Any

import jinja2

from pneumonia.evaluation.evaluate import AT_HALF, EvaluationResult
from pneumonia.evaluation.metrics import METRICS
from pneumonia.evaluation.report import wording
from pneumonia.evaluation.report.html import metadata_sections, split_counts

_TEMPLATE = "MODEL_CARD.md.jinja"
_ESCAPES = str.maketrans(
    {sign: f"\\{sign}" for sign in "\\`*_[]#"} | {sign: f"&#{ord(sign)};" for sign in "&<>|"}
)


def model_card(result: EvaluationResult) -> str:
    """Generate the model card.

    Returns:
        Markdown; every value is escaped.
    """
    model = result.model
    environment = jinja2.Environment(  # noqa: S701 - Markdown: `_escape` escapes every value
        finalize=_escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    source = Path(__file__).with_name(_TEMPLATE).read_text(encoding="utf-8")
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
