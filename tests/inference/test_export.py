"""An exported model answers as its checkpoint, without torch, or is not left behind."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pneumonia.data.dataset import read_split
from pneumonia.errors import CheckpointError, ModelError
from pneumonia.inference import export as module
from pneumonia.inference.export import outputs
from pneumonia.inference.onnx_backend import open_onnx
from pneumonia.inference.predictor import InferenceModel, Predictor

export = module.export


def test_it_answers_as_the_checkpoint_whatever_the_batch(exported, sealed_file, synthetic):
    paths = sorted(map(str, (synthetic / "test").glob("*/*")))
    expected = Predictor.load(sealed_file).predict(paths)
    for batch_size in (1, 5, 64):
        found = Predictor.load(exported).predict(paths, batch_size)
        for one, other in zip(found, expected, strict=True):
            assert one.probability == pytest.approx(other.probability, abs=1e-4)
            assert one.unlikeness == pytest.approx(other.unlikeness, rel=1e-3, abs=1e-4)
            assert (one.decision, one.uncertain, one.unlike) == (
                other.decision,
                other.uncertain,
                other.unlike,
            )


def test_the_graph_takes_grey_bytes_and_gives_the_calibrated_probability(exported, sealed_file):
    session = onnxruntime.InferenceSession(exported)
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 48, 48), np.uint8)
    found = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {"images": images}),
            strict=True,
        )
    )
    assert set(found) == {"logit", "probability", "unlikeness"}
    classifier = InferenceModel.load(sealed_file)
    expected = classifier.probabilities(classifier.engine(images[:, 0]).logits)
    np.testing.assert_allclose(found["probability"], expected, atol=1e-4)
    assert {value.shape for value in found.values()} == {(3,)}


def test_one_file_holds_all_that_a_user_needs_and_nothing_of_this_machine(exported, sealed_file):
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(exported)
    told = {prop.key: prop.value for prop in model.metadata_props}
    classifier = InferenceModel.load(sealed_file)
    assert told["classes"] == "NORMAL,PNEUMONIA"
    assert float(told["threshold"]) == classifier.operating_point.threshold
    assert told["image_size"] == "48"
    content = json.loads(told["pneumonia"])
    assert content["operating_point"] == classifier.checkpoint["operating_point"]
    assert content["format_version"] == classifier.checkpoint["format_version"]
    raw = exported.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in raw
    assert b"site-packages" not in raw


def test_what_the_exporter_notes_within_a_condition_is_removed_as_well():
    made = onnx.helper
    answer = made.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, [1])
    noted = made.make_node("Identity", ["x"], ["answer"], doc_string="/home/me/model.py, line 3")
    branch = made.make_graph([noted], "branch", [], [answer])
    chosen = made.make_node("If", ["c"], ["answer"], then_branch=branch, else_branch=branch)
    model = made.make_model(made.make_graph([chosen], "graph", [], [answer]))
    module._strip(model)
    assert b"/home/me" not in model.SerializeToString()


def test_predicting_with_it_imports_neither_torch_nor_timm(exported, synthetic):
    image = next((synthetic / "test/NORMAL").iterdir())
    code = (
        "import sys, pneumonia\n"
        "found = pneumonia.load(sys.argv[1]).predict(sys.argv[2])\n"
        "assert 0 <= found.probability <= 1\n"
        "heavy = {'torch', 'timm', 'lightning', 'onnx', 'matplotlib'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, exported, image], check=True, timeout=60)


def test_evaluate_takes_it_like_a_checkpoint(exported, sealed_file, synthetic, tmp_path, run):
    for name, model in (("a", exported), ("b", sealed_file)):
        out = tmp_path / name
        assert run("evaluate", "--checkpoint", model, "--data", synthetic, "--out", out) == 0
    a, b = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab")
    assert a["test/auroc"]["value"] == pytest.approx(b["test/auroc"]["value"], abs=1e-6)
    assert a["test/recall"] == b["test/recall"]


def test_the_command_says_what_it_wrote(sealed_file, tmp_path, run, capsys):
    out = tmp_path / "new folder" / "m.onnx"
    assert run("export", "--checkpoint", sealed_file, "--out", out) == 0
    output, error = capsys.readouterr()
    assert output.startswith(f"Wrote {out}")
    assert error == ""


@pytest.mark.parametrize(
    ("checkpoint", "out", "message"),
    [
        ("sealed", "m.bin", "must end in .onnx"),
        ("sealed", "/proc/nowhere/m.onnx", "cannot be written"),
        ("unsealed", "m.onnx", "no threshold"),
        ("exported", "m.onnx", "exported model already"),
        ("missing.ckpt", "m.onnx", "missing.ckpt does not exist"),
    ],
)
def test_a_mistake_is_a_sentence_and_leaves_no_file(
    sealed_file, model_file, exported, tmp_path, run, capsys, checkpoint, out, message
):
    known = {"sealed": sealed_file, "unsealed": model_file, "exported": exported}
    target = tmp_path / out
    path = known.get(checkpoint, tmp_path / checkpoint)
    assert run("export", "--checkpoint", path, "--out", target) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def rewired(name: str, *nodes: tuple[str, list[str], list[str]], **constants: float):
    """Makes a graph give something else under a name, of what it gave before, `was`."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        for node in graph.node:
            for place, output in enumerate(node.output):
                if output == name:
                    node.output[place] = "was"
            for place, input_ in enumerate(node.input):
                if input_ == name:
                    node.input[place] = "was"
        for key, value in constants.items():
            graph.initializer.append(
                onnx.numpy_helper.from_array(np.array(value, np.float32), f"its_{key}")
            )
        for operator, taken, given in nodes:
            graph.node.append(onnx.helper.make_node(operator, taken, given))

    return change


