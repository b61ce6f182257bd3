"""The page and the heat maps of `pneumonia serve`."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader
from PIL import Image

from pneumonia.inference.predictor import Predictor

if TYPE_CHECKING:
    from pneumonia.inference.saliency import Explanation

PAGE_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src blob: data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: a browser loads nothing from elsewhere."""

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_page(predictor: Predictor, name: str, max_files: int, nonce: str) -> str:
    """Render the page.

    Args:
        predictor: The model.
        name: Name of the checkpoint.
        max_files: Files that can be dropped at once.
        nonce: Of `PAGE_POLICY`.
    """
    settings = predictor.checkpoint.get("hyper_parameters", {})
    return _TEMPLATES.get_template("page.html.jinja").render(
        name=name,
        backbone=settings.get("backbone", "unknown"),
        point=predictor.operating_point,
        max_files=max_files,
        nonce=nonce,
    )


def heat_map_png(explanation: "Explanation") -> str:
    """Draw the heat map over its image.

    Args:
        explanation: Of one image.

    Returns:
        A PNG, base64.
    """
    from pneumonia.inference.saliency import overlay_heat_map  # noqa: PLC0415 - imports torch

    file = io.BytesIO()
    Image.fromarray(overlay_heat_map(explanation.image, explanation.heat)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
