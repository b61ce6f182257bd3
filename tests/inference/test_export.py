"""An exported model predicts like its checkpoint, without torch, or is not written at all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from pneumonia.data.dataset import read_split
from pneumonia.errors import CheckpointError, ConfigError, ModelError
from pneumonia.inference import export as module
from pneumonia.inference.batch_predict import model_digest
from pneumonia.inference.export import expected_outputs, export
from pneumonia.inference.onnx_backend import open_onnx
from pneumonia.inference.predictor import Predictor, choose_file


def test_predictions_equal_the_checkpoints_at_any_batch_size(exported, checkpoint_file, synthetic):
    paths = sorted(map(str, (synthetic / "test").glob("*/*")))
    expected = Predictor.load(checkpoint_file).predict(paths)
    for batch_size in (1, 5, 64):
        found = Predictor.load(exported).predict(paths, batch_size)
        for a, b in zip(found, expected, strict=True):
            assert a.probability == pytest.approx(b.probability, abs=1e-4)
            assert a.ood_score == pytest.approx(b.ood_score, rel=1e-3, abs=1e-4)
            assert a.predicted_class == b.predicted_class
            assert (a.uncertain, a.is_ood) == (b.uncertain, b.is_ood)


def test_a_checkpoint_and_its_graph_carry_test_time_augmentation(
    checkpoint_file, synthetic, tmp_path
):
    content = torch.load(checkpoint_file, weights_only=True)
    content["hyper_parameters"]["tta"] = "pose"
    path = tmp_path / "tta.ckpt"
    torch.save(content, path)
    model, plain = Predictor.load(path), Predictor.load(checkpoint_file)
    graph, metadata = open_onnx(export(path, tmp_path / "tta.onnx"))
    files = sorted(map(str, (synthetic / "test").glob("*/*")))[:4]
    images = np.stack([model.preprocessing.read(file) for file in files])
    batch = torch.from_numpy(images)[:, None]
    with torch.no_grad():
        expected = model.backend.network(batch).numpy()
    found, without = model.backend(images), plain.backend(images)
    np.testing.assert_allclose(found.logits, expected, atol=1e-5)
    np.testing.assert_allclose(graph(images).logits, expected, atol=1e-4)
    np.testing.assert_allclose(found.ood_score, without.ood_score)
    assert np.abs(found.logits - without.logits).max() > 1e-3
    assert metadata.checkpoint["hyper_parameters"]["tta"] == "pose"


def test_graph_takes_grey_bytes_and_returns_the_calibrated_probability(exported, checkpoint_file):
    session = onnxruntime.InferenceSession(exported)
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 48, 48), np.uint8)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"images": images}), strict=True))
    assert set(found) == {"logit", "probability", "ood_score"}
    assert {value.shape for value in found.values()} == {(3,)}
    model = Predictor.load(checkpoint_file)
    expected = model.probabilities(model.backend(images[:, 0]).logits)
    np.testing.assert_allclose(found["probability"], expected, atol=1e-4)


def test_one_file_holds_everything_and_no_path_of_this_machine(exported, checkpoint_file):
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"]
    metadata = {prop.key: prop.value for prop in onnx.load(exported).metadata_props}
    model = Predictor.load(checkpoint_file)
    assert metadata["classes"] == "NORMAL,PNEUMONIA"
    assert float(metadata["threshold"]) == model.operating_point.threshold
    assert metadata["image_size"] == "48"
    content = json.loads(metadata["pneumonia"])
    for key in ("operating_point", "format_version"):
        assert content[key] == model.checkpoint[key]
    raw = exported.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in raw
    assert b"site-packages" not in raw


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


def test_evaluate_takes_it_like_a_checkpoint(exported, checkpoint_file, synthetic, tmp_path, run):
    for name, model in (("a", exported), ("b", checkpoint_file)):
        out = tmp_path / name
        assert run("evaluate", "--checkpoint", model, "--data", synthetic, "--out", out) == 0
    a, b = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab")
    assert a["test/auroc"]["value"] == pytest.approx(b["test/auroc"]["value"], abs=1e-6)
    assert a["test/recall"] == b["test/recall"]


@pytest.mark.parametrize(
    ("checkpoint", "out", "named"),
    [
        ("complete", "m.bin", "m.bin"),
        ("complete", "/proc/nowhere/m.onnx", "/proc/nowhere"),
        ("not finalized", "m.onnx", "threshold"),
        ("exported", "m.onnx", "model.onnx"),
        ("missing.ckpt", "m.onnx", "missing.ckpt"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_file(
    checkpoint_file, unfinalized_file, exported, tmp_path, run, capsys, checkpoint, out, named
):
    known = {"complete": checkpoint_file, "not finalized": unfinalized_file, "exported": exported}
    path = known.get(checkpoint, tmp_path / checkpoint)
    assert run("export", "--checkpoint", path, "--out", tmp_path / out) == 2
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def rewired(name: str, *nodes: tuple[str, list[str], list[str]]):
    """Replaces an output of a graph by something computed from it, which is then called `was`."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for names in (node.output, node.input):
                for place, value in enumerate(names):
                    if value == name:
                        names[place] = "was"
        factor = onnx.numpy_helper.from_array(np.array(1.001, np.float32), "factor")
        model.graph.initializer.append(factor)
        model.graph.node.extend(helper.make_node(*node) for node in nodes)

    return change


