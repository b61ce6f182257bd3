"""The Python API of inference: load a checkpoint, predict images."""

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.errors import CheckpointError, ConfigError, DataError, ExtraError
from pneumonia.files import file_sha256
from pneumonia.inference.image_loading import (
    LoadedImage,
    Source,
    decode,
    display_name,
    is_image,
    load_image,
    read_ahead,
)
from pneumonia.inference.metadata import Calibration, ModelMetadata
from pneumonia.inference.types import Backend, FailedPrediction, Pixels, Prediction
from pneumonia.labels import CLASSES

if TYPE_CHECKING:
    from pneumonia.inference.saliency import Explanation

BATCH_SIZE = 32
EXPORTED = ".onnx"

BackendName = Literal["auto", "torch", "onnx"]


def choose_file(
    path: Path, device: str | None = "auto", backend: BackendName = "auto"
) -> tuple[Path, str]:
    """Choose the runtime of a model: torch, or ONNX Runtime, which is faster on a CPU.

    Args:
        path: A checkpoint or an exported model.
        device: As for `Predictor.load`.
        backend: `onnx` runs the `.onnx` file beside a checkpoint, if it was exported from
            exactly this checkpoint; `auto` does so where it can and no GPU is used.

    Returns:
        The file to load, and a line that says what runs it.

    Raises:
        CheckpointError: If there is no such file.
        ConfigError: If the backend cannot run the model.
    """
    if path.suffix.lower() == EXPORTED:
        if backend == "torch":
            raise ConfigError(f"backend torch: {path} is an exported model. Name its checkpoint.")
        return path, f"Running {path} with ONNX Runtime"
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; name a model (.ckpt or .onnx).")
    exported = path.with_suffix(EXPORTED)
    reason = "" if backend == "torch" else _why_not(exported, path, device or "auto")
    if reason and backend == "onnx":
        raise ConfigError(f"backend onnx cannot run {path}: {reason}.")
    if reason or backend == "torch":
        return path, f"Running {path} with torch" + (f" ({reason})" if reason else "")
    return exported, f"Running {exported} with ONNX Runtime"


def _why_not(exported: Path, checkpoint: Path, device: str) -> str:
    """Why an exported model cannot replace a checkpoint; empty if it can."""
    if device not in ("auto", "cpu") or (device == "auto" and _has_gpu()):
        return "an exported model runs on the CPU"
    if not exported.is_file():
        return f"{exported.name} would be faster on a CPU; `pneumonia export` writes it"
    from pneumonia.inference.onnx_backend import CHECKPOINT_SHA256, open_onnx  # noqa: PLC0415

    try:
        content = open_onnx(exported)[1].checkpoint
    except (CheckpointError, ExtraError) as error:
        return str(error).rstrip(".")
    if content.get(CHECKPOINT_SHA256) != file_sha256(checkpoint):
        return f"{exported.name} was exported from another checkpoint; export this one"
    return ""


