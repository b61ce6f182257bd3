"""A checkpoint alone gives the logits of training, without lightning."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from pneumonia.errors import CheckpointError, DataError
from pneumonia.evaluation.abstention import Abstention
from pneumonia.inference.metadata import Calibration, read_abstention
from pneumonia.inference.predictor import InferenceModel
from pneumonia.model.lightning_module import PneumoniaClassifier


def change(path, out, **values):
    content = torch.load(path, weights_only=True)
    torch.save(content | values, out)
    return out


def test_same_logits_as_the_lightning_module_in_the_order_of_the_files(model_file, synthetic):
    paths = sorted(map(str, (synthetic / "test").glob("*/*")))
    classifier = InferenceModel.load(model_file)
    found = classifier.logits(paths, batch_size=5)
    module = PneumoniaClassifier.load_from_checkpoint(model_file, weights_only=True).eval()
    images = torch.from_numpy(np.stack([classifier.pixels(path) for path in paths]))
    with torch.no_grad():
        np.testing.assert_allclose(found, module(images.unsqueeze(1)).numpy(), atol=1e-5)
    assert np.ptp(found) > 0


def test_calibration_and_operating_point_come_from_the_file(model_file, tmp_path):
    assert InferenceModel.load(model_file).calibration is None
    assert InferenceModel.load(model_file).probabilities(0.0) == 0.5
    new = change(model_file, tmp_path / "c.ckpt", calibration={"temperature": 2.0, "offset": 1.0})
    classifier = InferenceModel.load(new)
    assert classifier.calibration == Calibration(2.0, 1.0)
    assert classifier.probabilities(-2.0) == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"calibration": {"temperature": 0.0}}, "calibration"),
        ({"calibration": {}}, "calibration"),
        ({"calibration": 3}, "calibration"),
        ({"operating_point": {"threshold": 0.5}}, "operating_point"),
        ({"hyper_parameters": {}}, "hyper_parameters"),
        ({"state_dict": {}}, "lacks what a model"),
    ],
)
def test_a_damaged_checkpoint_is_a_sentence(model_file, tmp_path, values, message):
    with pytest.raises(CheckpointError, match=message):
        InferenceModel.load(change(model_file, tmp_path / "c.ckpt", **values))


def test_a_band_comes_from_the_file_or_is_none(model_file, tmp_path):
    assert read_abstention(InferenceModel.load(model_file).checkpoint, model_file) is None
    band = Abstention(0.25, 0.75, 0.05, 40, 30)
    new = change(model_file, tmp_path / "c.ckpt", abstention=band.to_dict())
    assert read_abstention(InferenceModel.load(new).checkpoint, new) == band
    for damaged in ({"lower": 0.5}, band.to_dict() | {"lower": 0.9}, 3):
        with pytest.raises(CheckpointError, match=r"c\.ckpt.*abstention"):
            read_abstention({"abstention": damaged}, "c.ckpt")


def test_a_broken_image_is_named(model_file, synthetic, tmp_path):
    paths = sorted(map(str, (synthetic / "test").glob("*/*")))[:3]
    broken = tmp_path / "broken.jpeg"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpeg"):
        InferenceModel.load(model_file).logits([*paths, str(broken)])


def test_inference_imports_neither_lightning_nor_hydra():
    code = (
        "import sys, pneumonia.inference.evaluate, pneumonia.inference.recalibrate\n"
        "heavy = {'lightning', 'hydra', 'omegaconf', 'tensorboard'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
