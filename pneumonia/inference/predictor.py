"""The Python interface: a model file that is asked about images."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.data.image_io import Preprocessing
from pneumonia.errors import CheckpointError, ConfigError, DataError
from pneumonia.evaluation.abstention import Abstention
from pneumonia.evaluation.threshold import OperatingPoint
from pneumonia.inference.image_loading import (
    LoadedImage,
    Source,
    decode,
    display_name,
    load_image,
    preprocess_image,
    read_ahead,
)
from pneumonia.inference.metadata import (
    Calibration,
    read_abstention,
    read_calibration,
    read_ood_threshold,
    read_operating_point,
    read_preprocessing,
)
from pneumonia.inference.types import Backend, FailedPrediction, ModelOutput, Pixels, Prediction
from pneumonia.labels import CLASSES

if TYPE_CHECKING:
    from pneumonia.inference.saliency import Explanation


BATCH_SIZE = 32
EXPORTED = ".onnx"


@dataclass(frozen=True, eq=False)
class InferenceModel:
    """A trained model and all that it needs to be asked. Made by `load`.

    Attributes:
        engine: What runs the network.
        preprocessing: How an image becomes its input.
        calibration: None if the file holds none; probabilities are then raw.
        operating_point: None if the file holds none.
        band: Where the model abstains; None if the file holds none.
        ood_threshold: The detector's score above which an image is unlike the training's; None if
            the file holds no detector.
        checkpoint: What else the file says, without the weights: plain values.
    """

    engine: Backend
    preprocessing: Preprocessing
    calibration: Calibration | None
    operating_point: OperatingPoint | None
    band: Abstention | None
    ood_threshold: float | None
    checkpoint: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> "InferenceModel":
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
        engine: Backend
        # Imported here, since each engine needs a library that the other can do without.
        if Path(path).suffix.lower() == EXPORTED:
            from pneumonia.inference.onnx_backend import open_onnx  # noqa: PLC0415

            if device not in ("auto", "cpu"):
                raise ConfigError(
                    f"device {device}: an exported model runs on the CPU; use the checkpoint."
                )
            engine, content = open_onnx(path)
        else:
            from pneumonia.inference.torch_backend import open_checkpoint  # noqa: PLC0415

            engine, content = open_checkpoint(path, device)
        return cls(
            engine,
            read_preprocessing(content, path),
            read_calibration(content, path),
            read_operating_point(content, path),
            read_abstention(content, path),
            read_ood_threshold(content, path),
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

        answers = [self.engine(np.stack(images)) for images in read_ahead(read, paths, batch_size)]
        return np.concatenate([answer.logits for answer in answers] or [np.empty(0)])


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model file, ready for images. Made by `pneumonia.load`.

    Attributes:
        classifier: The model and what is frozen with it.
        operating_point: Of the decisions.
    """

    classifier: InferenceModel
    operating_point: OperatingPoint

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> "Predictor":
        """Open a model file; no code in it is run.

        Args:
            path: The `best.ckpt` of a run, or an `.onnx` file exported from one, which is opened
                without torch.
            device: `cpu`, `cuda`, `cuda:1`, `mps`; or `auto`: CUDA if there is any, or else the
                CPU.

        Raises:
            CheckpointError: If the file is none, is damaged, or has no threshold in it.
            ConfigError: If there is no such device.
        """
        classifier = InferenceModel.load(path, device)
        if classifier.operating_point is None or classifier.calibration is None:
            raise CheckpointError(
                f"{path} holds no calibration and no threshold, so that it cannot decide: it is"
                " not the best.ckpt of a finished run. Finish the run, or choose both on labelled"
                " images: pneumonia calibrate --checkpoint CKPT --data ROOT --out NEW.ckpt."
            )
        return cls(classifier, classifier.operating_point)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a path, not a sequence of them
        self, images: Source, batch_size: int = ...
    ) -> Prediction: ...
    @overload
    def predict(self, images: Sequence[Source], batch_size: int = ...) -> list[Prediction]: ...
    def predict(
        self, images: Source | Sequence[Source], batch_size: int = BATCH_SIZE
    ) -> Prediction | list[Prediction]:
        """Ask about one image or several.

        Args:
            images: A path, bytes of a file, a PIL image or a numpy array (uint8 or uint16
                [H, W], 0 black; uint8 [H, W, 3] RGB); or a list of any of them.
            batch_size: Images at once.

        Returns:
            One prediction, or a list of them in the order of the images.

        Raises:
            DataError: If an image cannot be read; the message names it. `stream` goes on instead.
        """
        some = images if isinstance(images, list | tuple) else None
        found = []
        for prediction in self.stream([cast(Source, images)] if some is None else some, batch_size):
            if isinstance(prediction, FailedPrediction):
                raise DataError(prediction.error)
            found.append(prediction)
        return found if some is not None else found[0]

    def stream(
        self, images: Iterable[Source], batch_size: int = BATCH_SIZE
    ) -> Iterator[Prediction | FailedPrediction]:
        """Ask about many images, one batch in memory at a time.

        Args:
            images: As for `predict`.
            batch_size: Images at once.

        Yields:
            A prediction for each image, in order, or a failure for what cannot be read.
        """

        def read(task: tuple[int, Source]) -> LoadedImage | FailedPrediction:
            number, source = task
            name = display_name(source, number)
            try:
                return load_image(source, self.classifier.preprocessing, name)
            except DataError as error:
                return FailedPrediction(name, str(error))

        for batch in read_ahead(read, enumerate(images, start=1), batch_size):
            readable = [item for item in batch if isinstance(item, LoadedImage)]
            answers = iter(self.judge(readable) if readable else ())
            for item in batch:
                yield item if isinstance(item, FailedPrediction) else next(answers)

    def judge(self, batch: Sequence[LoadedImage]) -> Iterator[Prediction]:
        """Ask about images that were read already.

        Args:
            batch: At least one, all at once in the network.

        Yields:
            A prediction for each, in order.

        Raises:
            CheckpointError: If the model gives no number for one.
        """
        answers = self.classifier.engine(np.stack([item.pixels for item in batch]))
        probabilities = self.classifier.probabilities(answers.logits)
        for row, item in enumerate(batch):
            yield self._prediction(item, answers, row, float(probabilities[row]))

    def explain(self, image: Source) -> "Explanation":
        """Show where the network's answer for an image comes from.

        A heat map is no evidence of reasoning; see `pneumonia.inference.saliency`.

        Args:
            image: As for `predict`.

        Raises:
            DataError: If the image cannot be read.
            ModelError: If the model is an exported one, or its architecture is not known to give
                a meaningful map.
            ExtraError: If captum is not installed.
        """
        from pneumonia.inference.saliency import explain  # noqa: PLC0415 - its libraries are an extra

        name, preprocessing = display_name(image), self.classifier.preprocessing
        decoded = decode(image, name)
        (prediction,) = self.judge([preprocess_image(decoded, preprocessing, name)])
        return explain(self.classifier.engine, preprocessing, decoded, prediction)

    def _prediction(
        self, item: LoadedImage, answers: ModelOutput, row: int, probability: float
    ) -> Prediction:
        band, bound = self.classifier.band, self.classifier.ood_threshold
        score = float(answers.unlikeness[row]) if answers.unlikeness is not None else None
        return Prediction(
            path=item.name,
            probability=probability,
            decision=CLASSES[probability >= self.operating_point.threshold],
            uncertain=bool(band.uncertain(np.array([probability]))[0]) if band else None,
            # Written so that a score that is no number is flagged, too.
            unlike=not score <= bound if score is not None and bound is not None else None,
            unlikeness=score,
            warnings=item.warnings,
        )
