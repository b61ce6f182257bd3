"""Heat maps of what a model answered, laid over the images they belong to."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.image import Preprocessing
from pneumonia.errors import ConfigError, ModelError
from pneumonia.inference.eager import Eager
from pneumonia.inference.overlay import draw
from pneumonia.inference.prediction import Failure, Prediction
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.reading import Source, called, decode, fit
from pneumonia.inference.saliency import Saliency
from pneumonia.labels import CLASSES

_SIDE = 1024
"""Pixels of the longer side of an explanation; more would show nothing more of the map."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in an image the evidence for the model's decision lies.

    Attributes:
        prediction: What the model says.
        image: The original, grey uint8 [H, W] in its own shape, at most 1024 a side.
        heat: float32 [H, W], 0 to 1: evidence for the decision made, as a share of the strongest
            place in this very image. All 0 if no place speaks for it; NaN where the model saw
            nothing, as it crops.
        method: How the heat was found, in words.
    """

    prediction: Prediction
    image: NDArray[np.uint8]
    heat: NDArray[np.float32]
    method: str

    def save(self, path: str | Path) -> None:
        """Draw the original beside the heat map, whole or not at all.

        Args:
            path: The picture, `.png`.

        Raises:
            ConfigError: If it cannot be written.
        """
        target = Path(path)
        partial = target.with_name(f".{os.getpid()}.partial")  # the name itself may be at its limit
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            figure = draw(self.prediction, self.image, self.heat, self.method)
            figure.savefig(partial, format="png", dpi=100)
            partial.replace(target)
        except OSError as error:
            raise ConfigError(
                f"{target} cannot be written ({error.strerror or error}); choose another folder."
            ) from error
        finally:
            partial.unlink(missing_ok=True)


def explain(
    predictor: Predictor, source: Source, prediction: Prediction | None = None
) -> Explanation:
    """Draw the heat map of one image; see `Predictor.explain`.

    Args:
        predictor: The model.
        source: The image.
        prediction: What the model says of it, if it was asked already.

    Raises:
        DataError: If the image cannot be read.
        ExtraError: If captum is not installed.
        ModelError: If the model cannot be explained.
    """
    saliency = _saliency(predictor)
    preprocessing = predictor.classifier.preprocessing
    whole = decode(source, called(source))
    seen = fit(whole, preprocessing, called(source))
    if prediction is None:
        (prediction,) = predictor.judge([seen])
    heat = saliency(seen.pixels, CLASSES.index(prediction.decision))
    whole.thumbnail((_SIDE, _SIDE))
    back = lay_back(heat, whole.size, preprocessing)
    return Explanation(prediction, np.asarray(whole), back, saliency.method)


def lay_back(
    heat: NDArray[np.float32], size: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """Lay a map of the network's square over the original: undo the fit.

    Args:
        heat: float32 [S, S].
        size: Width and height of the original.
        preprocessing: Of the model.

    Returns:
        float32 [H, W]; NaN where the square does not reach.
    """
    width, height = size
    side = heat.shape[0]
    square = Image.fromarray(heat)
    box: tuple[float, float, float, float] = (0, 0, side, side)
    if preprocessing.fit == "pad":
        inner = side * min(width / height, height / width)
        edge = (side - inner) / 2
        box = (0, edge, side, side - edge) if width > height else (edge, 0, side - edge, side)
    if preprocessing.fit != "crop":
        return np.asarray(square.resize(size, Image.Resampling.BILINEAR, box=box))
    least = min(width, height)
    left, top = (width - least) // 2, (height - least) // 2
    whole = np.full((height, width), np.nan, np.float32)
    inside = square.resize((least, least), Image.Resampling.BILINEAR)
    whole[top : top + least, left : left + least] = np.asarray(inside)
    return whole


class HeatMaps:
    """A folder of explanations, one picture for each answer.

    Args:
        predictor: The model.
        folder: Where the pictures go; made if missing.
        paths: All files, those of other jobs that draw into this folder too: their stems name the
            pictures, with a digest of the path where two files share one.

    Raises:
        ModelError: If the model cannot be explained.
        ExtraError: If captum is not installed.
        ConfigError: If the folder cannot be written to.
    """

    def __init__(self, predictor: Predictor, folder: str | Path, paths: Sequence[str]) -> None:
        _saliency(predictor)
        self._predictor, self._folder = predictor, Path(folder)
        self._stems = Counter(_stem(path).lower() for path in paths)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            probe = self._folder / f".{os.getpid()}.probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be written to ({error.strerror}); name another folder."
            ) from error

    def write(self, results: Sequence[Prediction | Failure]) -> None:
        """Draw what was answered.

        Args:
            results: Of the files; a failure has no picture.

        Raises:
            ConfigError: If a picture cannot be written.
        """
        for result in results:
            if isinstance(result, Prediction):
                explanation = explain(self._predictor, result.path, result)
                explanation.save(self.picture(result.path))

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Name the files that have no picture.

        Args:
            paths: Some of the files.
        """
        return [path for path in paths if not self.picture(path).exists()]

    def picture(self, path: str) -> Path:
        """Say where the picture of a file goes.

        Args:
            path: One of the files.
        """
        return self._folder / self._name(path)

    def _name(self, path: str) -> str:
        stem = _stem(path)
        if self._stems[stem.lower()] > 1:  # some disks know no case
            digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
            stem = f"{stem}-{digest}"
        return f"{stem}.png"


def _stem(path: str) -> str:
    """A file's name without its suffix, as a name that any disk takes."""
    stem = Path(path).stem
    safe = "".join(c if c.isalnum() or c in "-_.() " else "_" for c in stem).lstrip(".") or "image"
    return safe.encode("utf-8", "replace").decode()[:80]


@lru_cache(maxsize=1)
def _saliency(predictor: Predictor) -> Saliency:
    engine = predictor.classifier.engine
    if not isinstance(engine, Eager):
        raise ModelError("An exported model gives no heat maps; they need its checkpoint.")
    return Saliency(engine.network, predictor.classifier.preprocessing.image_size)
