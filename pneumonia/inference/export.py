"""Exports a checkpoint as one ONNX file that runs without torch and without this package."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pneumonia.errors import CheckpointError, ExtraError, ModelError, first_line
from pneumonia.files import atomic_replace, file_sha256
from pneumonia.inference.metadata import SETTINGS, Calibration
from pneumonia.inference.onnx_backend import (
    CHECKPOINT_SHA256,
    INPUT,
    LOGIT,
    METADATA,
    OOD_SCORE,
    PROBABILITY,
    OnnxBackend,
    open_onnx,
)
from pneumonia.inference.predictor import EXPORTED, Predictor
from pneumonia.inference.torch_backend import TorchBackend
from pneumonia.inference.types import Pixels
from pneumonia.model.checkpoint import describe

OPSET = 18
"""The lowest that torch's exporter writes; read by onnxruntime since 1.14."""

TOLERANCE = 1e-4
"""Allowed difference, relative for scores above 1 and for batches with logits above 1."""

_METADATA_KEYS = (
    *describe(),
    *("calibration", "operating_point", "abstention", "ood_threshold", "metadata"),
    "recalibration",
)


def export(checkpoint: str | Path, out: str | Path) -> Path:
    """Write a checkpoint as one ONNX file, and check that both give the same output.

    The graph takes `images`, uint8 [N, 1, S, S], 0 black to 255 white, any N. It returns `logit`,
    `probability` (calibrated) and, if the model has an OOD detector, `ood_score`; float32 [N].
    What else the checkpoint holds is in the metadata under `pneumonia`, as JSON.

    Args:
        checkpoint: The `best.ckpt` of a run.
        out: The file to write, ending in `.onnx`; an existing one is replaced.

    Raises:
        CheckpointError: If the checkpoint cannot be used or has no threshold.
        OSError: If the file cannot be written.
        ModelError: If the architecture cannot be exported, or the graph gives another output.
        ExtraError: If onnx, onnxscript or onnxruntime is not installed.
    """
    out = Path(out)
    check_suffix(out)
    check_export_extra("pneumonia export")
    model = Predictor.load(checkpoint, "cpu")
    if not isinstance(model.backend, TorchBackend):
        raise CheckpointError(f"{checkpoint} is already exported; name a checkpoint (.ckpt).")
    with atomic_replace(out) as partial:
        partial.touch()  # fail before a minute of work
        partial.write_bytes(_convert(model, model.backend, file_sha256(checkpoint)))
        check_parity(model, open_onnx(partial)[0])
    return out


def check_suffix(out: Path) -> None:
    """Raise a `CheckpointError` if the name of an exported model does not end in `.onnx`."""
    if out.suffix.lower() != EXPORTED:
        raise CheckpointError(f"{out} must end in {EXPORTED}.")


def check_export_extra(what: str) -> None:
    """Raise `ExtraError`, saying what needs it, if the extra [export] is not installed."""
    try:
        import onnx  # noqa: F401, PLC0415  extras
        import onnxruntime  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise ExtraError(what, "export") from error


class _ExportedModule(nn.Module):
    """Pixels -> logit, calibrated probability and OOD score."""

    def __init__(self, backend: TorchBackend, calibration: Calibration) -> None:
        super().__init__()
        self.network, self.detector = backend.network, backend.detector
        self.calibration = calibration

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, embedding = self.network.embed(images)
        calibrated = logits / self.calibration.temperature
        outputs = (logits, torch.sigmoid(calibrated))
        if self.detector is None:
            return outputs
        return *outputs, self.detector(images, embedding).float()


