"""An answer for a person to read: HTML, with everything that came from outside escaped."""

import base64
import io
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray
from PIL import Image

from pneumonia.inference.caveat import CAVEAT
from pneumonia.inference.prediction import Failure, Prediction
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.rows import as_csv, as_row

_TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""
{% for a in answers %}
<article class="pn-card">
<p class="pn-name">{{ a.name }}</p>
{% if a.error %}
<p class="pn-verdict pn-none">Could not be read</p>
<p>{{ a.error }}</p>
{% else %}
<p class="pn-verdict {{ a.kind }}">{{ a.verdict }}</p>
{% if a.unlike %}
<p>This image is unlike those the model was trained on, so what it says of it means nothing.</p>
<details><summary>What it says all the same</summary>
{% endif %}
<p>The model gives pneumonia a probability of <strong>{{ a.percent }}</strong>. It calls PNEUMONIA
from {{ threshold }} up
{%- if band %}, and leaves {{ band.low }} to {{ band.high }} undecided{% endif %}.</p>
<div class="pn-bar" role="img" aria-label="probability {{ a.percent }}, threshold {{ threshold }}">
<div class="pn-fill {{ a.kind }}" style="width:{{ a.width }}%"></div>
{% if band %}
<div class="pn-band" style="left:{{ band.left }}%;width:{{ band.width }}%"></div>
{% endif %}
<div class="pn-tick" style="left:{{ tick }}%"></div>
</div>
<div class="pn-scale"><span>0%</span><span>PNEUMONIA from {{ threshold }}</span>
<span>100%</span></div>
{% if a.unlike %}</details>{% endif %}
{% for warning in a.warnings %}<p class="pn-warning">The image: {{ warning }}.</p>{% endfor %}
<div class="pn-pictures">
<figure><img src="{{ a.image }}" alt="the X-ray as read"><figcaption>As read</figcaption></figure>
{% if a.heat %}
<figure><img src="{{ a.heat }}" alt="heat map"><figcaption>Where its evidence for {{ a.decision }}
lies (brightest = strongest in this image). {{ caveat }}</figcaption></figure>
{% elif no_heat %}
<p class="pn-quiet">{{ no_heat }}</p>
{% endif %}
</div>
{% endif %}
</article>
{% endfor %}
{% if csv %}<p><a class="pn-csv" download="predictions.csv" href="{{ csv }}">Take the figures along
(predictions.csv)</a></p>{% endif %}
""")

STYLE = """
.pn-card {border:1px solid #8888; border-radius:8px; padding:12px 16px; margin:0 0 14px}
.pn-card p {margin:4px 0}
.pn-name {font-size:.9em; opacity:.75; overflow-wrap:anywhere}
.pn-verdict {font-size:1.5em; font-weight:700}
.pn-bar {position:relative; height:20px; background:#8883; border-radius:4px; margin:8px 0 2px}
.pn-fill {height:100%; border-radius:4px; background:#0072b2}
.pn-fill.pn-ill {background:#d55e00}
.pn-fill.pn-none {background:#888}
.pn-band {position:absolute; top:0; height:100%; background:repeating-linear-gradient(
  45deg,#0006,#0006 3px,#fff6 3px,#fff6 6px)}
.pn-tick {position:absolute; top:-4px; height:28px; width:3px; margin-left:-1px;
  background:currentColor}
.pn-scale {display:flex; justify-content:space-between; font-size:.8em; opacity:.8}
.pn-warning {font-weight:600}
.pn-pictures {display:flex; flex-wrap:wrap; gap:12px; margin-top:10px}
.pn-pictures figure {flex:1 1 260px; max-width:460px; margin:0}
.pn-pictures img {width:100%; height:auto; border-radius:4px}
.pn-pictures figcaption, .pn-quiet {font-size:.85em; opacity:.85}
.pn-device {border-left:4px solid #d55e00; padding:4px 10px}
"""
"""Of the classes that the answers use; they take their text colour from the page, light or dark."""


def render(
    predictor: Predictor,
    results: Sequence[Prediction | Failure],
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
    point, band = predictor.operating_point, predictor.classifier.band
    shown = None
    if band is not None and band.upper > band.lower:
        shown = {
            "low": _percent(band.lower),
            "high": _percent(min(band.upper, 1.0)),
            "left": 100 * band.lower,
            "width": 100 * (min(band.upper, 1.0) - band.lower),
        }
    answers = [
        _answer(result, picture, heat)
        for result, picture, heat in zip(results, pictures, heats, strict=True)
    ]
    table = as_csv() + "".join(as_csv(as_row(result, model)) for result in results)
    encoded = base64.b64encode(table.encode("utf-8", "surrogateescape")).decode()
    return _TEMPLATE.render(
        answers=answers,
        band=shown,
        threshold=_percent(point.threshold),
        tick=100 * point.threshold,
        caveat=CAVEAT,
        no_heat=no_heat,
        csv=f"data:text/csv;base64,{encoded}" if results else "",
    )


def _answer(
    result: Prediction | Failure,
    picture: NDArray[np.uint8] | None,
    heat: NDArray[np.uint8] | None,
) -> dict[str, object]:
    name = PurePath(result.path).name.encode(errors="replace").decode()
    if isinstance(result, Failure):
        return {"name": name, "error": result.error.replace(result.path, name)}
    verdict, kind = result.decision, "pn-ill" if result.decision == "PNEUMONIA" else "pn-well"
    if result.uncertain:
        verdict = f"Undecided (leans to {result.decision}): a person should read this image"
    if result.unlike:
        verdict, kind = "No answer", "pn-none"
    return {
        "name": name,
        "verdict": verdict,
        "kind": kind,
        "unlike": result.unlike,
        "decision": result.decision,
        "percent": _percent(result.probability),
        "width": 100 * result.probability,
        "warnings": result.warnings,
        "image": _inline(picture),
        "heat": "" if result.unlike else _inline(heat),
    }


def _percent(share: float) -> str:
    if 0 < share < 0.01:  # noqa: PLR2004 - it would read 0%
        return "less than 1%"
    if 0.99 < share < 1:  # noqa: PLR2004
        return "more than 99%"
    return f"{100 * share:.0f}%"


def _inline(picture: NDArray[np.uint8] | None) -> str:
    if picture is None:
        return ""
    image = Image.fromarray(picture)
    image.thumbnail((640, 640))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
