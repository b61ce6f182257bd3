"""The numbers of a test, as `metrics.json`."""

import json
import math
import os
from collections.abc import Mapping

import numpy as np

from pneumonia.errors import EvaluationError
from pneumonia.files import whole_file


def write_metrics(path: str | os.PathLike[str], metrics: Mapping[str, float]) -> None:
    """Write metrics as JSON: `{"test/<metric>": number, ...}`, sorted by key, whole or not at all.

    Args:
        path: The file, by custom `metrics.json` in the run directory.
        metrics: Plain metric names (`recall`, `n`) and finite numbers; whole ones stay whole.

    Raises:
        EvaluationError: If a number is NaN or infinite, which JSON cannot say.
    """
    numbers = {name: np.asarray(value).item() for name, value in metrics.items()}
    wrong = [f"{name} = {value}" for name, value in numbers.items() if not math.isfinite(value)]
    if wrong:
        raise EvaluationError(
            f"{path} was not written, for it holds finite numbers only and found "
            f"{', '.join(wrong)}; look for a diverged training or an empty split."
        )
    keyed = {f"test/{name}": value for name, value in numbers.items()}
    with whole_file(path) as file:
        file.write(json.dumps(keyed, indent=2, sort_keys=True) + "\n")
