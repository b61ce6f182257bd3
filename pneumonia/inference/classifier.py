"""A checkpoint, ready to answer: network, preprocessing, calibration and operating point."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pneumonia.data.image import Preprocessing
from pneumonia.data.pool import cores
from pneumonia.errors import CheckpointError, EvaluationError
from pneumonia.evaluation.abstention import Band
from pneumonia.evaluation.metrics import sigmoid
from pneumonia.evaluation.operating_point import OperatingPoint
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.model.network import PneumoniaNetwork

BATCH_SIZE = 32
_AHEAD = 2
"""Batches whose images are decoded while the network works."""
_PREFIX = "network."

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Calibration:
    """What makes a logit a probability: sigmoid(logit / temperature + offset).

    Attributes:
        temperature: Above 0; 1 leaves logits as they are.
        offset: Added log odds; 0 unless the model was moved to another prevalence.
    """

    temperature: float = 1.0
    offset: float = 0.0

    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Give probabilities of PNEUMONIA.

        Args:
            logits: Any shape, finite.
        """
        return sigmoid(np.asarray(logits, np.float64) / self.temperature + self.offset)


@dataclass(frozen=True)
class Classifier:
    """A trained model and all that it needs to be asked. Made by `load`.

    Attributes:
        network: On its device, in evaluation mode.
        preprocessing: How a file becomes its input.
        calibration: None if the checkpoint holds none; probabilities are then raw.
        operating_point: None if the checkpoint holds none.
        checkpoint: What else the file says, without the weights: plain values.
    """

    network: PneumoniaNetwork
    preprocessing: Preprocessing
    calibration: Calibration | None
    operating_point: OperatingPoint | None
    checkpoint: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> "Classifier":
        """Open a checkpoint; nothing else is needed, and no code in it is run.

        Args:
            path: A `.ckpt` file of this project.

        Raises:
            CheckpointError: If it is none, or is damaged.
        """
        checkpoint = read_checkpoint(path)
        settings = checkpoint.get("hyper_parameters", {})
        try:
            network = PneumoniaNetwork(settings["backbone"], image_size=settings["image_size"])
            preprocessing = Preprocessing(
                settings["image_size"], settings["fit"], settings["interpolation"]
            )
            state = checkpoint.pop("state_dict")
            network.load_state_dict(
                {k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)}
            )
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} lacks what a model of this project has ({str(error).splitlines()[0]});"
                " name the best.ckpt of a run."
            ) from error
        if settings.get("channels_last", True):
            network.to(memory_format=torch.channels_last)
        return cls(
            network.eval(),
            preprocessing,
            read_calibration(checkpoint, path),
            read_operating_point(checkpoint, path),
            checkpoint,
        )

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Turn logits into probabilities of PNEUMONIA, calibrated if the checkpoint can.

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
        device = self.network.scale.device
        found = np.empty(len(paths))
        start = 0
        with torch.inference_mode():
            for images in self._batches(paths, change, batch_size):
                batch = torch.from_numpy(np.stack(images)).unsqueeze(1).to(device)
                found[start : start + len(images)] = self.network(batch).cpu().numpy()
                start += len(images)
        return found

    def _batches(
        self,
        paths: Sequence[str],
        change: Callable[[Pixels], Pixels] | None,
        batch_size: int,
    ) -> Iterator[list[Pixels]]:
        def read(path: str) -> Pixels:
            pixels = self.pixels(path)
            return pixels if change is None else change(pixels)

        with ThreadPoolExecutor(min(4, cores())) as pool:  # Pillow decodes without the GIL
            waiting: list[list[Future[Pixels]]] = []
            try:
                for start in range(0, len(paths), batch_size):
                    waiting.append(
                        [pool.submit(read, path) for path in paths[start : start + batch_size]]
                    )
                    if len(waiting) > _AHEAD:
                        yield [future.result() for future in waiting.pop(0)]
                while waiting:
                    yield [future.result() for future in waiting.pop(0)]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def read_calibration(checkpoint: Mapping[str, Any], name: str | Path) -> Calibration | None:
    """Read the calibration of a checkpoint.

    Args:
        checkpoint: Its content.
        name: What to call it in a message.

    Returns:
        None if the checkpoint is older than calibration.

    Raises:
        CheckpointError: If it is damaged.
    """
    values = checkpoint.get("calibration")
    if values is None:
        return None
    try:
        found = Calibration(float(values["temperature"]), float(values.get("offset", 0.0)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{name} holds a calibration without a temperature; name the best.ckpt of a run."
        ) from error
    if not (0 < found.temperature < np.inf and np.isfinite(found.offset)):
        raise CheckpointError(
            f"{name} holds the temperature {found.temperature} and offset {found.offset}, expected"
            " finite numbers, the temperature above 0; name the best.ckpt of a run."
        )
    return found


def read_operating_point(checkpoint: Mapping[str, Any], name: str | Path) -> OperatingPoint | None:
    """Read the operating point of a checkpoint.

    Args:
        checkpoint: Its content.
        name: What to call it in a message.

    Returns:
        None if the checkpoint is older than operating points.

    Raises:
        CheckpointError: If it is damaged.
    """
    values = checkpoint.get("operating_point")
    if values is None:
        return None
    try:
        return OperatingPoint.from_dict(values)
    except (EvaluationError, TypeError) as error:
        raise CheckpointError(f"{name} holds a damaged operating point: {error}") from error


def read_band(checkpoint: Mapping[str, Any], name: str | Path) -> Band | None:
    """Read the band of a checkpoint in which images are left undecided.

    Args:
        checkpoint: Its content.
        name: What to call it in a message.

    Returns:
        None if the checkpoint is older than abstention.

    Raises:
        CheckpointError: If it is damaged.
    """
    values = checkpoint.get("abstention")
    if values is None:
        return None
    try:
        return Band.from_dict(values)
    except (EvaluationError, TypeError) as error:
        raise CheckpointError(f"{name} holds a damaged band of abstention: {error}") from error
