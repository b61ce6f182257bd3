"""Whether an exported graph answers as the checkpoint it came from."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.anatomy import chest, expose
from pneumonia.data.image import Preprocessing
from pneumonia.errors import ModelError
from pneumonia.inference.classifier import Classifier
from pneumonia.inference.engine import Answers, Pixels
from pneumonia.inference.runtime import LOGIT, PROBABILITY, UNLIKENESS, Exported
from pneumonia.labels import SUBTYPES

TOLERANCE = 1e-4
"""Of the probability; of a score, relative where it exceeds 1; and of a logit, relative to the
largest of the batch if that exceeds 1. A logit near 0 is the difference of large numbers too: in
single precision two libraries agree to about 2e-6 of the largest, which is 1e-4 of 50."""

_BLENDS = 16


def check_alike(classifier: Classifier, exported: Exported) -> None:
    """Ask both about pictures that tell graphs apart, one at a time and all at once.

    Drawn radiographs, noise, a ramp and blank pictures; and blends of the two that the model
    finds most different, as a probability near 0 or 1 would not show a wrong temperature.

    Args:
        classifier: The checkpoint.
        exported: The graph.

    Raises:
        ModelError: If an answer is missing, is no number, or differs.
    """
    pictures = _pictures(classifier.preprocessing)
    logits = classifier.engine(pictures).logits
    low, high = (pictures[row].astype(float) for row in (logits.argmin(), logits.argmax()))
    shares = np.linspace(0, 1, _BLENDS)[:, None, None]
    blends = (low + shares * (high - low)).round().astype(np.uint8)
    pictures = np.concatenate([pictures, blends])
    expected = outputs(classifier, classifier.engine(pictures))
    _compare(expected, exported.run(pictures))
    alone = [exported.run(picture[None]) for picture in pictures]
    _compare(expected, {name: np.concatenate([one[name] for one in alone]) for name in alone[0]})


def outputs(classifier: Classifier, answers: Answers) -> dict[str, NDArray[np.float64]]:
    """What a graph has to give for answers of its checkpoint, by the names of its outputs.

    Args:
        classifier: The checkpoint.
        answers: What its engine gave.
    """
    found = {LOGIT: answers.logits, PROBABILITY: classifier.probabilities(answers.logits)}
    return found if answers.unlikeness is None else found | {UNLIKENESS: answers.unlikeness}


def _compare(
    expected: Mapping[str, NDArray[np.float64]], found: Mapping[str, NDArray[np.float64]]
) -> None:
    if expected.keys() != found.keys():
        raise ModelError(
            f"the exported model gives {', '.join(found)} instead of {', '.join(expected)}; use the"
            " checkpoint."
        )
    for name, values in expected.items():
        size = np.abs(values).max() if name == LOGIT else np.abs(values)
        apart = float((np.abs(values - found[name]) / np.maximum(1, size)).max())
        if not apart <= TOLERANCE:  # nor may it be NaN
            raise ModelError(
                f"the exported model answers otherwise than the checkpoint (its {name} by"
                f" {apart:.2g}, at most {TOLERANCE:g} is due); use the checkpoint."
            )


def _pictures(preprocessing: Preprocessing) -> Pixels:
    random = np.random.default_rng(0)
    side = preprocessing.image_size
    drawn = [
        preprocessing(Image.fromarray(expose(chest(subtype, random), random)))
        for subtype in SUBTYPES
        for _ in range(2)
    ]
    noise = random.integers(0, 256, (2, side, side), dtype=np.uint8)
    ramp = np.linspace(0, 255, side * side).reshape(side, side).astype(np.uint8)
    blank = np.zeros((side, side), np.uint8)
    return np.stack([*drawn, *noise, ramp, blank, 255 - blank])
