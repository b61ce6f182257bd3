"""The Python interface: a model file that is asked about images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, overload

import numpy as np

from pneumonia.errors import CheckpointError, DataError
from pneumonia.evaluation.operating_point import OperatingPoint
from pneumonia.inference.batches import batches
from pneumonia.inference.classifier import BATCH_SIZE, Classifier
from pneumonia.inference.engine import Answers
from pneumonia.inference.prediction import Failure, Prediction
from pneumonia.inference.reading import Seen, Source, called, see
from pneumonia.labels import CLASSES

if TYPE_CHECKING:
    from pneumonia.inference.explain import Explanation


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model file, ready for images. Made by `pneumonia.load`.

    Attributes:
        classifier: The model and what is frozen with it.
        operating_point: Of the decisions.
    """

    classifier: Classifier
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
        classifier = Classifier.load(path, device)
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
            if isinstance(prediction, Failure):
                raise DataError(prediction.error)
            found.append(prediction)
        return found if some is not None else found[0]

    def stream(
        self, images: Iterable[Source], batch_size: int = BATCH_SIZE
    ) -> Iterator[Prediction | Failure]:
        """Ask about many images, one batch in memory at a time.

        Args:
            images: As for `predict`.
            batch_size: Images at once.

        Yields:
            A prediction for each image, in order, or a failure for what cannot be read.
        """

        def read(task: tuple[int, Source]) -> Seen | Failure:
            number, source = task
            name = called(source, number)
            try:
                return see(source, self.classifier.preprocessing, name)
            except DataError as error:
                return Failure(name, str(error))

        for batch in batches(read, enumerate(images, start=1), batch_size):
            readable = [item for item in batch if isinstance(item, Seen)]
            answers = iter(self.judge(readable) if readable else ())
            for item in batch:
                yield item if isinstance(item, Failure) else next(answers)

    def judge(self, batch: Sequence[Seen]) -> Iterator[Prediction]:
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

        A heat map is no evidence of reasoning; see `pneumonia.inference.caveat`.

        Args:
            image: As for `predict`.

        Raises:
            DataError: If the image cannot be read.
            ModelError: If the model is an exported one, or its architecture is not known to give
                a meaningful map.
            ExtraError: If captum is not installed.
        """
        from pneumonia.inference.explain import explain  # noqa: PLC0415 - its libraries are an extra

        return explain(self, image)

    def _prediction(self, item: Seen, answers: Answers, row: int, probability: float) -> Prediction:
        band, bound = self.classifier.band, self.classifier.unlike_above
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