WRONG = {
    "the logit's sigmoid, not calibrated": rewired(
        "probability", ("Sigmoid", ["logit"], ["probability"])
    ),
    "one per mille too sure": rewired(
        "logit", ("Mul", ["was", "its_factor"], ["logit"]), factor=1.001
    ),
    "the other class": rewired("logit", ("Neg", ["was"], ["logit"])),
    "the other class's probability": rewired(
        "probability", ("Sub", ["its_one", "was"], ["probability"]), one=1.0
    ),
    "no number": rewired("logit", ("Mul", ["was", "its_nan"], ["logit"]), nan=float("nan")),
    "a probability that is no number": rewired(
        "probability", ("Mul", ["was", "its_nan"], ["probability"]), nan=float("nan")
    ),
    "no number for one image of many": rewired(
        "logit",
        ("ReduceMin", ["was"], ["least"]),
        ("Sub", ["was", "least"], ["above"]),
        ("Div", ["above", "above"], ["one"]),
        ("Mul", ["was", "one"], ["logit"]),
    ),
    "one answer for a whole batch": rewired(
        "logit",
        ("Sub", ["was", "was"], ["none"]),
        ("ReduceMax", ["was"], ["most"]),
        ("Add", ["none", "most"], ["logit"]),
    ),
    "a detector that sees nothing": rewired("unlikeness", ("Sub", ["was", "was"], ["unlikeness"])),
    "a detector a little off": rewired(
        "unlikeness", ("Mul", ["was", "its_factor"], ["unlikeness"]), factor=1.001
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_graph_that_answers_otherwise_is_not_left_behind(
    sealed_file, exported, tmp_path, monkeypatch, wrong
):
    def convert(*_: object) -> bytes:
        model = onnx.load(exported)
        WRONG[wrong](model)
        return model.SerializeToString()

    monkeypatch.setattr(module, "_convert", convert)
    with pytest.raises(ModelError, match="answers otherwise"):
        export(sealed_file, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_gives_no_number_is_refused(sealed_file, tmp_path):
    content = torch.load(sealed_file, weights_only=True)
    key = next(key for key in content["state_dict"] if key.endswith("fc.weight"))
    content["state_dict"][key].fill_(float("nan"))
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(CheckpointError, match="gives no number"):
        export(tmp_path / "nan.ckpt", tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match="gives no number"):
        Predictor.load(tmp_path / "nan.ckpt").predict(np.zeros((48, 48), np.uint8))
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(300)
def test_a_trained_model_answers_alike_on_200_real_x_rays(trained_file, shared, tmp_path):
    split = read_split(shared / "data/chest_xray", "test")
    rows = np.random.default_rng(0).permutation(len(split))[:200]
    classifier = InferenceModel.load(trained_file, "cpu")
    graph, _ = open_onnx(export(trained_file, tmp_path / "m.onnx"))
    pixels = np.stack([classifier.pixels(split.paths[row]) for row in rows])
    batches = [pixels[start : start + 50] for start in range(0, 200, 50)]
    expected = [outputs(classifier, classifier.engine(batch)) for batch in batches]
    found = [graph.run(batch) for batch in batches]
    for name in ("probability", "unlikeness", "logit"):
        ours, theirs = (np.concatenate([one[name] for one in some]) for some in (expected, found))
        # Of a network whose logits reach 50, single precision leaves no more than four decimals.
        bound = 1e-5 * np.abs(ours).max() if name == "logit" else 1e-4
        assert np.abs(ours - theirs).max() <= bound, name
    probabilities = np.concatenate([one["probability"] for one in expected])
    assert roc_auc_score(split.labels[rows], probabilities) > 0.9


def test_nothing_of_torch_is_left_changed(sealed_file, tmp_path):
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    export(sealed_file, tmp_path / "m.onnx")
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)
