"""The picture of an explanation: the original, and the heat map over it."""

import textwrap
from pathlib import PurePath

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pneumonia.inference.caveat import CAVEAT
from pneumonia.inference.prediction import Prediction

_MAP = "inferno"  # rises in lightness, so that it reads without colours too
_OPACITY = 0.6
_WIDTH = 12.0
_LINE, _ROOM = 0.22, 0.7
"""Inches for each line of words above and below, and for the titles and the space between."""
_ABOVE, _BELOW = 110, 150
"""Characters that fit beside each other there."""


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


def draw(
    prediction: Prediction, image: NDArray[np.uint8], heat: NDArray[np.float32], method: str
) -> Figure:
    """Draw an explanation.

    Args:
        prediction: What the model says.
        image: uint8 [H, W].
        heat: float [H, W], 0 to 1, or NaN where the model saw nothing.
        method: How the heat was found, in words.
    """
    above, below = _headline(prediction), _notes(heat)
    height = float(np.clip(_WIDTH / 2.3 * image.shape[0] / image.shape[1], 2.5, 9.0))
    words = _ROOM + _LINE * (len(above) + len(below))
    figure = Figure((_WIDTH, height + words), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.set_axis_off()
    left.imshow(image, cmap="gray", vmin=0, vmax=255)
    left.set_title("As read", fontsize=10)
    right.imshow(blend(image, heat))
    right.set_title(f"Evidence for {prediction.decision} ({method})", fontsize=10)
    _scale(right)
    figure.suptitle("\n".join(above), fontsize=12, parse_math=False)
    figure.supxlabel("\n".join(below), fontsize=9)
    return figure


def _scale(beside: Axes) -> None:
    """Show what a value looks like in the picture, where that is black to where it is white."""
    bar = beside.inset_axes((1.03, 0.0, 0.06, 1.0))
    grey = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    value = np.linspace(0, 1, 256, dtype=np.float32)[:, None].repeat(256, 1)
    bar.imshow(blend(grey, value), origin="lower", extent=(0, 1, 0, 1), aspect="auto")
    bar.set_xticks([0, 1], ["over\nblack", "over\nwhite"], fontsize=7)
    bar.set_yticks([0, 0.5, 1])
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    bar.set_ylabel("share of the strongest place in this image", fontsize=9)


def _headline(prediction: Prediction) -> list[str]:
    name = PurePath(prediction.path).name.encode(errors="replace").decode()
    shown = "".join(c if c.isprintable() else "?" for c in name)
    shown = shown if len(shown) <= 70 else f"{shown[:34]}…{shown[-34:]}"  # noqa: PLR2004 - fits
    doubts = [*(["uncertain"] if prediction.uncertain else []), *prediction.warnings]
    return [
        shown,
        f"probability of PNEUMONIA {prediction.probability:.3f}, called {prediction.decision}",
        *(["UNLIKE THE TRAINING DATA: do not use"] if prediction.unlike else []),
        *textwrap.wrap("; ".join(doubts), _ABOVE),
    ]


def _notes(heat: NDArray[np.float32]) -> list[str]:
    notes = []
    if np.isnan(heat).any():
        notes.append("The model crops: it saw nothing of what lies beyond the middle square.")
    if not np.nan_to_num(heat).any():
        notes.append("No place in the image speaks for this decision, so nothing is marked.")
    notes += [CAVEAT, "Not a medical device."]
    return [line for note in notes for line in textwrap.wrap(note, _BELOW)]
