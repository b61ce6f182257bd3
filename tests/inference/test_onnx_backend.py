"""Foreign and damaged model files are refused in one sentence; their metadata is only text."""

import copy
import json
from functools import reduce
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fuzzing import QUICK
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pneumonia.errors import CheckpointError, ModelError
from pneumonia.evaluation.evaluate import evaluate_predictions
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.report.console import print_summary
from pneumonia.evaluation.report.write import model_card
from pneumonia.inference.evaluate import describe_checkpoint
from pneumonia.inference.predictor import Predictor

PIXELS = np.zeros((48, 48), np.uint8)


@pytest.fixture(scope="module")
def model(exported) -> onnx.ModelProto:
    return onnx.load(exported)


def read_metadata(model: onnx.ModelProto) -> dict[str, object]:
    (text,) = (prop.value for prop in model.metadata_props if prop.key == "pneumonia")
    return json.loads(text)


def with_metadata(model: onnx.ModelProto, metadata: str | dict[str, object]) -> bytes:
    changed = copy.deepcopy(model)
    for prop in changed.metadata_props:
        if prop.key == "pneumonia":
            prop.value = metadata if isinstance(metadata, str) else json.dumps(metadata)
    return changed.SerializeToString()


def graph(node: onnx.NodeProto, *weights: TensorProto, domain: str = "") -> bytes:
    """A small model of another project, x -> y."""
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy"]
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    made = helper.make_model(
        helper.make_graph([node], "g", value[:1], value[1:], weights), opset_imports=opsets
    )
    made.ir_version = 9
    return made.SerializeToString()


def external(location: str, offset: str = "0") -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1024])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", "4096")):
        tensor.external_data.add(key=key, value=value)
    return tensor


ADD = helper.make_node("Add", ["x", "w"], ["y"])
LARGE = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 16], raw_data=b"")
FOREIGN = {
    "text": b"no model",
    "another model": graph(helper.make_node("Identity", ["x"], ["y"])),
    "weights larger than the file": graph(ADD, LARGE),
    "weights above the file": graph(ADD, external("../w.bin")),
    "weights behind a link": graph(ADD, external("link.bin")),
    "weights in the memory of the process": graph(ADD, external("*/_ORT_MEM_ADDR_/*", "4096")),
    "an unknown operator": graph(helper.make_node("Run", ["x"], ["y"], domain="x"), domain="x"),
}


def refused(file: Path) -> None:
    with pytest.raises(CheckpointError, match=file.name):
        Predictor.load(file, finalized=False)


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_are_refused_and_no_other_file_is_opened(tmp_path, monkeypatch, content):
    file = tmp_path / "here" / "x.onnx"
    file.parent.mkdir()
    for folder in (tmp_path, file.parent):
        np.ones(1024, np.float32).tofile(folder / "w.bin")
    (file.parent / "link.bin").symlink_to(tmp_path / "w.bin")
    monkeypatch.chdir(file.parent)
    file.write_bytes(content)
    refused(file)


def test_absolute_paths_cut_files_and_missing_files_are_refused(exported, tmp_path):
    file = tmp_path / "x.onnx"
    np.ones(1024, np.float32).tofile(tmp_path / "w.bin")
    file.write_bytes(graph(ADD, external(str(tmp_path / "w.bin"))))
    refused(file)
    content = exported.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    refused(file)
    with file.open("wb") as sparse:
        sparse.truncate(3 << 30)  # larger than any ONNX file; takes no room on the disk
    refused(file)
    refused(tmp_path / "y.onnx")


NESTED = reduce(lambda inner, _: {"x": inner}, range(100), 1)


@pytest.mark.parametrize(
    "metadata",
    [
        {"format_version": 99},
        {"hyper_parameters": {"image_size": 64}},
        {"metadata": {"training": "x" * (2 << 20)}},
        {"metadata": NESTED},
        *("", "[]", "{", "[" * 100_000),
    ],
    ids=lambda metadata: str(metadata)[:30],
)
def test_metadata_that_does_not_fit_is_refused(model, tmp_path, metadata):
    content = read_metadata(model) | metadata if isinstance(metadata, dict) else metadata
    (tmp_path / "x.onnx").write_bytes(with_metadata(model, content))
    refused(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("calibrate", "--data", "nowhere", "--out", "new.ckpt"), "checkpoint"),
        (("export", "--out", "new.onnx"), "model.onnx"),
        (("predict", __file__, "--explain", "new"), "checkpoint"),
        (("predict", __file__, "--device", "cuda"), "cuda"),
        (("evaluate", "--data", "nowhere", "--out", "new"), "nowhere"),  # else it works
    ],
)
def test_what_an_exported_model_cannot_do_is_refused_before_any_work(
    exported, tmp_path, monkeypatch, run, capsys, words, named
):
    monkeypatch.chdir(tmp_path)
    assert run(words[0], "--checkpoint", exported, *words[1:]) == 2
    output, error = capsys.readouterr()
    assert named in error
    assert output == ""
    assert list(tmp_path.iterdir()) == []


def test_control_characters_in_metadata_are_not_printed(model, tmp_path, run, capsys):
    content = read_metadata(model) | {"format_version": 99, "pneumonia_version": "\x1b[31m"}
    (tmp_path / "x.onnx").write_bytes(with_metadata(model, content))
    assert run("predict", "--checkpoint", tmp_path / "x.onnx", __file__) == 2
    for text in capsys.readouterr():
        assert "\x1b" not in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def paths(value: object, above: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    inner = value.items() if isinstance(value, dict) else ()
    return [above, *(path for key, one in inner for path in paths(one, (*above, key)))]


def mutate(data, content: dict[str, object], places: list[tuple[object, ...]], values) -> None:
    """Replaces one to three values by others of any kind."""
    for _ in range(data.draw(st.integers(1, 3))):
        *above, key = data.draw(st.sampled_from(places))
        table = content
        for name in above:
            table = table[name] if isinstance(table, dict) and name in table else {}
        if isinstance(table, dict):
            table[key] = data.draw(values)


LABELS = np.arange(40) % 2
TABLE = PredictionTable(
    path=[f"{row}.png" for row in range(40)],
    label=LABELS,
    logit=np.linspace(-2, 2, 40),
    patient=[f"p{row}" for row in range(40)],
    subtype=np.array(["normal", "viral"])[LABELS],
)


def works_or_is_refused(file: Path) -> None:
    """Runs everything that reads the metadata of a model file."""
    try:
        predictor = Predictor.load(file)
        predictor.predict(PIXELS)
        described = describe_checkpoint(predictor.checkpoint, file, "here")
    except (CheckpointError, ModelError):
        return
    result = evaluate_predictions(TABLE, described, replicates=200)
    print_summary(result, {})
    model_card(result)


@settings(max_examples=30, **QUICK)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["onnx", "ckpt"])
def test_metadata_of_any_kind_works_or_is_refused(model, checkpoint_file, tmp_path, kind, data):
    file, values = tmp_path / f"x.{kind}", JSON
    content = read_metadata(model)
    if kind == "ckpt":
        content = torch.load(checkpoint_file, weights_only=True)
        values |= st.builds(torch.zeros, st.integers(0, 3))
    places = [path for path in paths(content)[1:] if path[0] != "state_dict" or len(path) == 1]
    mutate(data, content, places, values)
    if kind == "ckpt":
        torch.save(content, file)
    else:
        file.write_bytes(with_metadata(model, content))
    works_or_is_refused(file)
