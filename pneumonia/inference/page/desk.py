"""Uploads -> answers as HTML; every upload is deleted, answered or not."""

import logging
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import escape

from pneumonia.data.image_io import read_grey
from pneumonia.errors import PneumoniaError
from pneumonia.evaluation.evaluate import EvaluatedModel
from pneumonia.inference.batch_predict import model_digest
from pneumonia.inference.page.answer import render
from pneumonia.inference.page.tray import MOST_FILES, Tray, Upload
from pneumonia.inference.predictor import EXPORTED, Predictor
from pneumonia.inference.types import FailedPrediction, Prediction

log = logging.getLogger(__name__)

MOST_ASKING = 8
"""Questions at once, of which one is answered and the others wait."""


class Desk:
    """Answers what is handed in, one question after the other.

    Args:
        predictor: The model.
        checkpoint: Its file.
        tray: Where the uploads are.
    """

    def __init__(self, predictor: Predictor, checkpoint: str | Path, tray: Tray) -> None:
        self._predictor, self._tray = predictor, tray
        self._model = model_digest(checkpoint)
        self._turn = threading.Lock()
        self._asking = threading.BoundedSemaphore(MOST_ASKING)
        self._closed = threading.Event()
        self._no_heat = _no_heat(predictor, checkpoint)

    def answer(self, paths: Sequence[str]) -> str:
        """Answer uploads, and delete them.

        Args:
            paths: As the tray gave them.

        Returns:
            HTML. Nothing is raised, since nothing of an image may reach a log.
        """
        with self._tray.take(paths) as uploads:
            if len(uploads) > MOST_FILES:
                return _note(f"{len(uploads)} images are too many; drop at most {MOST_FILES}.")
            if not uploads:
                return _note("The images are not here any more; drop them again.")
            return self.look(uploads)

    def look(self, uploads: Sequence[Upload]) -> str:
        """Answer files, which are kept.

        Args:
            uploads: Of images.
        """
        if not self._asking.acquire(blocking=False):
            return _note("Too many are asking at once; try again in a minute.")
        try:
            with self._turn:
                return self._look(uploads)
        except Exception as error:  # noqa: BLE001  what is wrong may hold what is in an image
            if not self._closed.is_set():  # or else its files are gone, as they should be
                log.error("A question could not be answered: %s.", type(error).__name__)
            return _note("Something went wrong here, and the images were deleted; drop them again.")
        finally:
            self._asking.release()

    def close(self) -> None:
        """Answer no further images, since the page ends."""
        self._closed.set()

    def _look(self, uploads: Sequence[Upload]) -> str:
        results: list[Prediction | FailedPrediction] = []
        pictures: list[Any] = []
        heats: list[Any] = []
        for upload in uploads:
            if self._closed.is_set():
                break
            found = next(self._predictor.stream([upload.path]))
            picture, heat = (
                (None, None) if isinstance(found, FailedPrediction) else self._picture(upload)
            )
            results.append(_named(found, upload))
            pictures.append(picture)
            heats.append(heat)
        return render(self._predictor, results, pictures, heats, self._model, self._no_heat)

    def _picture(self, upload: Upload) -> tuple[Any, Any]:
        if self._no_heat:
            return np.asarray(read_grey(upload.path)), None
        from pneumonia.inference.saliency import overlay_heat_map  # noqa: PLC0415 - matplotlib takes a second

        found = self._predictor.explain(upload.path)
        return found.image, overlay_heat_map(found.image, found.heat)


def describe(predictor: Predictor, checkpoint: str | Path) -> str:
    """Say which model it is, in HTML.

    Args:
        predictor: The model.
        checkpoint: Its file.
    """
    content, point = predictor.classifier.checkpoint, predictor.operating_point
    backbone = content["hyper_parameters"].get("backbone", "unknown")
    subject = EvaluatedModel(Path(checkpoint).name, "", metadata=content.get("metadata", {}))
    train = subject.section("data", "splits", "train")
    trained = ""
    if train:
        drawn = "drawn synthetics" if subject.lookup("data", "synthetic") else "X-rays"
        trained = f" Trained on {train.get('images')} {drawn} of {train.get('patients')} patients."
    return str(
        escape(
            f"Model {subject.name} ({backbone}).{trained} On the images that chose its"
            f" threshold it had a sensitivity of {point.sensitivity:.2f} and a specificity of"
            f" {point.specificity:.2f}; new images give less."
        )
    )


def _no_heat(predictor: Predictor, checkpoint: str | Path) -> str:
    """Say why the model cannot be explained; nothing if it can."""
    if Path(checkpoint).suffix.lower() == EXPORTED:  # and torch is not needed to say so
        return "An exported model gives no heat maps; they need its checkpoint."
    from pneumonia.inference.saliency import HeatMaps  # noqa: PLC0415 - torch, if there is one

    try:
        HeatMaps(predictor, tempfile.gettempdir(), [])
    except PneumoniaError as error:
        return str(error)
    return ""


def _named(result: Prediction | FailedPrediction, upload: Upload) -> Prediction | FailedPrediction:
    """Call a file what its owner calls it, and never by its path on this machine."""
    if isinstance(result, Prediction):
        return replace(result, path=upload.name)
    error = result.error.replace(str(upload.path), upload.name)
    return FailedPrediction(upload.name, error.replace(str(upload.path.parent), ""))


def _note(words: str) -> str:
    return f'<p class="pn-note">{escape(words)}</p>'
