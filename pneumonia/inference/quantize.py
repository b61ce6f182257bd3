"""Static int8 quantization of exported models, for CPUs with VNNI instructions."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.manifest import read_table
from pneumonia.errors import ModelError
from pneumonia.evaluation.metrics import metric_values
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.files import atomic_replace
from pneumonia.inference.export import check_suffix, export
from pneumonia.inference.onnx_backend import INPUT, LOGIT
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.types import Prediction

MAX_AUROC_LOSS = 0.005
"""A quantized model that loses more on the labelled images is not written."""

_QUANTIZED = ("Conv", "Add", "Clip", "Relu", "MaxPool")
_CALIBRATION_IMAGES, _CALIBRATION_BATCH = 128, 16


@dataclass(frozen=True)
class QuantizationReport:
    """Float and int8 model on the same labelled images.

    Attributes:
        images: Their number.
        metrics: AUROC, recall and specificity at the threshold, fraction flagged as
            out-of-distribution, and images per second from files; each as (float, int8).
        agreement: Fraction of images with the same predicted class.
        max_difference: Largest difference between the two probabilities of an image.
    """

    images: int
    metrics: dict[str, tuple[float, float]]
    agreement: float
    max_difference: float


def export_int8(checkpoint: str | Path, table: str | Path, out: str | Path) -> QuantizationReport:
    """Write a checkpoint as an ONNX file with int8 weights and activations.

    Weights have 7 bits, for each channel, so that CPUs without VNNI do not saturate. The OOD
    detector stays in float32. Calibration and threshold are the checkpoint's.

    Args:
        checkpoint: The `best.ckpt` of a run.
        table: CSV file with columns `path,label`, such as `validation.csv` of the run. About 128 of
            these images calibrate the ranges of activations; all compare the two models.
        out: The file to write, ending in `.onnx`; an existing one is replaced.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        DataError: If the table or an image cannot be read.
        EvaluationError: If the images are all of one class.
        ModelError: If AUROC falls by more than `MAX_AUROC_LOSS`; nothing is written.
        ExtraError: If the extra [export] is not installed.
    """
    check_suffix(Path(out))
    rows = read_table(table).rows
    paths, labels = [row.path for row in rows], np.array([row.label for row in rows])
    with TemporaryDirectory() as folder, atomic_replace(out) as partial:
        partial.touch()  # fail before a minute of work
        source = export(checkpoint, Path(folder) / "float.onnx")
        model = Predictor.load(source)
        few = paths[:: max(1, len(paths) // _CALIBRATION_IMAGES)]
        images = np.stack([model.preprocessing.read(path) for path in few])[:, None]
        quantized = source.with_name("int8.onnx")
        _quantize(source, images, quantized)
        report = _compare(model, Predictor.load(quantized), paths, labels)
        auroc, reached = report.metrics["AUROC"]
        if reached < auroc - MAX_AUROC_LOSS:
            raise ModelError(
                f"int8 lowers the AUROC on {table} from {auroc:.3f} to {reached:.3f}, by more than"
                f" {MAX_AUROC_LOSS:g}; export without --int8."
            )
        shutil.copyfile(quantized, partial)
    return report


def _quantize(source: Path, images: NDArray[np.uint8], out: Path) -> None:
    import onnx  # noqa: PLC0415  an extra
    from onnxruntime.quantization import (  # noqa: PLC0415
        CalibrationDataReader,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Any] = iter(
                np.array_split(images, -(-len(images) // _CALIBRATION_BATCH))
            )

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    prepared = source.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    graph = onnx.load(prepared).graph
    makers = {output: node for node in graph.node for output in node.output}
    of_logit, waiting = set(), [LOGIT]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in of_logit:
            of_logit.add(node.name)
            waiting += node.input
    quantize_static(
        prepared,
        out,
        Images(),
        activation_type=QuantType.QUInt8,  # with int8 weights what VNNI multiplies
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=_QUANTIZED,
        nodes_to_exclude=[node.name for node in graph.node if node.name not in of_logit],
    )
    quantized, metadata = onnx.load(out), onnx.load(source).metadata_props
    onnx.helper.set_model_props(quantized, {one.key: one.value for one in metadata})
    onnx.save(quantized, out)


def _compare(
    model: Predictor, quantized: Predictor, paths: list[str], labels: NDArray[np.int64]
) -> QuantizationReport:
    predictions: list[list[Prediction]] = []
    columns = []
    for each in (model, quantized):
        start = time.perf_counter()
        found = each.predict(paths)
        rate = len(paths) / (time.perf_counter() - start)
        predictions.append(found)
        point = each.operating_point
        table = PredictionTable(label=labels, probability=np.array([p.probability for p in found]))
        values = metric_values(table, {"": point.threshold if point else 0.5})
        columns.append(
            {
                "AUROC": values["auroc"],
                "recall (sensitivity)": values["recall"],
                "specificity": values["specificity"],
                "out-of-distribution": float(np.mean([bool(p.is_ood) for p in found])),
                "images/s": rate,
            }
        )
    pairs = list(zip(*predictions, strict=True))
    return QuantizationReport(
        images=len(paths),
        metrics={name: (columns[0][name], columns[1][name]) for name in columns[0]},
        agreement=float(np.mean([a.predicted_class == b.predicted_class for a, b in pairs])),
        max_difference=max(abs(a.probability - b.probability) for a, b in pairs),
    )
