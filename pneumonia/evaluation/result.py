"""The numbers of a test, as `metrics.json`."""

import json
import math
import os
from collections.abc import Mapping

import numpy as np

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.intervals import Estimate
from pneumonia.files import whole_file


def write_metrics(path: str | os.PathLike[str], metrics: Mapping[str, float | Estimate]) -> None:
    """Write metrics as JSON: `{"test/<metric>": ..., ...}`, sorted by key, whole or not at all.

    A plain number stays one; an `Estimate` becomes `{"value", "low", "high", "method"}`, with
    null for what is undefined, as its method says.

    Args:
        path: The file, by custom `metrics.json` in the run directory.
        metrics: Plain metric names (`recall`, `n`), each with a finite number, of which whole
            ones stay whole, or an `Estimate`.

    Raises:
        EvaluationError: If a plain number is NaN or infinite, which JSON cannot say.
    """
    estimates = {k: found.to_dict() for k, found in metrics.items() if isinstance(found, Estimate)}
    numbers = {
        name: np.asarray(value).item() for name, value in metrics.items() if name not in estimates
    }
    wrong = [f"{name} = {value}" for name, value in numbers.items() if not math.isfinite(value)]
    if wrong:
        raise EvaluationError(
            f"{path} was not written, for it holds finite numbers only and found "
            f"{', '.join(wrong)}; look for a diverged training or an empty split."
        )
    keyed = {f"test/{name}": value for name, value in (numbers | estimates).items()}
    with whole_file(path) as file:
        file.write(json.dumps(keyed, indent=2, sort_keys=True) + "\n")