def _convert(model: Predictor, backend: TorchBackend, sha256: str) -> bytes:
    import onnx  # noqa: PLC0415  an extra

    side = model.preprocessing.image_size
    module = _ExportedModule(backend, model.calibration or Calibration()).eval()
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                module,
                (torch.zeros(2, 1, side, side, dtype=torch.uint8),),
                input_names=[INPUT],
                output_names=[LOGIT, PROBABILITY, *([OOD_SCORE] if backend.detector else [])],
                opset_version=OPSET,
                dynamic_shapes={"images": {0: torch.export.Dim("N")}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            proto = cast(torch.onnx.ONNXProgram, program).model_proto  # always with dynamo
            onnx.checker.check_model(proto)
            _strip_notes(proto)
            onnx.helper.set_model_props(proto, _metadata(model, sha256))
            return bytes(proto.SerializeToString())
    except Exception as error:  # the exporter has no exception of its own
        backbone = model.checkpoint["hyper_parameters"]["backbone"]
        raise ModelError(
            f"the architecture {backbone} cannot be exported ({first_line(error)}); use its"
            " checkpoint."
        ) from error


def _metadata(model: Predictor, sha256: str) -> dict[str, str]:
    checkpoint = model.checkpoint
    kept = {key: checkpoint[key] for key in _METADATA_KEYS if checkpoint.get(key) is not None}
    if isinstance(kept.get("metadata"), dict):  # the configuration names folders of this machine
        training = dict(kept["metadata"].get("training", {}))
        training.pop("config", None)
        kept["metadata"] = kept["metadata"] | {"training": training}
    found = checkpoint["hyper_parameters"]
    settings = {key: found[key] for key in SETTINGS if key in found}
    kept |= {"hyper_parameters": settings, CHECKPOINT_SHA256: sha256}
    return {
        METADATA: json.dumps(kept),
        "classes": ",".join(checkpoint["classes"]),
        "threshold": repr(checkpoint["operating_point"]["threshold"]),
        **{key: str(value) for key, value in settings.items()},
    }


def _strip_notes(message: Any) -> None:
    """Remove the exporter's notes (lines of code with paths of this machine), in subgraphs too."""
    for field in ("doc_string", "metadata_props"):
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if hasattr(value, "__len__") else [value]:
                _strip_notes(inner)


def check_parity(model: Predictor, exported: OnnxBackend) -> None:
    """Compare checkpoint and graph on test images, one at a time and as a batch.

    Raises:
        ModelError: If an output is not finite or differs by more than `TOLERANCE`.
    """
    images = _test_images(model.preprocessing.image_size)
    expected = expected_outputs(model, images)
    single = [exported.run(image[None]) for image in images]
    joined = {name: np.concatenate([outputs[name] for outputs in single]) for name in single[0]}
    for found in (exported.run(images), joined):
        for name, values in expected.items():
            # A logit near 0 may be the difference of large numbers.
            size = np.abs(values).max() if name == LOGIT else np.abs(values)
            difference = float((np.abs(values - found[name]) / np.maximum(1, size)).max())
            if not difference <= TOLERANCE:  # NaN is refused too
                raise ModelError(
                    f"the {name} of the exported model differs from the checkpoint's by"
                    f" {difference:.2g}, at most {TOLERANCE:g} is allowed; use the checkpoint."
                )


def expected_outputs(model: Predictor, images: Pixels) -> dict[str, NDArray[np.float64]]:
    """The outputs that the graph of a checkpoint must give, by name: float64 [N] for N images."""
    output = model.backend(images)
    expected = {LOGIT: output.logits, PROBABILITY: model.probabilities(output.logits)}
    return expected if output.ood_score is None else expected | {OOD_SCORE: output.ood_score}


def _test_images(side: int) -> Pixels:
    """Noise from coarse to fine, a ramp, black and white."""
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (n, n), np.uint8) for n in (2, 3, 5, 8, 16, 32, side)]
    smooth = [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in noise]
    ramp = np.linspace(0, 255, side * side).reshape(side, side).astype(np.uint8)
    black = np.zeros((side, side), np.uint8)
    return np.stack([*map(np.asarray, smooth), ramp, black, 255 - black])
