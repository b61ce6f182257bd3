"""A strange model file is refused in a sentence, and what it says of itself is only text."""

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pneumonia.errors import CheckpointError, ConfigError, ModelError
from pneumonia.evaluation.evaluate import evaluate_predictions
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.report.console import print_summary
from pneumonia.evaluation.report.model_card import model_card
from pneumonia.inference.evaluate import describe
from pneumonia.inference.page import desk
from pneumonia.inference.predictor import InferenceModel, Predictor

PIXELS = np.zeros((48, 48), np.uint8)


def told(model: onnx.ModelProto) -> dict[str, object]:
    (text,) = (prop.value for prop in model.metadata_props if prop.key == "pneumonia")
    return json.loads(text)


def tell(model: onnx.ModelProto, text: str) -> bytes:
    """The same model with other metadata."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for prop in changed.metadata_props:
        if prop.key == "pneumonia":
            prop.value = text
    return changed.SerializeToString()


@pytest.fixture(scope="module")
def model(exported) -> onnx.ModelProto:
    return onnx.load(exported)


def graph(*nodes: onnx.NodeProto, weights: tuple[TensorProto, ...] = (), **domains: int) -> bytes:
    """A small model of another kind, x -> y."""
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy"]
    sets = [helper.make_opsetid(name, version) for name, version in ({"": 18} | domains).items()]
    made = helper.make_model(
        helper.make_graph(nodes, "g", value[:1], value[1:], weights), opset_imports=sets
    )
    made.ir_version = 9
    return made.SerializeToString()


def test_what_is_no_exported_model_is_refused(exported, tmp_path):
    path = tmp_path / "x.onnx"
    whole = exported.read_bytes()
    for content, message in (
        (b"", "not an exported model"),
        (b"no model", "not an exported model"),
        (whole[: len(whole) // 2], "not an exported model"),
        (graph(helper.make_node("Identity", ["x"], ["y"])), "not written by this project"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            InferenceModel.load(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        InferenceModel.load(tmp_path / "y.onnx")


def test_a_file_larger_than_any_model_is_refused_unread(tmp_path):
    with (tmp_path / "x.onnx").open("wb") as file:
        file.truncate(3 << 30)  # takes no room on the disk
    with pytest.raises(CheckpointError, match="larger than any ONNX file"):
        InferenceModel.load(tmp_path / "x.onnx")


def test_weights_larger_than_the_file_are_not_allocated(tmp_path):
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 16], raw_data=b"")
    node = helper.make_node("Add", ["x", "w"], ["y"])
    (tmp_path / "x.onnx").write_bytes(graph(node, weights=(huge,)))
    with pytest.raises(CheckpointError, match="not an exported model"):
        InferenceModel.load(tmp_path / "x.onnx")


def test_an_operator_that_onnxruntime_does_not_know_is_refused(tmp_path, run, capsys):
    node = helper.make_node("Run", ["x"], ["y"], domain="evil")
    (tmp_path / "x.onnx").write_bytes(graph(node, evil=1))
    assert run("predict", "--checkpoint", tmp_path / "x.onnx", __file__) == 2
    error = capsys.readouterr().err
    assert "evil" in error
    assert error.count("\n") == 2  # the sentence, and how to see the traceback


@pytest.mark.parametrize("place", ["beside", "above", "absolute", "link"])
def test_weights_outside_the_file_are_never_opened(tmp_path, monkeypatch, place):
    here = tmp_path / "here"
    here.mkdir()
    np.ones(1024, np.float32).tofile(tmp_path / "w.bin")
    np.ones(1024, np.float32).tofile(here / "w.bin")
    (here / "link.bin").symlink_to(tmp_path / "w.bin")
    monkeypatch.chdir(here)
    location = {
        "beside": "w.bin",
        "above": "../w.bin",
        "absolute": str(tmp_path / "w.bin"),
        "link": "link.bin",
    }[place]
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1024])
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4096")):
        outside.external_data.add(key=key, value=value)
    (here / "x.onnx").write_bytes(
        graph(helper.make_node("Add", ["x", "w"], ["y"]), weights=(outside,))
    )
    with pytest.raises(CheckpointError, match="not an exported model"):
        InferenceModel.load(here / "x.onnx")


def test_memory_of_the_process_is_no_place_for_weights(tmp_path):
    stolen = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1024])
    stolen.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "4096"), ("length", "4096")):
        stolen.external_data.add(key=key, value=value)
    (tmp_path / "x.onnx").write_bytes(
        graph(helper.make_node("Add", ["x", "w"], ["y"]), weights=(stolen,))
    )
    with pytest.raises(CheckpointError, match="not an exported model"):
        InferenceModel.load(tmp_path / "x.onnx")


def test_a_newer_format_names_the_version_to_install(model, tmp_path):
    (tmp_path / "x.onnx").write_bytes(tell(model, json.dumps(told(model) | {"format_version": 99})))
    with pytest.raises(CheckpointError, match="has format 99"):
        InferenceModel.load(tmp_path / "x.onnx")


def test_a_model_whose_shapes_are_not_its_own_is_refused(model, tmp_path):
    content = told(model)
    content["hyper_parameters"]["image_size"] = 64
    (tmp_path / "x.onnx").write_bytes(tell(model, json.dumps(content)))
    with pytest.raises(CheckpointError, match="export the checkpoint again"):
        InferenceModel.load(tmp_path / "x.onnx")


def test_a_graph_that_fails_while_it_runs_is_a_sentence(model, tmp_path):
    changed = copy.deepcopy(model)
    for node in changed.graph.node:
        for place, name in enumerate(node.output):
            if name == "logit":
                node.output[place] = "was"
        for place, name in enumerate(node.input):
            if name == "logit":
                node.input[place] = "was"
    changed.graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [1], [1]))
    changed.graph.node.append(helper.make_node("Reshape", ["was", "one"], ["logit"]))
    onnx.save(changed, tmp_path / "x.onnx")
    predictor = Predictor.load(tmp_path / "x.onnx")
    predictor.predict(PIXELS)
    with pytest.raises(CheckpointError, match="cannot be run on 2 images"):
        predictor.predict([PIXELS, PIXELS])


@pytest.mark.parametrize("classes", [["PNEUMONIA", "NORMAL"], ["NORMAL"], None, "NORMAL"], ids=str)
def test_classes_in_another_order_are_refused_by_every_engine(
    model, sealed_file, tmp_path, classes
):
    content = told(model) | {"classes": classes}
    (tmp_path / "x.onnx").write_bytes(tell(model, json.dumps(content)))
    torch.save(torch.load(sealed_file, weights_only=True) | {"classes": classes}, tmp_path / "x.pt")
    for name in ("x.onnx", "x.pt"):
        with pytest.raises(CheckpointError, match=r"expected were the classes.*NORMAL.*PNEUMONIA"):
            InferenceModel.load(tmp_path / name)


def test_an_exported_model_runs_on_the_cpu_alone(exported):
    with pytest.raises(ConfigError, match="device cuda"):
        InferenceModel.load(exported, "cuda")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("calibrate", "--data", "nowhere", "--out", "new.ckpt"), "calibrate its checkpoint"),
        (("export", "--out", "new.onnx"), "exported model already"),
        (("predict", __file__, "--explain", "new"), "need its checkpoint"),
        (("evaluate", "--data", "nowhere", "--out", "new"), "nowhere"),  # else it works
    ],
    ids=lambda words: words[0],
)
def test_what_an_exported_model_cannot_do_is_refused_before_any_work(
    exported, tmp_path, monkeypatch, run, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    assert run(words[0], "--checkpoint", exported, *words[1:]) == 2
    output, error = capsys.readouterr()
    assert message in error
    assert output == ""
    assert list(tmp_path.iterdir()) == []


def test_calibrating_never_writes_a_checkpoint_that_looks_exported(sealed_file, tmp_path, run):
    words = ("--data", "nowhere", "--out", tmp_path / "new.onnx")
    assert run("calibrate", "--checkpoint", sealed_file, *words) == 2


EVIL = "\x1b[31m<script>alert(1)</script>|"


def harmful(content: dict[str, object]) -> dict[str, object]:
    metadata = {"training": {"command": EVIL, "versions": {EVIL: EVIL}, "config": EVIL, EVIL: EVIL}}
    splits = {"train": {"images": EVIL, "patients": EVIL}, EVIL: {EVIL: EVIL}}
    metadata |= {"data": {"splits": splits, EVIL: EVIL}, "holdout": {EVIL: EVIL}}
    changed = content | {"metadata": metadata, "recalibration": [{"prevalence": 0.5, EVIL: EVIL}]}
    changed["pneumonia_version"] = EVIL
    changed["hyper_parameters"] = changed["hyper_parameters"] | {"backbone": EVIL}
    return changed


def test_what_a_file_says_of_itself_is_escaped_wherever_it_is_shown(
    model, tmp_path, synthetic, run, capsys
):
    file, out = tmp_path / "x.onnx", tmp_path / "out"
    file.write_bytes(tell(model, json.dumps(harmful(told(model)))))
    assert run("evaluate", "--checkpoint", file, "--data", synthetic, "--out", out) == 0
    shown = [(out / name).read_text() for name in ("report.html", "MODEL_CARD.md")]
    shown.append(desk.describe(Predictor.load(file), file))
    for text in shown:
        assert "alert(1)" in text
        assert "<script>" not in text
    file.write_bytes(tell(model, json.dumps(harmful(told(model)) | {"format_version": 99})))
    assert run("predict", "--checkpoint", file, __file__) == 2
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


LABELS = np.arange(40) % 2
CASES = PredictionTable(
    path=np.array([f"{row}.png" for row in range(40)]),
    label=LABELS,
    logit=np.linspace(-2, 2, 40),
    probability=np.linspace(0.1, 0.9, 40),
    patient=np.array([f"p{row}" for row in range(40)]),
    subtype=np.array(["normal", "viral"])[LABELS],
)


def answers_or_refuses(file: Path) -> None:
    """Everything that reads what a model file says of itself: a sentence, or it works."""
    try:
        predictor = Predictor.load(file)
        predictor.predict(PIXELS)
        desk.describe(predictor, file)
        subject = describe(predictor.classifier.checkpoint, file, "here")
    except (CheckpointError, ModelError):
        return
    dossier = evaluate_predictions(CASES, subject, replicates=200)
    print_summary(dossier, {})
    model_card(dossier)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_metadata_of_any_kind_are_used_or_refused_in_a_sentence(model, tmp_path, data):
    content = harmful(told(model)) if data.draw(st.booleans()) else told(model)
    for _ in range(data.draw(st.integers(1, 3))):
        *above, key = data.draw(st.sampled_from(paths(content)[1:]))
        place = content
        for name in above:
            place = place[name] if isinstance(place, dict) and name in place else {}
        if isinstance(place, dict):
            place[key] = data.draw(JSON)
    (tmp_path / "x.onnx").write_bytes(tell(model, json.dumps(content)))
    answers_or_refuses(tmp_path / "x.onnx")


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_checkpoint_of_any_kind_is_used_or_refused_in_a_sentence(sealed_file, tmp_path, data):
    content = torch.load(sealed_file, weights_only=True)
    if data.draw(st.booleans()):
        content = harmful(content) | {"hyper_parameters": content["hyper_parameters"]}
    known = [path for path in paths(content)[1:] if path[0] != "state_dict" or len(path) == 1]
    for _ in range(data.draw(st.integers(1, 2))):
        *above, key = data.draw(st.sampled_from(known))
        place = content
        for name in above:
            place = place[name] if isinstance(place, dict) and name in place else {}
        if isinstance(place, dict):
            place[key] = data.draw(JSON | st.builds(torch.zeros, st.integers(0, 3)))
    torch.save(content, tmp_path / "x.ckpt")
    answers_or_refuses(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "3",
        '"text"',
        "{",
        "[" * 100_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        "NaN",
    ],
    ids=lambda text: text[:10],
)
def test_metadata_that_are_no_table_are_refused(model, tmp_path, text):
    (tmp_path / "x.onnx").write_bytes(tell(model, text))
    with pytest.raises(CheckpointError, match="not written by this project"):
        InferenceModel.load(tmp_path / "x.onnx")


@pytest.mark.parametrize("depth", [100, 5_000])
def test_facts_nested_deeper_than_any_reader_follows_are_refused(model, tmp_path, depth):
    deep = '{"a":' * depth + "1" + "}" * depth
    text = json.dumps(told(model) | {"metadata": {"data": "DEEP"}}).replace('"DEEP"', deep)
    (tmp_path / "x.onnx").write_bytes(tell(model, text))
    with pytest.raises(CheckpointError, match="not written by this project"):
        InferenceModel.load(tmp_path / "x.onnx")


def test_metadata_without_end_are_refused(model, tmp_path):
    content = told(model) | {"metadata": {"training": "x" * (2 << 20)}}
    (tmp_path / "x.onnx").write_bytes(tell(model, json.dumps(content)))
    with pytest.raises(CheckpointError, match="not written by this project"):
        InferenceModel.load(tmp_path / "x.onnx")
