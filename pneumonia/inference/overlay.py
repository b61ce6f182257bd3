"""The picture of an explanation: the original, and the heat map over it."""

import textwrap
from pathlib import PurePath

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pneumonia.inference.prediction import Prediction

CAVEAT = (
    "A heat map is no evidence of reasoning: models of these X-rays answer as well with the lungs"
    " blacked out. Not a medical device."
)

_MAP = "inferno"  # rises in lightness, so that it reads without colours too
_OPACITY = 0.6
_WIDTH = 12.0
_TEXT = 1.5
"""Inches for the words above and below."""


def blend(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay a heat map over a grey image: the hotter, the more opaque.

    Args:
        image: uint8 [H, W].
        heat: float [H, W], 0 to 1, or NaN for none.

    Returns:
        uint8 [H, W, 3], red, green, blue.
    """
    strength = np.nan_to_num(heat)[..., None]
    colours = colormaps[_MAP](np.nan_to_num(heat))[..., :3] * 255
    opacity = _OPACITY * strength
    return np.asarray(image[..., None] * (1 - opacity) + colours * opacity).astype(np.uint8)


def draw(prediction: Prediction, image: NDArray[np.uint8], heat: NDArray[np.float32]) -> Figure:
    """Draw an explanation.

    Args:
        prediction: What the model says.
        image: uint8 [H, W].
        heat: float [H, W], 0 to 1, or NaN where the model saw nothing.
    """
    height = np.clip(_WIDTH / 2.3 * image.shape[0] / image.shape[1], 2.5, 9.0)
    figure = Figure((_WIDTH, float(height) + _TEXT), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.set_axis_off()
    left.imshow(image, cmap="gray", vmin=0, vmax=255)
    left.set_title("As read", fontsize=10)
    right.imshow(blend(image, heat))
    right.set_title(f"Evidence for {prediction.decision} (Grad-CAM)", fontsize=10)
    scale = figure.colorbar(
        ScalarMappable(Normalize(0, 1), _MAP), ax=right, fraction=0.045, pad=0.02, ticks=[0, 0.5, 1]
    )
    scale.set_label("share of the strongest place in this image", fontsize=9)
    figure.suptitle(_headline(prediction), fontsize=12, parse_math=False)
    notes = [*_notes(heat), CAVEAT]
    figure.supxlabel("\n".join(textwrap.fill(note, 150) for note in notes), fontsize=9)
    return figure


def _headline(prediction: Prediction) -> str:
    name = PurePath(prediction.path).name.encode(errors="replace").decode()
    shown = "".join(c if c.isprintable() else "?" for c in name)
    shown = shown if len(shown) <= 70 else f"{shown[:34]}…{shown[-34:]}"  # noqa: PLR2004 - fits
    answer = f"probability of PNEUMONIA {prediction.probability:.3f}, called {prediction.decision}"
    doubts = [
        *(["UNLIKE THE TRAINING DATA: do not use"] if prediction.unlike else []),
        *(["uncertain"] if prediction.uncertain else []),
        *prediction.warnings,
    ]
    return "\n".join([shown, answer, *(["; ".join(doubts)] if doubts else [])])


def _notes(heat: NDArray[np.float32]) -> list[str]:
    notes = []
    if np.isnan(heat).any():
        notes.append("The model crops: it saw nothing of what lies beyond the middle square.")
    if not np.nan_to_num(heat).any():
        notes.append("No place in the image speaks for this decision, so nothing is marked.")
    return notes
