"""A checkpoint -> one ONNX file that needs neither torch nor this package to answer."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pneumonia.data.image_io import Preprocessing
from pneumonia.data.synthetic import chest, expose
from pneumonia.errors import CheckpointError, ExtraError, ModelError, first_line
from pneumonia.files import atomic_replace
from pneumonia.inference.metadata import Calibration
from pneumonia.inference.onnx_backend import (
    INPUT,
    LOGIT,
    METADATA,
    PROBABILITY,
    UNLIKENESS,
    OnnxBackend,
    open_onnx,
)
from pneumonia.inference.predictor import EXPORTED, InferenceModel, Predictor
from pneumonia.inference.torch_backend import TorchBackend
from pneumonia.inference.types import ModelOutput, Pixels
from pneumonia.labels import SUBTYPES
from pneumonia.model.checkpoint import describe

if TYPE_CHECKING:
    from onnx import ModelProto


TOLERANCE = 1e-4
"""Of the probability; of a score, relative where it exceeds 1; and of a logit, relative to the
largest of the batch if that exceeds 1. A logit near 0 is the difference of large numbers too: in
single precision two libraries agree to about 2e-6 of the largest, which is 1e-4 of 50."""

_BLENDS = 16


def check_parity(classifier: InferenceModel, exported: OnnxBackend) -> None:
    """Ask both about pictures that tell graphs apart, one at a time and all at once.

    Drawn radiographs, noise, a ramp and blank pictures; and blends of the two that the model
    finds most different, as a probability near 0 or 1 would not show a wrong temperature.

    Args:
        classifier: The checkpoint.
        exported: The graph.

    Raises:
        ModelError: If an answer is missing, is no number, or differs.
    """
    pictures = _pictures(classifier.preprocessing)
    logits = classifier.engine(pictures).logits
    low, high = (pictures[row].astype(float) for row in (logits.argmin(), logits.argmax()))
    shares = np.linspace(0, 1, _BLENDS)[:, None, None]
    blends = (low + shares * (high - low)).round().astype(np.uint8)
    pictures = np.concatenate([pictures, blends])
    expected = outputs(classifier, classifier.engine(pictures))
    _compare(expected, exported.run(pictures))
    alone = [exported.run(picture[None]) for picture in pictures]
    _compare(expected, {name: np.concatenate([one[name] for one in alone]) for name in alone[0]})


def outputs(classifier: InferenceModel, answers: ModelOutput) -> dict[str, NDArray[np.float64]]:
    """What a graph has to give for answers of its checkpoint, by the names of its outputs.

    Args:
        classifier: The checkpoint.
        answers: What its engine gave.
    """
    found = {LOGIT: answers.logits, PROBABILITY: classifier.probabilities(answers.logits)}
    return found if answers.unlikeness is None else found | {UNLIKENESS: answers.unlikeness}


def _compare(
    expected: Mapping[str, NDArray[np.float64]], found: Mapping[str, NDArray[np.float64]]
) -> None:
    if expected.keys() != found.keys():
        raise ModelError(
            f"the exported model gives {', '.join(found)} instead of {', '.join(expected)}; use the"
            " checkpoint."
        )
    for name, values in expected.items():
        size = np.abs(values).max() if name == LOGIT else np.abs(values)
        apart = float((np.abs(values - found[name]) / np.maximum(1, size)).max())
        if not apart <= TOLERANCE:  # nor may it be NaN
            raise ModelError(
                f"the exported model answers otherwise than the checkpoint (its {name} by"
                f" {apart:.2g}, at most {TOLERANCE:g} is due); use the checkpoint."
            )


def _pictures(preprocessing: Preprocessing) -> Pixels:
    random = np.random.default_rng(0)
    side = preprocessing.image_size
    drawn = [
        preprocessing(Image.fromarray(expose(chest(subtype, random), random)))
        for subtype in SUBTYPES
        for _ in range(2)
    ]
    noise = random.integers(0, 256, (2, side, side), dtype=np.uint8)
    ramp = np.linspace(0, 255, side * side).reshape(side, side).astype(np.uint8)
    blank = np.zeros((side, side), np.uint8)
    return np.stack([*drawn, *noise, ramp, blank, 255 - blank])


OPSET = 18
"""Of ONNX: the lowest that torch's exporter writes; onnxruntime reads it since 1.14."""

_KEPT = (
    *("calibration", "operating_point", "abstention", "ood_threshold"),
    *("metadata", "recalibration"),
)
_SETTINGS = ("backbone", "image_size", "resize_mode", "interpolation")


class _Whole(nn.Module):
    """Pixels -> logit, calibrated probability and the detector's score."""

    def __init__(self, engine: TorchBackend, calibration: Calibration) -> None:
        super().__init__()
        self.network, self.detector = engine.network, engine.detector
        self.calibration = calibration

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, embedding = self.network.embed(images)
        scaled = logits / self.calibration.temperature + self.calibration.offset
        found = (logits, torch.sigmoid(scaled))
        if self.detector is None:
            return found
        return *found, self.detector(images, embedding).float()


