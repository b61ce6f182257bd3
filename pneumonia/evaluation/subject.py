"""What was evaluated: a model with what is known of it, or a table of predictions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pneumonia.evaluation.abstention import Band
from pneumonia.evaluation.operating_point import OperatingPoint

Origin = Literal["hold-out", "site", "given", "default", "missing"]
"""Of a threshold: chosen on the training's hold-out, or on a site's own images; given by hand;
0.5 for predictions that came without one, or for a checkpoint that holds none."""


@dataclass(frozen=True)
class Subject:
    """What a result is about.

    Attributes:
        name: Of the model, as its owner would find it: a file.
        data: What it was tested on.
        checkpoint: Whether it is one of the project's checkpoints, rather than a table.
        calibration: Temperature and offset, `sigmoid(logit / temperature + offset)`; None
            where there is none.
        operating_point: Where the threshold comes from; None if nothing is known.
        facts: Of data, hold-out, training and model: plain nested values, any of them missing.
        history: What calibrating at a site replaced, oldest first: plain nested values.
        warnings: What else to doubt, a sentence each.
        band: Around that threshold, in which images are left undecided; None where there is none.
    """

    name: str
    data: str
    checkpoint: bool = False
    calibration: tuple[float, float] | None = None
    operating_point: OperatingPoint | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    band: Band | None = None

    def fact(self, *keys: str) -> Any:
        """Look a fact up.

        Args:
            keys: From the outermost to the innermost.

        Returns:
            The value, or None where it was not recorded.
        """
        found: Any = self.facts
        for key in keys:
            if not isinstance(found, Mapping):
                return None
            found = found.get(key)
        return found

    def table(self, *keys: str) -> dict[str, Any]:
        """Look facts up that stand together.

        Args:
            keys: From the outermost to the innermost.

        Returns:
            Them, or nothing where they were not recorded.
        """
        found = self.fact(*keys)
        return dict(found) if isinstance(found, Mapping) else {}

    def origin(self, threshold: float | None) -> Origin:
        """Tell where the threshold of a test comes from.

        Args:
            threshold: What was given by hand; None for nothing.
        """
        if threshold is not None:
            return "given"
        if self.operating_point is not None:
            return "site" if self.history else "hold-out"
        return "missing" if self.checkpoint else "default"
