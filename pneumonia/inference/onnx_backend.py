"""Runs an exported model with ONNX Runtime; torch is neither needed nor imported."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.parallel import available_cores
from pneumonia.errors import CheckpointError, ExtraError, first_line
from pneumonia.inference.metadata import ModelMetadata
from pneumonia.inference.types import ModelOutput, Pixels
from pneumonia.model.checkpoint import check_format

METADATA = "pneumonia"
"""Key of the ONNX metadata that holds, as JSON, the content of the checkpoint but its weights."""

CHECKPOINT_SHA256 = "checkpoint_sha256"
"""Key in that content: the SHA-256 of the checkpoint, in hexadecimal digits."""

INPUT, LOGIT, PROBABILITY, OOD_SCORE = "images", "logit", "probability", "ood_score"

_MAX_BYTES = 2 << 30  # the limit of protocol buffers
_MAX_METADATA_CHARACTERS, _MAX_METADATA_DEPTH = 1 << 20, 20
_LOG_FATAL_ONLY = 4


class OnnxBackend:
    """A session of ONNX Runtime on the CPU, of a graph that `pneumonia export` wrote."""

    def __init__(self, session: Any, name: str) -> None:
        self._session, self._name = session, name
        self._outputs = [output.name for output in session.get_outputs()]

    def __call__(self, images: Pixels) -> ModelOutput:
        """Run network and OOD detector on a batch; see `Backend`."""
        values = self.run(images)
        return ModelOutput(values[LOGIT], values.get(OOD_SCORE))

    def run(self, images: Pixels) -> dict[str, NDArray[np.float64]]:
        """Run the graph: uint8 [N, S, S] to float64 [N] for each output, by name.

        Raises:
            CheckpointError: If the graph fails or does not return one number for each image.
        """
        try:
            arrays = self._session.run(self._outputs, {INPUT: images[:, None]})
        except Exception as error:  # onnxruntime has an exception for each of its codes
            raise CheckpointError(
                f"{self._name} fails on {len(images)} images ({first_line(error)}); export the"
                " checkpoint again."
            ) from error
        outputs = zip(self._outputs, arrays, strict=True)
        values = {name: array.astype(np.float64) for name, array in outputs}
        for name, value in values.items():
            if value.shape != (len(images),):
                raise CheckpointError(
                    f"{self._name}: output {name} has shape {value.shape} for {len(images)}"
                    " images; export the checkpoint again."
                )
        return values


def open_onnx(path: str | Path) -> tuple[OnnxBackend, ModelMetadata]:
    """Open an `.onnx` file that `pneumonia export` wrote.

    No other file is opened, and the file cannot run code of its own.

    Raises:
        CheckpointError: If it is not an exported model, is damaged, or comes from another version.
        ExtraError: If onnxruntime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; name a model (.ckpt or .onnx).")
    try:
        import onnxruntime  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ExtraError(f"{path}, an exported model,", "export") from error
    try:
        session = _session(onnxruntime, path)
    except Exception as error:  # onnxruntime has an exception for each of its codes
        raise CheckpointError(
            f"{path} cannot be read as an exported model ({first_line(error)}); name a file that"
            " `pneumonia export` wrote."
        ) from error
    content = _read_metadata(session)
    check_format(content, str(path))
    metadata = ModelMetadata.read(content, path)
    _check_signature(session, metadata, path)
    return OnnxBackend(session, str(path)), metadata


def _session(onnxruntime: Any, path: Path) -> Any:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("larger than any ONNX file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY  # its errors become ours
    options.intra_op_num_threads = available_cores()
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # External weights are looked for in a folder that does not exist, so none are ever opened.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.with_name(uuid4().hex))
    )
    return onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )


def _read_metadata(session: Any) -> dict[str, Any]:
    """The checkpoint's content; empty, which `check_format` refuses, if it is damaged."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA, "")
    if len(text) > _MAX_METADATA_CHARACTERS:
        return {}
    try:
        content = json.loads(text)
        readable = isinstance(content, dict) and _depth(content) <= _MAX_METADATA_DEPTH
    except (ValueError, RecursionError):
        return {}
    return content if readable else {}


def _depth(value: Any) -> int:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, values), default=0)


def _check_signature(session: Any, metadata: ModelMetadata, path: Path) -> None:
    side = metadata.preprocessing.image_size
    names = [LOGIT, PROBABILITY, *([OOD_SCORE] if metadata.ood_threshold is not None else [])]
    inputs = [(one.name, one.type, one.shape[1:]) for one in session.get_inputs()]
    outputs = [(one.name, one.type, len(one.shape)) for one in session.get_outputs()]
    if inputs != [(INPUT, "tensor(uint8)", [1, side, side])] or sorted(outputs) != sorted(
        (name, "tensor(float)", 1) for name in names
    ):
        raise CheckpointError(
            f"{path} has inputs {str(inputs)[:200]} and outputs {str(outputs)[:200]}, expected"
            f" {INPUT} (uint8, 1 x {side} x {side}) and {', '.join(names)}; export the checkpoint"
            " again."
        )
