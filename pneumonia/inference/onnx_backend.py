"""An exported model, run by onnxruntime: torch is not needed, nor imported."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.parallel import available_cores
from pneumonia.errors import CheckpointError, ExtraError, first_line
from pneumonia.inference.types import ModelOutput, Pixels
from pneumonia.model.checkpoint import check_format

METADATA = "pneumonia"
"""Under this key the file says, as JSON, what a checkpoint says beside its weights."""

INPUT, LOGIT, PROBABILITY, UNLIKENESS = "images", "logit", "probability", "unlikeness"

_MOST_BYTES = 2 << 30
"""No ONNX file is larger: a protocol buffer ends there."""

_MOST_METADATA = 1 << 20
_DEEPEST = 20
"""Characters of the metadata, and values within values: a hundred times what is written, and what
every reader of them can bear."""

_FATAL_ONLY = 4


class OnnxBackend:
    """A session of onnxruntime on the CPU; see `Backend`.

    Args:
        session: Of a graph whose inputs and outputs are as `pneumonia export` writes them.
        name: What to call the model in a message.
    """

    def __init__(self, session: Any, name: str) -> None:
        self._session, self._name = session, name
        self._outputs = [output.name for output in session.get_outputs()]

    def __call__(self, images: Pixels) -> ModelOutput:
        """Ask the network and the detector, in one pass; see `Backend`.

        Raises:
            CheckpointError: If the graph fails, or does not give one number for each image.
        """
        found = self.run(images, [name for name in self._outputs if name != PROBABILITY])
        return ModelOutput(found[LOGIT], found.get(UNLIKENESS))

    def run(
        self, images: Pixels, outputs: list[str] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Run the graph itself.

        Args:
            images: As for `__call__`.
            outputs: Names of those that are wanted; None for all.

        Returns:
            float64 [N] under the name of each output.

        Raises:
            CheckpointError: As `__call__`.
        """
        names = self._outputs if outputs is None else outputs
        try:
            values = self._session.run(names, {INPUT: images[:, None]})
        except Exception as error:  # onnxruntime has an exception for each of its codes
            raise CheckpointError(
                f"{self._name} cannot be run on {len(images)} images ({first_line(error)});"
                " export the checkpoint again."
            ) from error
        found = {name: value.astype(np.float64) for name, value in zip(names, values, strict=True)}
        for name, value in found.items():
            if value.shape != (len(images),):
                raise CheckpointError(
                    f"{self._name} gives {name} of shape {value.shape} for {len(images)} images;"
                    " export the checkpoint again."
                )
        return found


def open_onnx(path: str | Path) -> tuple[OnnxBackend, dict[str, Any]]:
    """Open an exported model.

    It can run no code of its own, as onnxruntime knows its operators by name, and opens no other
    file. It is still a program: one that was made to do harm may take any time and memory.

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
    try:
        session = _session(onnxruntime, path)
    except Exception as error:  # onnxruntime has an exception for each of its codes
        raise CheckpointError(
            f"{path} is not an exported model ({first_line(error)}); name a file that"
            " `pneumonia export` wrote."
        ) from error
    content = _content(session, path)
    _check_shapes(session, content, path)
    return OnnxBackend(session, str(path)), content


def _session(onnxruntime: Any, path: Path) -> Any:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError("it is larger than any ONNX file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY  # its errors become ours
    options.intra_op_num_threads = available_cores()
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # A model file is the whole model: weights that it says are elsewhere are looked for where
    # there is nothing, and where nobody can have put anything.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.with_name(uuid4().hex))
    )
    return onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )


def _content(session: Any, path: Path) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA, "{}")
    try:
        content = json.loads(text) if len(text) <= _MOST_METADATA else {}
    except (ValueError, RecursionError):
        content = {}
    if not isinstance(content, dict) or not _shallow(content):
        content = {}
    check_format(content, str(path))
    return content


def _shallow(content: dict[str, Any]) -> bool:
    level: list[Any] = [content]
    for _ in range(_DEEPEST):
        tables = (list(one.values()) if isinstance(one, dict) else one for one in level)
        level = [value for one in tables if isinstance(one, list) for value in one]
    return not level


def _check_shapes(session: Any, content: dict[str, Any], path: Path) -> None:
    side = content.get("hyper_parameters", {}).get("image_size")
    detector = [UNLIKENESS] if content.get("ood_threshold") is not None else []
    taken = [(one.name, one.type, one.shape[1:]) for one in session.get_inputs()]
    given = [(one.name, one.type, len(one.shape)) for one in session.get_outputs()]
    if taken != [(INPUT, "tensor(uint8)", [1, side, side])] or sorted(given) != sorted(
        (name, "tensor(float)", 1) for name in (LOGIT, PROBABILITY, *detector)
    ):
        raise CheckpointError(
            f"{path} takes {_brief(taken)} and gives {_brief(given)}, which is not what"
            " `pneumonia export` writes; export the checkpoint again."
        )


def _brief(value: object) -> str:
    return str(value)[:200]
