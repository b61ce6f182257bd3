"""The images a model is most wrong about, with their names."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import metrics
from pneumonia.evaluation.figures import canvas
from pneumonia.evaluation.inputs import check_labels, check_scores

LIMIT = 8
_COLUMNS = 4
_LINE = 30
"""Characters that fit beneath one image."""


def worst(labels: ArrayLike, logits: ArrayLike, threshold: float = 0.5) -> NDArray[np.intp]:
    """Find the images called the wrong class, the surest errors first, then the closest calls.

    Args:
        labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
        logits: Shape (n,), finite.
        threshold: In [0, 1]; PNEUMONIA means sigmoid(logit) >= threshold.

    Returns:
        Shape (min(n, `LIMIT`),): indices; errors come first, each part by falling log loss.

    Raises:
        EvaluationError: If the labels are not of both classes, a logit is not finite or the
            threshold lies outside [0, 1].
    """
    truth = check_labels(labels)
    ranked = check_scores(logits, truth.size, "logits")
    wrong = metrics.called_pneumonia(metrics.sigmoid(ranked), threshold) != truth
    support = np.where(truth, ranked, -ranked)  # log loss falls with it, and never saturates
    surest_first: NDArray[np.intp] = np.lexsort((support, ~wrong))
    return surest_first[:LIMIT]


def grid(images: Sequence[NDArray[np.uint8]], captions: Sequence[str], title: str) -> Figure:
    """Draw images in a grid, each above its caption.

    Args:
        images: 1 to `LIMIT` images, each grey of shape (height, width) or coloured of shape
            (height, width, 3), uint8, 0..255.
        captions: One for each, lines separated by newlines: file name, label, probability. Lines
            too long for the grid are shortened in the middle.
        title: What the images are.

    Returns:
        The figure.

    Raises:
        EvaluationError: If there are too many images, not one caption for each, or an image is
            not uint8.
    """
    if len(images) != len(captions) or not 0 < len(images) <= LIMIT:
        raise EvaluationError(
            f"Found {len(images)} images and {len(captions)} captions; give 1 to {LIMIT} images, "
            "and one caption for each."
        )
    for number, image in enumerate(images):
        known = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)  # noqa: PLR2004 - colours
        if not known or image.dtype != np.uint8 or image.size == 0:
            raise EvaluationError(
                f"Image {number} has shape {image.shape} and type {image.dtype}; give images "
                "of shape (height, width) or (height, width, 3) and type uint8."
            )
    rows = -(-len(images) // _COLUMNS)
    figure = canvas((10.0, 0.5 + 0.25 * title.count("\n") + 3.2 * rows))
    figure.suptitle(title)
    panels = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, image, caption in zip(panels.flat, images, captions, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        lines = [_shorten(line) for line in caption.splitlines()]
        axes.text(
            0.5,
            -0.03,
            "\n".join(lines),
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=8,
            parse_math=False,
        )
    return figure


def _shorten(line: str) -> str:
    """Cut the middle out of a long line: both ends of a file name tell images apart."""
    line = line.encode(errors="replace").decode()  # matplotlib dies of undecodable file names
    if len(line) <= _LINE:
        return line
    half = (_LINE - 1) // 2
    return f"{line[:half]}…{line[-half:]}"
