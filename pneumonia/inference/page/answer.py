"""An answer for a person to read: HTML, with everything that came from outside escaped."""

import base64
import io
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray
from PIL import Image

from pneumonia.evaluation.abstention import Abstention
from pneumonia.inference.batch_predict import as_csv, as_row
from pneumonia.inference.page.percent import percentages
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.saliency import CAVEAT
from pneumonia.inference.types import FailedPrediction, Prediction

_TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""
{% if csv %}
<div class="pn-summary"><p>{{ summary }}</p>
<a class="pn-csv" download="predictions.csv" href="{{ csv }}">Download the figures (CSV)</a></div>
{% endif %}
{% for a in answers %}
<article class="pn-card {{ a.kind }}">
<p class="pn-name">{{ a.name }}</p>
{% if a.error %}
<p class="pn-verdict">Could not be read</p>
<p>{{ a.error }}</p>
{% else %}
<p class="pn-verdict">{{ a.verdict }}</p>
{% if a.lead %}<p class="pn-lead">{{ a.lead }}</p>{% endif %}
{% if a.unlike %}
<details><summary>What the model says all the same</summary>
{% endif %}
<p>{{ a.sentence }}</p>
<div class="pn-scale" role="img" aria-label="{{ a.label }}">
<div class="pn-bar">
<div class="pn-fill" style="width:{{ a.width }}%"></div>
{% if band %}
<div class="pn-band" style="left:{{ band.left }}%;width:{{ band.width }}%"></div>
{% endif %}
</div>
<div class="pn-tick" style="left:{{ tick }}%"></div>
<div class="pn-dot" style="left:{{ a.width }}%"></div>
</div>
<div class="pn-legend"><span>0%</span>
<span class="{{ 'pn-before' if tick > 50 else 'pn-after' }}" style="{{ legend }}">
PNEUMONIA from {{ a.threshold }}</span><span>100%</span></div>
{% if band %}<p class="pn-quiet"><i class="pn-key"></i>undecided: {{ a.band }}</p>{% endif %}
{% if a.unlike %}</details>{% endif %}
{% for warning in a.warnings %}<p class="pn-warning">Image quality: {{ warning }}.</p>{% endfor %}
<div class="pn-pictures">
<figure><img src="{{ a.image }}" alt="the X-ray as read"><figcaption>As read</figcaption>
</figure>
{% if a.heat %}
<figure><img src="{{ a.heat }}" alt="heat map of the evidence over the X-ray"><figcaption>
<span class="pn-ramp"><span>none</span><i></i><span>strongest in this image</span></span>
Where the evidence for {{ a.decision }} lies. {{ caveat }}</figcaption></figure>
{% endif %}
</div>
{% if no_heat and not a.unlike %}<p class="pn-quiet">{{ no_heat }}</p>{% endif %}
{% endif %}
</article>
{% endfor %}
""")


def render(
    predictor: Predictor,
    results: Sequence[Prediction | FailedPrediction],
    pictures: Sequence[NDArray[np.uint8] | None],
    heats: Sequence[NDArray[np.uint8] | None],
    model: str,
    no_heat: str = "",
) -> str:
    """Write answers as HTML that asks nothing of any server.

    Args:
        predictor: The model.
        results: One for each image.
        pictures: The originals, grey uint8 [H, W]; None for what could not be read.
        heats: The heat maps over them, uint8 [H, W, 3]; None where there is none.
        model: Digest of the model file, for the table.
        no_heat: Why there is no heat map, in words.
    """
    threshold, band = predictor.operating_point.threshold, _band(predictor)
    tick = 100 * min(max(threshold, 0.0), 1.0)
    answers = [
        _answer(result, picture, heat, threshold, band)
        for result, picture, heat in zip(results, pictures, heats, strict=True)
    ]
    return _TEMPLATE.render(
        answers=answers,
        summary=_summary([str(answer["brief"]) for answer in answers]),
        band=band and {"left": 100 * band.lower, "width": 100 * (min(band.upper, 1) - band.lower)},
        tick=tick,
        legend=f"right:{100 - tick}%" if tick > 50 else f"left:{tick}%",  # noqa: PLR2004 - middle
        caveat=CAVEAT,
        no_heat=no_heat,
        csv=_table(results, model) if results else "",
    )


def _band(predictor: Predictor) -> Abstention | None:
    band = predictor.classifier.band
    return band if band is not None and band.upper > band.lower else None


def _answer(
    result: Prediction | FailedPrediction,
    picture: NDArray[np.uint8] | None,
    heat: NDArray[np.uint8] | None,
    threshold: float,
    band: Abstention | None,
) -> dict[str, Any]:
    name = _name(result)
    if isinstance(result, FailedPrediction):
        error = result.error.replace(result.path, name)
        return {"name": name, "error": error, "brief": "not readable"}
    shown = percentages(result.probability, threshold, band)
    kind = "pn-ill" if result.decision == "PNEUMONIA" else "pn-well"
    verdict, lead, brief = result.decision, "", result.decision
    if result.uncertain:
        kind, verdict, brief = "pn-open", "Undecided", "undecided"
        lead = (
            f"It leans to {result.decision}, too little to rely on: a person should read this"
            " image."
        )
    if result.unlike:
        kind, verdict, brief = "pn-none", "No answer", "without an answer"
        lead = (
            "This image is unlike those that the model was trained on, so what it says of it means"
            " nothing."
        )
    return {
        "name": name,
        "kind": kind,
        "verdict": verdict,
        "brief": brief,
        "lead": lead,
        "unlike": result.unlike,
        "decision": result.decision,
        "sentence": (
            f"The model gives pneumonia a probability of {shown['probability']}. It calls"
            f" PNEUMONIA from {shown['threshold']} up."
        ),
        "label": (
            f"Probability of pneumonia {shown['probability']}, on a scale on which PNEUMONIA"
            f" begins at {shown['threshold']}"
        ),
        "threshold": shown["threshold"],
        "band": _between(shown, band) if band else "",
        "width": 100 * result.probability,
        "warnings": result.warnings,
        "image": _inline(picture),
        "heat": "" if result.unlike else _inline(heat),
    }


def _between(shown: dict[str, str], band: Abstention) -> str:
    if band.lower <= 0:
        return "all of it" if band.upper > 1 else f"below {shown['upper']}"
    if band.upper > 1:
        return f"{shown['lower']} and more"
    return f"from {shown['lower']} to below {shown['upper']}"


def _summary(briefs: Sequence[str]) -> str:
    counts = ", ".join(f"{briefs.count(brief)} {brief}" for brief in dict.fromkeys(briefs))
    return f"{len(briefs)} image{'s' if len(briefs) > 1 else ''}: {counts}"


def _table(results: Sequence[Prediction | FailedPrediction], model: str) -> str:
    rows = [as_csv()]
    for result in results:
        row = as_row(result, model)
        rows.append(as_csv({key: _harmless(value) for key, value in row.items()}))
    encoded = base64.b64encode("".join(rows).encode("utf-8", "replace")).decode()
    return f"data:text/csv;charset=utf-8;base64,{encoded}"


def _harmless(value: Any) -> Any:
    """Keep a spreadsheet from taking a file's name for a formula."""
    text = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if text else value


def _name(result: Prediction | FailedPrediction) -> str:
    return PurePath(result.path).name.encode(errors="replace").decode()


def _inline(picture: NDArray[np.uint8] | None) -> str:
    if picture is None:
        return ""
    image = Image.fromarray(picture)
    image.thumbnail((640, 640))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
