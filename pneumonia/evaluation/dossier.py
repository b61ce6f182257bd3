"""A result in files: `metrics.json`, `predictions.csv`, `report.html`, `MODEL_CARD.md`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.assess import HALF, Assessment, assess
from pneumonia.evaluation.bootstrap import REPLICATES
from pneumonia.evaluation.cases import Cases
from pneumonia.evaluation.result import write_metrics
from pneumonia.evaluation.shortcut import Probe
from pneumonia.evaluation.subject import Origin, Subject
from pneumonia.files import whole_file

METRICS, PREDICTIONS, REPORT, CARD = (
    "metrics.json",
    "predictions.csv",
    "report.html",
    "MODEL_CARD.md",
)

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


def write_dossier(
    dossier: Dossier,
    directory: str | os.PathLike[str],
    card: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write a result down, each file whole or not at all.

    `metrics.json` gains `test/loss`, which is `test/log_loss` under the name that training uses.

    Args:
        dossier: The result.
        directory: Where `metrics.json`, `predictions.csv` and `report.html` go; made if missing.
        card: Where the model card goes; None for none.

    Returns:
        The files written.

    Raises:
        EvaluationError: If a file cannot be written.
    """
    from pneumonia.evaluation.card import model_card  # noqa: PLC0415 - it reads this module
    from pneumonia.evaluation.report import report  # noqa: PLC0415

    folder = Path(directory)
    files = [folder / METRICS, folder / PREDICTIONS, folder / REPORT]
    found = dossier.assessment.metrics
    try:
        dossier.cases.write(files[1])
        write_metrics(files[0], {**found, "loss": found["log_loss"]})
        with whole_file(files[2]) as file:
            file.write(report(dossier))
        if card is not None:
            files.append(Path(card))
            with whole_file(card) as file:
                file.write(model_card(dossier))
    except OSError as error:
        raise EvaluationError(
            f"{error.filename or folder} cannot be written ({error.strerror}); choose another"
            " folder for the result."
        ) from error
    return files
