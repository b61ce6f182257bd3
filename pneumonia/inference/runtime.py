"""An exported model, run by onnxruntime: torch is not needed, nor imported."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pneumonia.data.pool import cores
from pneumonia.errors import CheckpointError, ExtraError
from pneumonia.inference.engine import Answers, Pixels
from pneumonia.model.format import check_format

METADATA = "pneumonia"
"""Under this key the file says, as JSON, what a checkpoint says beside its weights."""

INPUT, LOGIT, PROBABILITY, UNLIKENESS = "images", "logit", "probability", "unlikeness"

_MOST_BYTES = 2 << 30
"""No ONNX file is larger: a protocol buffer ends there."""

_ERRORS_ONLY = 3
_NOWHERE = "/dev/null"
"""Where weights outside the file are looked for: a model file is the whole model."""


class Exported:
    """A session of onnxruntime on the CPU; see `Engine`."""

    def __init__(self, session: Any) -> None:
        self._session = session
        names = [output.name for output in session.get_outputs()]
        self._wanted = [name for name in (LOGIT, UNLIKENESS) if name in names]

    def __call__(self, images: Pixels) -> Answers:
        """Ask the network and the detector, in one pass; see `Engine`."""
        logits, *scores = self._session.run(self._wanted, {INPUT: images[:, None]})
        unlikeness = scores[0].astype(np.float64) if scores else None
        return Answers(logits.astype(np.float64), unlikeness)


def open_exported(path: str | Path) -> tuple[Exported, dict[str, Any]]:
    """Open an exported model; it can hold no code of its own.

    Args:
        path: An `.onnx` file that `pneumonia export` wrote.

    Returns:
        The engine, and what the file says of itself, as a checkpoint does.

    Raises:
        CheckpointError: If it is none, is damaged, or comes from a newer version.
        ExtraError: If onnxruntime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is no file; name a model (.ckpt, .onnx).")
    try:
        import onnxruntime  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ExtraError(f"{path}, an exported model,", "export") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY + 1  # its errors become ours
    options.intra_op_num_threads = cores()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", _NOWHERE
    )
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is larger than any ONNX file")
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has an exception for each of its codes
        raise CheckpointError(
            f"{path} is not an exported model ({_first_line(error)}); name a file that"
            " `pneumonia export` wrote."
        ) from error
    content = _content(session, path)
    _check_shapes(session, content, path)
    return Exported(session), content


def _content(session: Any, path: Path) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA, "{}")
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    check_format(content, str(path))
    return dict(content)


def _check_shapes(session: Any, content: dict[str, Any], path: Path) -> None:
    side = content.get("hyper_parameters", {}).get("image_size")
    expected = {INPUT: ("tensor(uint8)", [1, side, side])}
    found = {one.name: (one.type, list(one.shape[1:])) for one in session.get_inputs()}
    outputs = {one.name for one in session.get_outputs()}
    detector = {UNLIKENESS} if content.get("detector") is not None else set()
    if found != expected or outputs != {LOGIT, PROBABILITY} | detector:
        raise CheckpointError(
            f"{path} takes {found} and gives {sorted(outputs)}, which is not what `pneumonia"
            " export` writes; export the checkpoint again."
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
