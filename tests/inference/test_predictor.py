"""`pneumonia.load(...).predict(...)`: whatever form an image comes in, one and the same answer."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import pneumonia
from pneumonia.data.dataset import ChestXrayDataset, read_split
from pneumonia.errors import CheckpointError, ConfigError, DataError
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.inference.metadata import Calibration
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.types import FailedPrediction
from pneumonia.labels import CLASSES
from pneumonia.model.lightning_module import PneumoniaClassifier


@pytest.fixture(scope="module")
def model(checkpoint_file):
    return pneumonia.load(checkpoint_file, device="cpu")


@pytest.fixture(scope="module")
def files(synthetic):
    return sorted((synthetic / "test").glob("*/*"))


def test_a_path_gives_a_typed_result(model, files):
    found = model.predict(files[0])
    assert isinstance(found, pneumonia.Prediction)
    assert found.path == str(files[0])
    assert 0 <= found.probability <= 1
    assert found.predicted_class == CLASSES[found.probability >= model.operating_point.threshold]
    assert isinstance(found.uncertain, bool)
    assert isinstance(found.is_ood, bool)
    assert found.warnings == ()


def test_path_bytes_picture_and_array_are_the_same_image(model, files):
    path = files[-1]
    with Image.open(path) as picture:
        array = np.asarray(picture)
        sources = [path, str(path), path.read_bytes(), picture, array, np.uint16(array) * 256]
        found = [model.predict(source) for source in sources]
    assert len({prediction.probability for prediction in found}) == 1
    assert [prediction.path for prediction in found[2:]] == ["image 1"] * 4


def test_a_batch_is_shared_out_to_the_cores_with_the_same_result(model):
    images = np.random.default_rng(0).integers(0, 256, (19, 48, 48), np.uint8)
    expected = model.backend(images)
    torch.set_num_threads(3)
    try:
        found = model.backend(images)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.ood_score, expected.ood_score, rtol=1e-5)


def test_open_files_tensors_and_floats_are_the_same_image(model, exported, files):
    content = files[-1].read_bytes()
    with Image.open(files[-1]) as picture:
        array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy())
    sources = [io.BytesIO(content), bytearray(content), memoryview(content)]
    sources += [array / 255, array[None], np.stack([array] * 3, 2), np.stack([array] * 3)]
    sources += [tensor, tensor[None], tensor.float() / 255, (tensor / 255).bfloat16()]
    for predictor in (model, Predictor.load(exported)):
        expected = predictor.predict(files[-1]).probability
        found = [one.probability for one in predictor.predict(source for source in sources)]
        np.testing.assert_allclose(found[:-1], expected, atol=1e-6)
        assert found[-1] == pytest.approx(expected, abs=0.1)  # bfloat16 has 8 bits


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK"])
def test_pictures_of_every_mode_are_predicted(model, files, mode):
    with Image.open(files[0]) as picture:
        grey = picture.convert("L")
    through = {"La": "LA", "PA": "LA", "RGBa": "RGBA"}.get(mode, mode)
    assert model.predict(grey.convert(through).convert(mode)).probability >= 0


@pytest.mark.parametrize(
    "wrong",
    [None, {"a": 1}, np.zeros((40, 40), bool), np.zeros((1, 1), np.uint8), np.zeros((64, 64, 2))],
    ids=["nothing", "dictionary", "mask", "one pixel", "two channels"],
)
def test_anything_else_is_refused(model, wrong):
    with pytest.raises(DataError, match="image 1"):
        model.predict([wrong])


@pytest.mark.parametrize("size", [0, -1, 2.5, None, "8"])
def test_a_batch_size_is_a_whole_number_of_at_least_1(model, files, size):
    with pytest.raises(ConfigError, match="batch_size"):
        model.predict(files[0], batch_size=size)


def test_no_device_is_the_default_one(checkpoint_file, exported, files):
    for file in (checkpoint_file, exported):
        assert pneumonia.load(file, device=None).predict(files[0])


def test_a_list_is_answered_in_its_order_and_may_mix_kinds(model, files):
    mixed = [files[0], files[1].read_bytes(), str(files[2])]
    found = model.predict(mixed, batch_size=2)
    expected = [model.predict(path).probability for path in files[:3]]
    np.testing.assert_allclose([one.probability for one in found], expected, atol=1e-4)
    assert [one.path for one in found] == [str(files[0]), "image 2", str(files[2])]
    assert model.predict([]) == []
    assert model.predict(tuple(mixed)) == model.predict(mixed)


def test_probabilities_are_those_of_the_data_loader(model, synthetic):
    split = read_split(synthetic, "test")
    loaded = ChestXrayDataset(split, model.preprocessing)
    images = np.stack([np.asarray(loaded[row]["image"])[0] for row in range(len(split))])
    expected = model.probabilities(model.backend(images).logits)
    found = [one.probability for one in model.predict(list(split.paths))]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_logits_are_those_of_the_lightning_module_in_the_order_of_the_files(
    unfinalized_file, files
):
    found = Predictor.load(unfinalized_file, finalized=False).logits(list(map(str, files)))
    module = PneumoniaClassifier.load_from_checkpoint(unfinalized_file, weights_only=True).eval()
    preprocessing = Predictor.load(unfinalized_file, finalized=False).preprocessing
    images = torch.from_numpy(np.stack([preprocessing.read(path) for path in files]))
    with torch.no_grad():
        np.testing.assert_allclose(found, module(images.unsqueeze(1)).numpy(), atol=1e-5)
    assert np.ptp(found) > 0


def test_the_first_broken_image_of_a_list_is_named_and_a_stream_goes_on(model, files, tmp_path):
    with pytest.raises(DataError, match="image 2"):
        model.predict([files[0], b"no image", files[1]])
    found = list(model.stream([files[0], b"no image", files[1]]))
    assert [isinstance(one, FailedPrediction) for one in found] == [False, True, False]
    (tmp_path / "broken.jpeg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpeg"):
        model.logits([str(files[0]), str(tmp_path / "broken.jpeg")])


def test_a_stream_reads_a_few_batches_ahead(model, files):
    taken = []
    source = (taken.append(file) or file for file in files * 20)
    next(model.stream(source, batch_size=2))
    assert len(taken) <= 3 * 2


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.full((200, 200), 90, np.uint8), "low contrast"),
        (np.tile(np.arange(200, dtype=np.uint8), (50, 1)), "unusual shape, 200 x 50"),
        (np.full((200, 200), 255, np.uint8), "100% of the pixels are pure white"),
    ],
)
def test_a_poor_image_is_answered_with_a_warning(model, pixels, words):
    assert any(words in warning for warning in model.predict(pixels).warnings)


def test_calibration_and_threshold_come_from_the_file(unfinalized_file, tmp_path):
    with pytest.raises(CheckpointError, match="threshold"):
        pneumonia.load(unfinalized_file)
    model = Predictor.load(unfinalized_file, finalized=False)
    assert model.calibration is None
    assert model.probabilities(0.0) == 0.5
    with pytest.raises(CheckpointError, match="threshold"):
        model.predict(np.zeros((64, 64), np.uint8))
    content = torch.load(unfinalized_file, weights_only=True)
    content |= {"calibration": {"temperature": 2.0}}
    torch.save(content, tmp_path / "c.ckpt")
    model = Predictor.load(tmp_path / "c.ckpt", finalized=False)
    assert model.calibration == Calibration(2.0)
    assert model.probabilities(2.0) == sigmoid(1.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("calibration", {"temperature": 0.0}),
        ("calibration", 3),
        ("calibration", {"temperature": 1.0, "offset": 1.0}),
        ("operating_point", {"threshold": 0.5}),
        ("abstention", {"lower": 0.5}),
        ("ood_threshold", float("nan")),
        ("hyper_parameters", {}),
        ("state_dict", {}),
    ],
)
def test_a_damaged_entry_of_a_checkpoint_is_named(unfinalized_file, tmp_path, key, value):
    content = torch.load(unfinalized_file, weights_only=True) | {key: value}
    torch.save(content, tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match=r"c\.ckpt" if key == "state_dict" else key):
        Predictor.load(tmp_path / "c.ckpt", finalized=False)


def test_a_device_that_is_not_there_is_refused(checkpoint_file):
    with pytest.raises(ConfigError, match="device tpu"):
        pneumonia.load(checkpoint_file, device="tpu")


TRAINING, STATISTICS = {"lightning", "hydra", "omegaconf", "tensorboard"}, {"scipy", "sklearn"}
PREDICT = "pneumonia.inference.server; pneumonia.load(sys.argv[1]).predict(sys.argv[2])"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (PREDICT, TRAINING | STATISTICS | {"matplotlib"}),
        ("pneumonia.inference.evaluate, pneumonia.inference.recalibrate", TRAINING),
    ],
    ids=["predict and serve", "evaluate and calibrate"],
)
def test_what_is_not_needed_is_not_imported(checkpoint_file, files, code, absent):
    code = f"import sys, {code}\nfound = {absent} & sys.modules.keys()\nassert not found, found"
    subprocess.run([sys.executable, "-c", code, checkpoint_file, files[0]], check=True, timeout=120)


@pytest.mark.shared
def test_real_originals_have_no_warning_and_agree_with_their_pixels(model, shared):
    for path in sorted((shared / "data/originals").rglob("*.jpeg"))[::5]:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
        expected = model.predict(path)
        assert expected.warnings == ()
        assert model.predict(pixels).probability == pytest.approx(expected.probability, abs=1e-5)
