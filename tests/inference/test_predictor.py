"""`pneumonia.load(...).predict(...)`: whatever form an image comes in, one and the same answer."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import pneumonia
from pneumonia.data.dataset import ChestXrayDataset, read_split
from pneumonia.errors import CheckpointError, ConfigError, DataError
from pneumonia.inference.types import FailedPrediction
from pneumonia.labels import CLASSES


@pytest.fixture(scope="module")
def model(sealed_file):
    return pneumonia.load(sealed_file, device="cpu")


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
        found = [
            model.predict(path),
            model.predict(str(path)),
            model.predict(path.read_bytes()),
            model.predict(picture),
            model.predict(array),
            model.predict(np.uint16(array) * 256),
        ]
    assert len({prediction.probability for prediction in found}) == 1
    assert [prediction.path for prediction in found[2:]] == ["image 1"] * 4


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


def test_the_first_broken_image_of_a_list_is_named_and_a_stream_goes_on(model, files):
    with pytest.raises(DataError, match="image 2 cannot be read"):
        model.predict([files[0], b"no image", files[1]])
    found = list(model.stream([files[0], b"no image", files[1]]))
    assert [isinstance(one, FailedPrediction) for one in found] == [False, True, False]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64)), "float64"),
        (np.zeros((64, 64), bool), "bool"),
        (np.zeros((64, 64, 2), np.uint8), "shape"),
        (np.zeros((1, 1), np.uint8), "1 x 1 pixels"),
        (3, "is a int"),
        (None, "is a NoneType"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(model, image, message):
    with pytest.raises(DataError, match=message):
        model.predict(image)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.full((200, 200), 90, np.uint8), "low contrast"),
        (np.tile(np.arange(200, dtype=np.uint8), (50, 1)), "unusual shape, 200 x 50"),
        (np.full((200, 200), 255, np.uint8), "100% of it is pure white"),
    ],
)
def test_a_poor_image_is_answered_with_a_warning(model, pixels, words):
    assert any(words in warning for warning in model.predict(pixels).warnings)


def test_a_small_image_is_answered_with_a_warning(sealed_file, model, files):
    with Image.open(files[0]) as picture:
        small = picture.resize((32, 32))
    (warning,) = pneumonia.load(sealed_file).predict(small).warnings or ("",)
    side = model.preprocessing.image_size
    assert (f"enlarged to {side}" in warning) == (side > 64)


def test_a_model_that_cannot_decide_is_refused_when_it_is_loaded(model_file):
    with pytest.raises(CheckpointError, match="no threshold"):
        pneumonia.load(model_file)


def test_a_device_that_is_not_there_is_refused(sealed_file):
    with pytest.raises(ConfigError, match="device tpu"):
        pneumonia.load(sealed_file, device="tpu")


@pytest.mark.parametrize("module", ["pneumonia", "pneumonia.cli"])
def test_importing_it_imports_nothing_heavy(module):
    code = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'numpy', 'PIL', 'timm', 'rich'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_dicom_file_and_the_jpeg_of_the_same_image_agree(model, files, make_dicom, tmp_path):
    with Image.open(files[0]) as picture:
        pixels = np.asarray(picture)
    (tmp_path / "x").write_bytes(make_dicom(pixels))
    found = model.predict(tmp_path / "x").probability
    assert found == pytest.approx(model.predict(files[0]).probability, abs=1e-3)
    inverted = make_dicom(255 - pixels, PhotometricInterpretation="MONOCHROME1")
    assert model.predict(inverted).probability == found


@pytest.mark.shared
def test_real_originals_as_file_and_as_dicom_agree(real_model, shared, make_dicom):
    for path in sorted((shared / "data/originals").rglob("*.jpeg"))[::4]:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
        expected = real_model.predict(path).probability
        assert real_model.predict(pixels).probability == pytest.approx(expected, abs=1e-5)
        found = real_model.predict(make_dicom(pixels)).probability
        assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.shared
def test_real_x_rays_get_no_warning(real_model, shared):
    paths = sorted((shared / "data/originals").rglob("*.jpeg"))[::6]
    assert {one.warnings for one in real_model.predict(paths)} == {()}


def test_an_image_in_memory_needs_no_file(model, files):
    content = io.BytesIO(files[0].read_bytes()).getvalue()
    assert model.predict(content).probability == model.predict(files[0]).probability
