"""A checkpoint -> one ONNX file that needs neither torch nor this package to answer."""

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pneumonia.errors import CheckpointError, ExtraError, ModelError
from pneumonia.inference.classifier import EXPORTED
from pneumonia.inference.eager import Eager
from pneumonia.inference.engine import Answers
from pneumonia.inference.frozen import Calibration
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.runtime import (
    INPUT,
    LOGIT,
    METADATA,
    PROBABILITY,
    UNLIKENESS,
    Exported,
    open_exported,
)
from pneumonia.model.format import describe

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""Of ONNX: the lowest that torch's exporter writes; onnxruntime reads it since 1.14."""

TOLERANCE = 1e-4
"""Of logit and score, relative where they exceed 1, between torch and the exported file."""

_KEPT = ("calibration", "operating_point", "abstention", "facts", "recalibration")
_SETTINGS = ("backbone", "image_size", "fit", "interpolation")


class _Whole(nn.Module):
    """Pixels -> logit, calibrated probability and the detector's score."""

    def __init__(self, engine: Eager, calibration: Calibration) -> None:
        super().__init__()
        self.network, self.detector = engine.network, engine.detector
        self.calibration = calibration

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, embedding = self.network.embed(images)
        scaled = logits / self.calibration.temperature + self.calibration.offset
        found = (logits, torch.sigmoid(scaled))
        return found if self.detector is None else (*found, self.detector(images, embedding))


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
    if Path(checkpoint).suffix.lower() == EXPORTED:
        raise CheckpointError(f"{checkpoint} is an exported model already; name its checkpoint.")
    predictor = Predictor.load(checkpoint, "cpu")
    engine = predictor.classifier.engine
    assert isinstance(engine, Eager)  # noqa: S101  a checkpoint was loaded
    model = _convert(predictor, engine)
    partial = out.with_name(f".{out.stem}.{os.getpid()}{EXPORTED}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(model.SerializeToString())
        exported, _ = open_exported(partial)
        _compare(engine, exported, predictor.classifier.preprocessing.image_size)
        partial.replace(out)
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written ({error.strerror}); name another file."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return out


def _convert(predictor: Predictor, engine: Eager) -> "ModelProto":
    try:
        import onnx  # noqa: PLC0415  an extra
        import onnxruntime  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise ExtraError("pneumonia export", "export") from error
    content = predictor.classifier.checkpoint
    side = predictor.classifier.preprocessing.image_size
    names = [LOGIT, PROBABILITY, *([UNLIKENESS] if engine.detector is not None else [])]
    whole = _Whole(engine, predictor.classifier.calibration or Calibration()).eval()
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
            assert program is not None  # noqa: S101  as always with dynamo=True
            model = program.model_proto
            onnx.checker.check_model(model)
    except Exception as error:  # the exporter raises of everything
        backbone = content["hyper_parameters"]["backbone"]
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"the architecture {backbone} cannot be exported ({reason}); use its checkpoint."
        ) from error
    _strip(model)
    onnx.helper.set_model_props(model, _metadata(predictor))
    return model


def _metadata(predictor: Predictor) -> dict[str, str]:
    content = predictor.classifier.checkpoint
    settings = content["hyper_parameters"]
    detector = content.get("detector")
    told = {key: content[key] for key in describe() if key in content}
    told |= {key: content[key] for key in _KEPT if content.get(key) is not None}
    if isinstance(told.get("facts"), dict):  # all but the configuration, which names folders
        training = {k: v for k, v in told["facts"].get("training", {}).items() if k != "config"}
        told["facts"] = told["facts"] | {"training": training}
    told["hyper_parameters"] = {key: settings[key] for key in _SETTINGS}
    if detector is not None:
        told["detector"] = {
            key: value for key, value in detector.items() if isinstance(value, int | float | str)
        }
    return {
        METADATA: json.dumps(told),
        "classes": ",".join(content["classes"]),
        "threshold": repr(predictor.operating_point.threshold),
        "image_size": str(settings["image_size"]),
        "fit": settings["fit"],
        "interpolation": settings["interpolation"],
        "pneumonia_version": str(content.get("pneumonia_version")),
    }


def _strip(model: "ModelProto") -> None:
    """Remove what the exporter notes of each node: lines of code, with paths of this machine."""
    for part in (model.graph, *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
        for node in (*part.node, *part.value_info, *_ends(part)):
            node.doc_string = ""
            del node.metadata_props[:]


def _ends(part: Any) -> Iterator[Any]:
    for name in ("input", "output", "initializer"):
        yield from (one for one in getattr(part, name, ()) if not isinstance(one, str))


def _compare(engine: Eager, exported: Exported, side: int) -> None:
    """Ask both about noise and about a smooth picture, one image and three."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, side * side).reshape(1, side, side).astype(np.uint8)
    noise = random.integers(0, 256, (2, side, side), dtype=np.uint8)
    for images in (ramp, np.concatenate([ramp, noise])):
        expected, found = engine(images), exported(images)
        apart = max(_apart(expected, found))
        if not apart <= TOLERANCE:
            raise ModelError(
                f"the exported model answers otherwise than the checkpoint (by {apart:.2g}, at most"
                f" {TOLERANCE:g} is due); use the checkpoint."
            )


def _apart(expected: Answers, found: Answers) -> Iterator[float]:
    pairs = [(expected.logits, found.logits)]
    if expected.unlikeness is not None and found.unlikeness is not None:
        pairs.append((expected.unlikeness, found.unlikeness))
    for a, b in pairs:
        yield float((np.abs(a - b) / np.maximum(1, np.abs(a))).max())


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