def _has_gpu() -> bool:
    """Whether torch would find CUDA; it takes seconds to import, so its driver is tried first."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    import torch  # noqa: PLC0415

    return torch.cuda.is_available()


@dataclass(frozen=True, eq=False)
class Predictor(ModelMetadata):
    """A trained model that predicts images. Made by `load`.

    Attributes:
        backend: Runs the network.
    """

    backend: Backend

    @classmethod
    def load(cls, path: str | Path, device: str | None = "auto", *, finalized: bool = True) -> Self:
        """Load a checkpoint; no other file is needed, and no code in it is run.

        Args:
            path: `best.ckpt` of a run, or an `.onnx` file exported from one, which needs no torch.
            device: `cpu`, `cuda`, `cuda:1`, `mps`; `auto` or None: CUDA if available, else CPU. An
                `.onnx` file runs on the CPU.
            finalized: Refuse a checkpoint without calibration and threshold. Without them there
                are `logits` and uncalibrated `probabilities`, but no predictions.

        Raises:
            CheckpointError: If the file is not a checkpoint, is damaged, or is not finalized.
            ConfigError: If the device is not available.
        """
        backend: Backend
        device = device or "auto"
        # Imported here because each backend needs a library that the other does without.
        if Path(path).suffix.lower() == EXPORTED:
            from pneumonia.inference.onnx_backend import open_onnx  # noqa: PLC0415

            if device not in ("auto", "cpu"):
                raise ConfigError(
                    f"device {device}: an exported model runs on the CPU. Use the checkpoint."
                )
            backend, metadata = open_onnx(path)
        else:
            from pneumonia.inference.torch_backend import open_checkpoint  # noqa: PLC0415

            backend, metadata = open_checkpoint(path, device)
        if finalized and (metadata.operating_point is None or metadata.calibration is None):
            raise CheckpointError(
                f"{path} has no calibration and no threshold: it is not best.ckpt of a finished"
                " run. Finish the run, or choose both on labelled images with"
                " `pneumonia calibrate --checkpoint CKPT --data ROOT --out NEW.ckpt`."
            )
        return cls(**vars(metadata), backend=backend)

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Turn finite logits into probabilities of PNEUMONIA, calibrated if the model is."""
        return (self.calibration or Calibration())(logits)

    def logits(
        self, paths: Sequence[str], change: Callable[[Pixels], Pixels] | None = None
    ) -> NDArray[np.float64]:
        """Run the network on n files, and return their raw logits, shape (n,).

        Args:
            paths: Image files.
            change: Applied to the network's input first, uint8 [S, S] to the same.

        Raises:
            DataError: If a file cannot be read; the message names it.
        """

        def read(path: str) -> Pixels:
            pixels = self.preprocessing.read(path)
            return pixels if change is None else change(pixels)

        outputs = [self.backend(np.stack(batch)) for batch in read_ahead(read, paths, BATCH_SIZE)]
        return np.concatenate([output.logits for output in outputs] or [np.empty(0)])

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a path, not a sequence of them
        self, images: Source, batch_size: int = ...
    ) -> Prediction: ...
    @overload
    def predict(self, images: Iterable[Source], batch_size: int = ...) -> list[Prediction]: ...
    def predict(
        self, images: Source | Iterable[Source], batch_size: int = BATCH_SIZE
    ) -> Prediction | list[Prediction]:
        """Predict one image or several.

        Args:
            images: A path, the content of a file, an open file, a PIL image, or an array or
                tensor (grey [H, W] or [1, H, W], or RGB [H, W, 3] or [3, H, W]; uint8, uint16 or
                floats from 0 to 1); or a list or generator of any of them.
            batch_size: Images per batch.

        Returns:
            One prediction, or a list of them in the order of the images.

        Raises:
            DataError: If an image cannot be read; the message names it. `stream` continues
                instead.
        """
        several = isinstance(images, Iterable) and not is_image(images)
        sources = cast(Iterable[Source], images if several else [images])
        predictions = []
        for result in self.stream(sources, batch_size):
            if isinstance(result, FailedPrediction):
                raise DataError(result.error)
            predictions.append(result)
        return predictions if several else predictions[0]

    def stream(
        self, images: Iterable[Source], batch_size: int = BATCH_SIZE
    ) -> Iterator[Prediction | FailedPrediction]:
        """Predict many images, with only a few batches in memory.

        Args:
            images: As for `predict`.
            batch_size: Images per batch.

        Yields:
            One result per image, in order: a `FailedPrediction` for what cannot be read.
        """

        def load(task: tuple[int, Source]) -> LoadedImage | FailedPrediction:
            number, source = task
            return load_image(source, self.preprocessing, display_name(source, number))

        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: expected a whole number of at least 1.")
        for batch in read_ahead(load, enumerate(images, start=1), batch_size):
            yield from self.predict_batch(batch)

    def predict_batch(
        self, batch: Sequence[LoadedImage | FailedPrediction]
    ) -> list[Prediction | FailedPrediction]:
        """Predict loaded images as one batch; failures are returned as they are.

        Raises:
            CheckpointError: If the network's output is not finite.
        """
        loaded = [item for item in batch if isinstance(item, LoadedImage)]
        if not loaded:
            return [item for item in batch if isinstance(item, FailedPrediction)]
        output = self.backend(np.stack([item.pixels for item in loaded]))
        scores = output.ood_score if output.ood_score is not None else [None] * len(loaded)
        rows = iter(zip(self.probabilities(output.logits), scores, strict=True))
        return [
            item if isinstance(item, FailedPrediction) else self._prediction(item, *next(rows))
            for item in batch
        ]

    def explain(self, image: Source) -> "Explanation":
        """Show which regions of an image are evidence for the predicted class.

        A heat map is not evidence of reasoning; see `pneumonia.inference.saliency`.

        Args:
            image: One image, as for `predict`.

        Raises:
            DataError: If the image cannot be read.
            ModelError: If the model is an exported one, or its architecture has no heat maps.
            ExtraError: If captum is not installed.
        """
        from pneumonia.inference.saliency import explain  # noqa: PLC0415 - needs the extra [explain]

        name = display_name(image)
        decoded = decode(image, name)
        prediction = replace(self.predict(decoded), path=name)
        return explain(self.backend, self.preprocessing, decoded, prediction)

    def _prediction(
        self, image: LoadedImage, probability: float, ood_score: float | None
    ) -> Prediction:
        if self.operating_point is None:
            raise CheckpointError("The checkpoint has no threshold: its run is not finished.")
        uncertain = is_ood = None
        if self.abstention is not None:
            uncertain = bool(self.abstention.uncertain(np.array([probability]))[0])
        if ood_score is not None and self.ood_threshold is not None:
            is_ood = bool(not ood_score <= self.ood_threshold)  # NaN is out-of-distribution, too
        return Prediction(
            path=image.name,
            probability=float(probability),
            predicted_class=CLASSES[bool(probability >= self.operating_point.threshold)],
            uncertain=uncertain,
            is_ood=is_ood,
            ood_score=None if ood_score is None else float(ood_score),
            warnings=image.warnings,
        )
