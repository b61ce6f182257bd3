"""Two files of predictions -> their comparison."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.assess import HALF
from pneumonia.evaluation.bootstrap import REPLICATES
from pneumonia.evaluation.cases import Cases, read_cases
from pneumonia.evaluation.compare import Comparison, compare, same_images
from pneumonia.evaluation.publication import METRICS


@dataclass(frozen=True)
class Pair:
    """A comparison, and the thresholds it was made at.

    Attributes:
        comparison: What differs.
        thresholds: Of each model: the number, and where it comes from.
    """

    comparison: Comparison
    thresholds: tuple[str, str]


def compare_files(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    thresholds: tuple[float | None, float | None] = (None, None),
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Pair:
    """Compare two tables of predictions of the same images, matched by path.

    Where only one table names the patients, they are taken from it for both.

    Args:
        a: One model's CSV file, as for `pneumonia.evaluation.cases.read_cases`, with paths.
        b: The other's.
        thresholds: Of each; None for the one in the `metrics.json` beside it, or else 0.5.
        seed: Of the bootstrap.
        replicates: Of the bootstrap.

    Raises:
        EvaluationError: If a file cannot be used, or they are of different images.
    """
    left, right = _with_paths(a), _with_paths(b)
    right = right[0].take(same_images(left[1], right[1])), left[1]
    one, other = left[0], right[0]
    if one.patients is None:
        one = replace(one, patients=other.patients)
    elif other.patients is None:
        other = replace(other, patients=one.patients)
    cuts = [_threshold(path, t) for path, t in zip((a, b), thresholds, strict=True)]
    found = compare(
        one.sample(),
        other.sample(),
        (cuts[0][0], cuts[1][0]),
        seed=seed,
        replicates=replicates,
    )
    words = [f"{cut:.4g}, {origin}" for cut, origin in cuts]
    return Pair(found, (words[0], words[1]))


def _with_paths(file: str | os.PathLike[str]) -> tuple[Cases, list[str]]:
    cases = read_cases(file)
    if cases.paths is None:
        raise EvaluationError(
            f"{file} has no column path, and without it nobody knows which rows show the same"
            " image; name the image of each row there."
        )
    return cases, cases.paths.tolist()


def _threshold(file: str | os.PathLike[str], given: float | None) -> tuple[float, str]:
    if given is not None:
        return given, "given by hand"
    beside = Path(file).with_name(METRICS)
    try:
        value = json.loads(beside.read_text(encoding="utf-8"))["test/threshold"]["value"]
        return float(value), f"from {beside}"
    except (OSError, ValueError, KeyError, TypeError):
        return HALF, "the default, chosen on no hold-out"
