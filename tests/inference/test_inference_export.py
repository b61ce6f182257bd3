"""An exported model answers as its checkpoint, without torch; a strange file is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pneumonia import cli
from pneumonia.errors import CheckpointError, ConfigError, ModelError
from pneumonia.inference import export as module
from pneumonia.inference.classifier import Classifier
from pneumonia.inference.predictor import Predictor

export = module.export


@pytest.fixture(scope="module")
def exported(sealed_file, tmp_path_factory) -> Path:
    return export(sealed_file, tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture
def run(monkeypatch):
    def command(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["pneumonia", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return int(exit_.value.code or 0)

    return command


def test_it_answers_as_the_checkpoint_whatever_the_batch(exported, sealed_file, phantom):
    paths = sorted(map(str, (phantom / "test").glob("*/*")))
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
    classifier = Classifier.load(sealed_file)
    expected = classifier.probabilities(classifier.engine(images[:, 0]).logits)
    np.testing.assert_allclose(found["probability"], expected, atol=1e-4)
    assert {value.shape for value in found.values()} == {(3,)}


def test_one_file_holds_all_that_a_user_needs_and_nothing_of_this_machine(exported, sealed_file):
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(exported)
    told = {prop.key: prop.value for prop in model.metadata_props}
    classifier = Classifier.load(sealed_file)
    assert told["classes"] == "NORMAL,PNEUMONIA"
    assert float(told["threshold"]) == classifier.operating_point.threshold
    assert told["image_size"] == "48"
    content = json.loads(told["pneumonia"])
    assert content["operating_point"] == classifier.checkpoint["operating_point"]
    assert content["format_version"] == classifier.checkpoint["format_version"]
    raw = exported.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in raw
    assert b"site-packages" not in raw


def test_predicting_with_it_imports_neither_torch_nor_timm(exported, phantom):
    image = next((phantom / "test/NORMAL").iterdir())
    code = (
        "import sys, pneumonia\n"
        "found = pneumonia.load(sys.argv[1]).predict(sys.argv[2])\n"
        "assert 0 <= found.probability <= 1\n"
        "heavy = {'torch', 'timm', 'lightning', 'onnx', 'matplotlib'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, exported, image], check=True, timeout=60)


def test_evaluate_takes_it_like_a_checkpoint(exported, sealed_file, phantom, tmp_path, run):
    for name, model in (("a", exported), ("b", sealed_file)):
        out = tmp_path / name
        assert run("evaluate", "--checkpoint", model, "--data", phantom, "--out", out) == 0
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


def test_a_model_that_answers_otherwise_is_not_left_behind(sealed_file, tmp_path, monkeypatch):
    class Wrong:
        def __init__(self, session: object) -> None:
            self.session = session

        def __call__(self, images: np.ndarray) -> object:
            answers = self.session(images)
            return type(answers)(answers.logits + 0.01, answers.unlikeness)

    def skewed(path: Path) -> object:
        engine, content = whole(path)
        return Wrong(engine), content

    whole = module.open_exported
    monkeypatch.setattr(module, "open_exported", skewed)
    with pytest.raises(ModelError, match="answers otherwise"):
        export(sealed_file, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def foreign() -> bytes:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 9
    return model.SerializeToString()


def test_what_is_no_exported_model_is_refused(exported, tmp_path):
    path = tmp_path / "x.onnx"
    whole = exported.read_bytes()
    for content, message in (
        (b"", "not an exported model"),
        (b"no model", "not an exported model"),
        (whole[: len(whole) // 2], "not an exported model"),
        (foreign(), "not written by this project"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            Classifier.load(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        Classifier.load(tmp_path / "y.onnx")


def test_a_newer_format_names_the_version_to_install(exported, tmp_path):
    model = onnx.load(exported)
    for prop in model.metadata_props:
        if prop.key == "pneumonia":
            prop.value = json.dumps(json.loads(prop.value) | {"format_version": 99})
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(CheckpointError, match="has format 99"):
        Classifier.load(tmp_path / "x.onnx")


def test_a_model_whose_shapes_are_not_its_own_is_refused(exported, tmp_path):
    model = onnx.load(exported)
    for prop in model.metadata_props:
        if prop.key == "pneumonia":
            content = json.loads(prop.value)
            content["hyper_parameters"]["image_size"] = 64
            prop.value = json.dumps(content)
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(CheckpointError, match="export the checkpoint again"):
        Classifier.load(tmp_path / "x.onnx")


def test_weights_outside_the_file_are_never_opened(exported, tmp_path):
    model = onnx.load(exported)
    onnx.save(
        model,
        tmp_path / "x.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    with pytest.raises(CheckpointError, match="not an exported model"):
        Classifier.load(tmp_path / "x.onnx")


def test_an_exported_model_runs_on_the_cpu_alone(exported):
    with pytest.raises(ConfigError, match="device cuda"):
        Classifier.load(exported, "cuda")


@pytest.mark.shared
def test_parity_on_200_real_x_rays(real_model, real_file, shared, tmp_path):
    files = sorted((shared / "data/chest_xray/test").glob("*/*"))[::3][:200]
    assert len(files) == 200
    model = Predictor.load(export(real_file, tmp_path / "m.onnx"))
    pixels = [model.classifier.pixels(path) for path in files]
    for start in range(0, 200, 50):
        batch = np.stack(pixels[start : start + 50])
        expected, found = real_model.classifier.engine(batch), model.classifier.engine(batch)
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)


def test_nothing_of_torch_is_left_changed(sealed_file, tmp_path):
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    export(sealed_file, tmp_path / "m.onnx")
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)
