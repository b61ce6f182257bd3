"""Heat maps on the original's shape, a picture for every answer, each under a name of its own."""

import sys

import numpy as np
import pytest
from PIL import Image

from pneumonia import cli
from pneumonia.data.image_io import Preprocessing
from pneumonia.errors import ConfigError, DataError, ModelError
from pneumonia.inference import image_loading as reading
from pneumonia.inference.export import export
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.saliency import HeatMaps, explain, lay_back
from pneumonia.inference.types import FailedPrediction

SIDE = 64


def centre(heat: np.ndarray) -> tuple[float, float]:
    weight = np.nan_to_num(heat)
    rows, columns = np.indices(heat.shape)
    return float((rows * weight).sum() / weight.sum()), float(
        (columns * weight).sum() / weight.sum()
    )


@pytest.mark.parametrize("size", [(200, 100), (100, 200), (120, 120)])
@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_the_map_is_laid_back_where_the_pixels_came_from(fit, size):
    width, height = size
    original = np.zeros((height, width), np.uint8)
    row, column = height // 2 - 20, width // 2 + 8
    original[row : row + 24, column : column + 24] = 255
    preprocessing = Preprocessing(SIDE, fit)
    seen = preprocessing(Image.fromarray(original)).astype(np.float32) / 255
    back = lay_back(seen, size, preprocessing)
    assert back.shape == original.shape
    assert np.isnan(back).any() == (fit == "crop" and width != height)
    expected = centre(original / 255)
    assert np.allclose(centre(back), expected, atol=2.5)
    inside = ~np.isnan(back)
    assert np.abs(back[inside] - original[inside] / 255).mean() < 0.06


def test_an_explanation_keeps_the_shape_of_the_original(sealed_file, tmp_path):
    predictor = Predictor.load(sealed_file)
    pixels = np.random.default_rng(0).integers(0, 256, (900, 2000), np.uint8)
    found = predictor.explain(pixels)
    assert found.image.shape == found.heat.shape == (461, 1024)
    assert found.prediction == predictor.predict(pixels)
    found.save(tmp_path / "new" / "x.png")
    with Image.open(tmp_path / "new" / "x.png") as picture:
        assert picture.width == 1200
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]


def test_the_same_image_gives_the_same_map(sealed_file, synthetic):
    predictor = Predictor.load(sealed_file)
    image = next((synthetic / "test/NORMAL").iterdir())
    assert np.array_equal(predictor.explain(image).heat, predictor.explain(image).heat)


def test_every_answer_has_its_picture_and_a_name_never_leaves_the_folder(
    sealed_file, synthetic, tmp_path
):
    images = sorted((synthetic / "test").glob("*/*"))[:3]
    names = ["a/x.jpeg", "b/X.jpeg", "...jpeg"]
    paths = [tmp_path / name for name in names]
    for path, image in zip(paths, images, strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image.read_bytes())
    predictor, folder = Predictor.load(sealed_file), tmp_path / "heat"
    words = [*map(str, paths), "/etc/passwd"]
    maps = HeatMaps(predictor, folder, words)
    maps.write([*predictor.predict(paths), FailedPrediction("/etc/passwd", "no image")])
    found = sorted(path.name for path in folder.iterdir())
    assert len(found) == 3
    assert len({name.lower() for name in found}) == 3
    assert all(name.endswith(".png") and not name.startswith(".") for name in found)


@pytest.fixture
def predict(sealed_file, monkeypatch):
    """Runs `pneumonia predict` in this process, and gives its exit code."""

    def run(*words: object) -> int:
        command = ["pneumonia", "predict", "--checkpoint", sealed_file, *words]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code or 0

    return run


def pictures(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_predict_draws_while_it_answers(predict, synthetic, tmp_path):
    images = synthetic / "test/NORMAL"
    assert predict(images, "--explain", tmp_path / "heat", "--out", tmp_path / "o.csv") == 0
    assert set(pictures(tmp_path / "heat")) == {f"{path.stem}.png" for path in images.iterdir()}


@pytest.fixture
def twins(synthetic, tmp_path):
    """Two folders of one image each, both by the name x.jpeg, and a third of another name."""
    names = ["a/x.jpeg", "b/x.jpeg", "c/y.jpeg"]
    for name, image in zip(names, sorted((synthetic / "test").glob("*/*")), strict=False):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(image.read_bytes())
    return tmp_path / "in"


def test_shards_draw_into_one_folder_what_one_job_would(predict, twins, tmp_path):
    assert predict(twins, "--explain", tmp_path / "whole") == 0
    for shard in ("1/3", "2/3", "3/3"):
        assert predict(twins, "--shard", shard, "--explain", tmp_path / "parts") == 0
    assert len(pictures(tmp_path / "whole")) == 3
    assert "y.png" in pictures(tmp_path / "whole")
    assert pictures(tmp_path / "parts") == pictures(tmp_path / "whole")


def test_a_resumed_table_gets_the_pictures_it_lacks_and_no_other(predict, twins, tmp_path):
    (twins / "d.jpeg").write_bytes(b"no image")
    table, folder = tmp_path / "o.csv", tmp_path / "heat"
    assert predict(twins, "--out", table, "--explain", folder) == 1
    rows, drawn = table.read_text(), pictures(folder)
    assert len(drawn) == 3
    (folder / "y.png").unlink()  # as a kill between row and picture leaves it
    kept = next(folder.iterdir())
    kept.write_bytes(b"drawn before")
    assert predict(twins, "--out", table, "--explain", folder, "--resume") == 1
    assert table.read_text() == rows
    assert pictures(folder) == drawn | {kept.name: b"drawn before"}


def test_a_picture_that_cannot_be_drawn_any_more_is_named(predict, twins, tmp_path, capsys):
    table, folder = tmp_path / "o.csv", tmp_path / "heat"
    assert predict(twins, "--out", table) == 0
    (twins / "c/y.jpeg").write_bytes(b"no image any more")
    assert predict(twins, "--out", table, "--explain", folder, "--resume") == 1
    assert "No heat map: " in capsys.readouterr().err
    assert len(pictures(folder)) == 2


def test_a_file_is_read_once_for_its_answer_and_its_map(sealed_file, synthetic, monkeypatch):
    predictor = Predictor.load(sealed_file)
    path = next((synthetic / "test/NORMAL").iterdir())
    reads, read = [], reading.read_grey
    monkeypatch.setattr(reading, "read_grey", lambda *a, **k: reads.append(a) or read(*a, **k))
    found = predictor.explain(path)
    assert len(reads) == 1
    assert found.prediction == predictor.predict(path)


def test_what_cannot_be_explained_is_refused_before_any_work(sealed_file, tmp_path):
    exported = tmp_path / "m.onnx"
    export(sealed_file, exported)
    with pytest.raises(ModelError, match="need its checkpoint"):
        HeatMaps(Predictor.load(exported), tmp_path / "heat", [])
    assert not (tmp_path / "heat").exists()
    with pytest.raises(ConfigError, match="cannot be written to"):
        HeatMaps(Predictor.load(sealed_file), "/proc/nowhere", [])
    with pytest.raises(DataError, match="image 1"):
        explain(Predictor.load(sealed_file), b"no image")
