"""Pneumonia on pediatric chest X-rays: train, evaluate, explain. Not a medical device.

The Python API, imported on first use:

    import pneumonia

    model = pneumonia.load("best.ckpt")
    print(model.predict("a.jpeg"))
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pneumonia.inference.predictor import Predictor as Predictor
    from pneumonia.inference.types import Prediction as Prediction

__version__ = "0.2.0"
__all__ = ["Prediction", "Predictor", "__version__", "load"]


def load(path: "str | Path", device: str | None = "auto") -> "Predictor":
    """Load a finalized checkpoint; see `Predictor.load`."""
    from pneumonia.inference.predictor import Predictor  # noqa: PLC0415 - torch takes seconds

    return Predictor.load(path, device)


def __getattr__(name: str) -> object:
    if name == "Prediction":
        from pneumonia.inference.types import Prediction  # noqa: PLC0415

        return Prediction
    if name == "Predictor":
        from pneumonia.inference.predictor import Predictor  # noqa: PLC0415

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