def export(checkpoint: str | Path, out: str | Path) -> Path:
    """Write a checkpoint as one self-contained ONNX file, and check that it answers alike.

    Takes `images`, uint8 [N, 1, S, S], 0 black to 255 white, any N. Gives `logit`,
    `probability` (calibrated) and, where the model has a detector, `unlikeness`; float32 [N].
    Classes, threshold, band, sizes and versions are in the metadata under `pneumonia`, as JSON.

    Args:
        checkpoint: The `best.ckpt` of a run.
        out: The file to write, ending in `.onnx`; one that is there is replaced.

    Returns:
        The file written.

    Raises:
        CheckpointError: If the checkpoint cannot be used or cannot decide, or the file cannot be
            written.
        ModelError: If the architecture cannot be exported, or answers otherwise afterwards.
        ExtraError: If onnx, onnxscript or onnxruntime is not installed.
    """
    out = Path(out)
    if out.suffix.lower() != EXPORTED:
        raise CheckpointError(f"{out} must end in {EXPORTED}.")
    _check_extra()
    classifier = Predictor.load(checkpoint, "cpu").classifier
    engine = classifier.engine
    if not isinstance(engine, TorchBackend):
        raise CheckpointError(f"{checkpoint} is an exported model already; name its checkpoint.")
    try:
        with atomic_replace(out) as partial:
            partial.touch()  # before a minute of work
            partial.write_bytes(_convert(classifier, engine))
            exported, _ = open_onnx(partial)
            check_parity(classifier, exported)
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written ({error.strerror}); name another file."
        ) from error
    return out


def _check_extra() -> None:
    try:
        import onnx  # noqa: F401, PLC0415  an extra
        import onnxruntime  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise ExtraError("pneumonia export", "export") from error


def _convert(classifier: InferenceModel, engine: TorchBackend) -> bytes:
    import onnx  # noqa: PLC0415  an extra

    side = classifier.preprocessing.image_size
    names = [LOGIT, PROBABILITY, *([UNLIKENESS] if engine.detector is not None else [])]
    whole = _Whole(engine, classifier.calibration or Calibration()).eval()
    example = torch.zeros(2, 1, side, side, dtype=torch.uint8)
    try:
        with _silence(), torch.no_grad():
            program = torch.onnx.export(
                whole,
                (example,),
                input_names=[INPUT],
                output_names=names,
                opset_version=OPSET,
                dynamic_shapes={"images": {0: torch.export.Dim("N")}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            model = cast(torch.onnx.ONNXProgram, program).model_proto  # as always with dynamo
            onnx.checker.check_model(model)
            _strip(model)
            onnx.helper.set_model_props(model, _metadata(classifier))
            return bytes(model.SerializeToString())
    except Exception as error:  # the exporter raises of everything
        backbone = classifier.checkpoint["hyper_parameters"]["backbone"]
        raise ModelError(
            f"the architecture {backbone} cannot be exported ({first_line(error)}); use its"
            " checkpoint."
        ) from error


def _metadata(classifier: InferenceModel) -> dict[str, str]:
    content = classifier.checkpoint
    settings = content["hyper_parameters"]
    told = {key: content[key] for key in describe() if key in content}
    told |= {key: content[key] for key in _KEPT if content.get(key) is not None}
    if isinstance(told.get("metadata"), dict):  # all but the configuration, which names folders
        training = {k: v for k, v in told["metadata"].get("training", {}).items() if k != "config"}
        told["metadata"] = told["metadata"] | {"training": training}
    told["hyper_parameters"] = {key: settings[key] for key in _SETTINGS}
    return {
        METADATA: json.dumps(told),
        "classes": ",".join(content["classes"]),
        "threshold": repr(content["operating_point"]["threshold"]),
        "image_size": str(settings["image_size"]),
        "resize_mode": settings["resize_mode"],
        "interpolation": settings["interpolation"],
        "pneumonia_version": str(content.get("pneumonia_version")),
    }


def _strip(model: "ModelProto") -> None:
    """Remove what the exporter notes of each node: lines of code, with paths of this machine."""
    parts: list[Any] = [model.graph, *model.functions]
    while parts:
        part = parts.pop()
        for one in (part, *part.node, *part.value_info, *_ends(part)):
            one.ClearField("doc_string")
            one.ClearField("metadata_props")
        for attribute in (attribute for node in part.node for attribute in node.attribute):
            parts.extend(attribute.graphs)
            if attribute.HasField("g"):  # what a condition or a loop does
                parts.append(attribute.g)


def _ends(part: Any) -> Iterator[Any]:
    for name in ("input", "output", "initializer"):
        yield from (one for one in getattr(part, name, ()) if not isinstance(one, str))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's running commentary to itself."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
