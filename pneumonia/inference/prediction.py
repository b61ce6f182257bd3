"""What a model says of one image: a probability, a decision, and what to doubt."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        path: The file; `image 1`, `image 2`, ... for what came without a name.
        probability: Of PNEUMONIA, calibrated, in [0, 1].
        decision: `PNEUMONIA` from the model's threshold up, or else `NORMAL`.
        uncertain: Whether the probability lies in the band in which the model abstains; None if
            the model has no such band.
        unlike: Whether the image is unlike those of the training, so that the rest is not to be
            used; None if the model has no detector.
        unlikeness: The detector's score, higher for images less alike; None likewise.
        warnings: What is wrong with the image, in words.
    """

    path: str
    probability: float
    decision: str
    uncertain: bool | None
    unlike: bool | None
    unlikeness: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """An image for which there is no answer.

    Attributes:
        path: The file.
        error: Why, in a sentence.
    """

    path: str
    error: str