WRONG = {
    "an uncalibrated probability": rewired("probability", ("Sigmoid", ["logit"], ["probability"])),
    "a logit 0.1% too large": rewired("logit", ("Mul", ["was", "factor"], ["logit"])),
    "one value for a whole batch": rewired(
        "logit",
        ("Sub", ["was", "was"], ["none"]),
        ("ReduceMax", ["was"], ["most"]),
        ("Add", ["none", "most"], ["logit"]),
    ),
    "an OOD score 0.1% too large": rewired("ood_score", ("Mul", ["was", "factor"], ["ood_score"])),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_graph_with_other_outputs_is_not_written(
    checkpoint_file, exported, tmp_path, monkeypatch, wrong
):
    def convert(*_: object) -> bytes:
        model = onnx.load(exported)
        WRONG[wrong](model)
        return model.SerializeToString()

    monkeypatch.setattr(module, "_convert", convert)
    with pytest.raises(ModelError, match=r"logit|probability|ood_score"):
        export(checkpoint_file, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def pair(checkpoint_file, exported, tmp_path):
    """A checkpoint with its exported model beside it."""
    shutil.copy(exported, tmp_path / "pair.onnx")
    return Path(shutil.copy(checkpoint_file, tmp_path / "pair.ckpt"))


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ([], "ONNX Runtime"),
        (["--backend", "onnx"], "ONNX Runtime"),
        (["--backend", "torch"], "torch"),
        (["--explain"], "torch"),
    ],
)
def test_a_cpu_predicts_a_checkpoint_with_the_model_exported_from_it(
    pair, images, tmp_path, run, capsys, words, runs
):
    words = [*words, *([tmp_path / "heat"] if "--explain" in words else []), "--device", "cpu"]
    assert run("predict", "--checkpoint", pair, images[0], *words) == 0
    output, error = capsys.readouterr()
    assert f"with {runs}" in error.splitlines()[0]
    assert model_digest(pair) in output  # so that either backend can continue a table


@pytest.mark.parametrize("name", ["missing.ckpt", "."])
def test_a_checkpoint_that_is_no_file_is_refused(pair, name):
    with pytest.raises(CheckpointError, match="not a file"):
        choose_file(pair.parent / name)


@pytest.mark.parametrize("fault", ["missing", "of another checkpoint", "damaged", "on a GPU"])
def test_another_model_beside_a_checkpoint_is_not_used(pair, fault):
    device, exported = "cpu", pair.with_suffix(".onnx")
    if fault == "missing":
        exported.unlink()
    elif fault == "of another checkpoint":
        content = torch.load(pair, weights_only=True)
        torch.save(content | {"epoch": 7}, pair)
    elif fault == "damaged":
        exported.write_bytes(b"damaged")
    else:
        device = "cuda"
    assert choose_file(pair, device)[0] == pair
    with pytest.raises(ConfigError, match="onnx"):
        choose_file(pair, device, "onnx")
    with pytest.raises(ConfigError, match="torch"):
        choose_file(exported, "cpu", "torch")


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(900)
def test_trained_model_gives_the_same_outputs_on_200_real_x_rays(trained_files, shared, tmp_path):
    split = read_split(shared / "data/chest_xray", "test")
    rows = np.random.default_rng(0).permutation(len(split))[:200]
    model = Predictor.load(trained_files[0], "cpu")
    graph, _ = open_onnx(export(trained_files[0], tmp_path / "m.onnx"))
    images = np.stack([model.preprocessing.read(split.paths[row]) for row in rows])
    for batch in np.split(images, 4):
        found = graph.run(batch)
        for name, expected in expected_outputs(model, batch).items():
            # Of a network whose logits reach 50, single precision leaves four decimals.
            bound = 1e-5 * np.abs(expected).max() if name == "logit" else 1e-4
            assert np.abs(expected - found[name]).max() <= bound, name
