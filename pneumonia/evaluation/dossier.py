"""Predictions and what is known of them -> all that a report or a model card draws on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pneumonia.evaluation.assess import HALF, Assessment, assess
from pneumonia.evaluation.bootstrap import REPLICATES
from pneumonia.evaluation.cases import Cases
from pneumonia.evaluation.shortcut import Probe
from pneumonia.evaluation.subject import Origin, Subject

Picture = Callable[[str], NDArray[np.uint8]]


@dataclass(frozen=True)
class Dossier:
    """All that a report or a model card draws on.

    Attributes:
        subject: What was evaluated.
        cases: On which images, and what it said of them.
        assessment: The result.
        origin: Of the threshold.
        probes: The shortcut probe; none where it was not run.
        picture: Gives the grey image of a path, uint8 [H, W]; None for no images.
    """

    subject: Subject
    cases: Cases
    assessment: Assessment
    origin: Origin
    probes: tuple[Probe, ...] = ()
    picture: Picture | None = None


def compile_dossier(
    cases: Cases,
    subject: Subject,
    threshold: float | None = None,
    *,
    probes: Sequence[Probe] = (),
    picture: Picture | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Dossier:
    """Evaluate predictions and put what is known of them together.

    The subject's band belongs to its own threshold: it is left out where another is given.

    Args:
        cases: The predictions.
        subject: What made them.
        threshold: Given by hand, in [0, 1]; None for the subject's operating point, or else 0.5.
        probes: The shortcut probe.
        picture: Gives the image of a path, for the gallery.
        seed: Of the bootstrap.
        replicates: Of the bootstrap.

    Raises:
        EvaluationError: If the images are of one class, or the threshold is none.
    """
    origin = subject.origin(threshold)
    cut, band = HALF if threshold is None else threshold, None
    if origin in {"hold-out", "site"} and subject.operating_point is not None:
        cut, band = subject.operating_point.threshold, subject.band
    assessment = assess(
        cases.labels,
        cases.probabilities,
        cases.patients,
        cases.subtypes,
        threshold=cut,
        band=band,
        scores=cases.scores,
        seed=seed,
        replicates=replicates,
    )
    return Dossier(subject, cases, assessment, origin, tuple(probes), picture)
