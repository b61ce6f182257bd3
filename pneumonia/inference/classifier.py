"""A model file, ready to answer: engine, preprocessing, calibration and operating point."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.data.image import Preprocessing
from pneumonia.errors import ConfigError
from pneumonia.evaluation.abstention import Band
from pneumonia.evaluation.operating_point import OperatingPoint
from pneumonia.inference.batches import batches
from pneumonia.inference.engine import Engine, Pixels
from pneumonia.inference.frozen import (
    Calibration,
    read_band,
    read_calibration,
    read_operating_point,
    read_preprocessing,
    read_unlike_above,
)

BATCH_SIZE = 32
EXPORTED = ".onnx"


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained model and all that it needs to be asked. Made by `load`.

    Attributes:
        engine: What runs the network.
        preprocessing: How an image becomes its input.
        calibration: None if the file holds none; probabilities are then raw.
        operating_point: None if the file holds none.
        band: Where the model abstains; None if the file holds none.
        unlike_above: The detector's score above which an image is unlike the training's; None if
            the file holds no detector.
        checkpoint: What else the file says, without the weights: plain values.
    """

    engine: Engine
    preprocessing: Preprocessing
    calibration: Calibration | None
    operating_point: OperatingPoint | None
    band: Band | None
    unlike_above: float | None
    checkpoint: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> "Classifier":
        """Open a model file; nothing else is needed, and no code in it is run.

        Args:
            path: A `.ckpt` file of this project, or the `.onnx` file exported from one, which
                is opened without torch.
            device: `cpu`, `cuda`, `cuda:1`, `mps`; or `auto`: CUDA if there is any, or else the
                CPU. An `.onnx` file runs on the CPU.

        Raises:
            CheckpointError: If it is none, or is damaged.
            ConfigError: If there is no such device.
        """
        engine: Engine
        # Imported here, since each engine needs a library that the other can do without.
        if Path(path).suffix.lower() == EXPORTED:
            from pneumonia.inference.runtime import open_exported  # noqa: PLC0415

            if device not in ("auto", "cpu"):
                raise ConfigError(
                    f"device {device}: an exported model runs on the CPU; use the checkpoint."
                )
            engine, content = open_exported(path)
        else:
            from pneumonia.inference.eager import open_checkpoint  # noqa: PLC0415

            engine, content = open_checkpoint(path, device)
        return cls(
            engine,
            read_preprocessing(content, path),
            read_calibration(content, path),
            read_operating_point(content, path),
            read_band(content, path),
            read_unlike_above(content, path),
            content,
        )

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Turn logits into probabilities of PNEUMONIA, calibrated if the file can.

        Args:
            logits: Any shape, finite.
        """
        return (self.calibration or Calibration())(logits)

    def pixels(self, path: str | Path) -> Pixels:
        """Read a file as the network sees it.

        Args:
            path: An image file.

        Returns:
            uint8 [S, S].

        Raises:
            DataError: If the file cannot be read.
        """
        return self.preprocessing.read(path)

    def logits(
        self,
        paths: Sequence[str],
        change: Callable[[Pixels], Pixels] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> NDArray[np.float64]:
        """Ask the network about files.

        Args:
            paths: Image files, n of them.
            change: What to do to the network's input first, uint8 [S, S] to the same.
            batch_size: Images at once.

        Returns:
            Shape (n,), raw logits, in the order of the files.

        Raises:
            DataError: If a file cannot be read; the message names it.
        """

        def read(path: str) -> Pixels:
            pixels = self.pixels(path)
            return pixels if change is None else change(pixels)

        answers = [self.engine(np.stack(images)) for images in batches(read, paths, batch_size)]
        return np.concatenate([answer.logits for answer in answers] or [np.empty(0)])
