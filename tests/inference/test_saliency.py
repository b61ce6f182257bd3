"""Heat maps lie where the evidence is, keep the shape of the image, and get one picture a file."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pneumonia.data.image_io import Preprocessing
from pneumonia.errors import DataError, ModelError
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.saliency import (
    CAVEAT,
    GRAD_CAM,
    INTEGRATED_GRADIENTS,
    Explanation,
    Saliency,
    overlay_heat_map,
    undo_resize,
)
from pneumonia.inference.types import Prediction
from pneumonia.labels import NORMAL, PNEUMONIA
from pneumonia.model.network import PneumoniaNetwork

SQUARE, IMAGES = 16, 20


def draw_image(random: np.random.Generator, side: int, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise; with PNEUMONIA a bright square at a random place, whose centre is returned."""
    blotches = np.kron(random.normal(0, 12, (side // 8, side // 8)), np.ones((8, 8)))
    pixels = random.uniform(60, 110) + blotches + random.normal(0, 8, (side, side))
    row, column = random.integers(0, side - SQUARE, 2)
    if label == PNEUMONIA:
        pixels[row : row + SQUARE, column : column + SQUARE] += 70
    return pixels.clip(0, 255).astype(np.uint8), np.array([row, column]) + SQUARE // 2


def train(backbone: str, side: int, steps: int) -> PneumoniaNetwork:
    torch.manual_seed(0)
    network = PneumoniaNetwork(backbone, image_size=side)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    random = np.random.default_rng(0)
    labels = torch.arange(32) % 2
    for _ in range(steps):
        batch = np.stack([draw_image(random, side, int(label))[0] for label in labels])
        logits = network(torch.from_numpy(batch)[:, None])
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, labels.float()).backward()
        optimizer.step()
    optimizer.zero_grad()
    return network.eval()


@pytest.mark.parametrize(
    ("backbone", "steps", "method"),
    [
        ("test_efficientnet", 40, GRAD_CAM),
        pytest.param("test_vit", 160, INTEGRATED_GRADIENTS, marks=pytest.mark.slow),
    ],
)
def test_map_of_a_trained_network_lies_on_the_evidence(backbone, steps, method):
    side = 96
    cell = 32 if method == GRAD_CAM else 16  # pixels of one place of the map
    network, random = train(backbone, side, steps), np.random.default_rng(1)
    saliency = Saliency(network, side)
    assert saliency.method == method
    hits = 0
    for _ in range(IMAGES):
        pixels, centre = draw_image(random, side, PNEUMONIA)
        heat = saliency(pixels, PNEUMONIA)
        assert (heat.shape, heat.dtype, heat.min() >= 0) == ((side, side), np.float32, True)
        hottest = np.unravel_index(heat.argmax(), heat.shape)
        hits += int(heat.max() == 1 and np.abs(hottest - centre).max() <= cell)
    assert hits >= 0.9 * IMAGES


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit"])
def test_network_is_not_changed(backbone):
    torch.manual_seed(0)
    network = PneumoniaNetwork(backbone, image_size=64).eval()
    pixels, _ = draw_image(np.random.default_rng(1), 64, PNEUMONIA)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = Saliency(network, 64)(pixels, PNEUMONIA)
    with torch.inference_mode():  # as Lightning validates
        assert np.array_equal(Saliency(network, 64)(pixels, PNEUMONIA), first)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("backbone", "size", "method"),
    [
        ("tf_efficientnet_lite0", 64, GRAD_CAM),
        ("densenet121", 64, GRAD_CAM),
        ("swin_tiny_patch4_window7_224", 224, GRAD_CAM),
        ("test_vit", 64, INTEGRATED_GRADIENTS),
        ("eva02_tiny_patch14_224", 56, INTEGRATED_GRADIENTS),
    ],
)
def test_convolutional_networks_and_vision_transformers_have_maps(backbone, size, method):
    torch.manual_seed(0)
    network = PneumoniaNetwork(backbone, image_size=size).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size), np.uint8)
    saliency = Saliency(network, size)
    both = [saliency(pixels, label) for label in (NORMAL, PNEUMONIA)]
    assert saliency.method == method
    assert {heat.shape for heat in both} == {(size, size)}
    assert max(heat.max() for heat in both) == 1
    assert not np.array_equal(*both)


@pytest.mark.parametrize("backbone", ["mixer_s32_224", "levit_128s"])
def test_other_architectures_are_refused_by_name(backbone):
    with pytest.raises(ModelError, match=backbone):
        Saliency(PneumoniaNetwork(backbone, image_size=224).eval(), 224)


def centre_of_mass(heat: np.ndarray) -> list[float]:
    weight = np.nan_to_num(heat)
    return [float((index * weight).sum() / weight.sum()) for index in np.indices(heat.shape)]


@pytest.mark.parametrize("size", [(200, 100), (100, 200)])
@pytest.mark.parametrize("mode", ["squash", "pad", "crop"])
def test_map_lies_on_the_pixels_it_was_computed_from(mode, size):
    width, height = size
    original = np.zeros((height, width), np.uint8)
    row, column = height // 2 - 20, width // 2 + 8
    original[row : row + 24, column : column + 24] = 255
    preprocessing = Preprocessing(64, mode)
    heat = preprocessing(Image.fromarray(original)).astype(np.float32) / 255
    found = undo_resize(heat, size, preprocessing)
    assert np.isnan(found).any() == (mode == "crop" and width != height)
    assert np.allclose(centre_of_mass(found), centre_of_mass(original / 255), atol=2.5)
    inside = ~np.isnan(found)
    assert np.abs(found[inside] - original[inside] / 255).mean() < 0.06


def test_overlay_is_proportional_to_the_heat_and_leaves_out_nan():
    image = np.full((2, 2), 100, np.uint8)
    shown = overlay_heat_map(image, np.array([[0, 1], [np.nan, 0.5]], np.float32)).astype(int)
    change = np.abs(shown - 100).sum(axis=-1)
    assert change[0, 0] == change[1, 0] == 0
    assert change[0, 1] > change[1, 1] > 0


SURE = Prediction("x.jpeg", 0.9, "PNEUMONIA", False, False, 0.1, ())
WARNINGS = ("low contrast: 12 of 256 grey levels", "too small " * 15)
DOUBTFUL = Prediction("x" * 90 + ".jpeg", 0.5, "NORMAL", True, True, 9.0, WARNINGS)


@pytest.mark.parametrize(
    ("prediction", "shape"),
    [(SURE, (300, 400)), (DOUBTFUL, (100, 800)), (DOUBTFUL, (800, 200))],
)
def test_picture_shows_everything_without_overlap_and_keeps_the_aspect_ratio(prediction, shape):
    image, heat = np.zeros(shape, np.uint8), np.full(shape, np.nan, np.float32)
    figure = Explanation(prediction, image, heat, GRAD_CAM).draw()
    figure.draw_without_rendering()
    header, footer = figure._suptitle, figure._supxlabel
    for text in (header, footer):
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert footer.get_window_extent().y1 <= box.y0
        assert box.y1 <= header.get_window_extent().y0
    for axes in figure.axes[:2]:
        assert axes.bbox.width / axes.bbox.height == pytest.approx(shape[1] / shape[0], rel=0.01)
    assert CAVEAT in " ".join(footer.get_text().split())
    words = " ".join(header.get_text().split())
    assert prediction.predicted_class in words
    assert ("OUT OF DISTRIBUTION" in words) == bool(prediction.is_ood)
    assert all(warning.strip() in words for warning in prediction.warnings)


def test_explanation_keeps_the_aspect_ratio_and_is_saved_as_one_file(checkpoint_file, tmp_path):
    predictor = Predictor.load(checkpoint_file)
    pixels = np.random.default_rng(0).integers(0, 256, (900, 2000), np.uint8)
    found = predictor.explain(pixels)
    assert found.image.shape == found.heat.shape == (461, 1024)
    assert found.prediction == predictor.predict(pixels)
    assert np.array_equal(found.heat, predictor.explain(pixels).heat)
    found.save(tmp_path / "new" / "x.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]
    with Image.open(BytesIO(found.to_png())) as picture:
        assert picture.width == 1200
    with pytest.raises(OSError, match="/proc/nowhere"):
        found.save("/proc/nowhere/x.png")
    with pytest.raises(DataError, match="image 1"):
        predictor.explain(b"no image")


def test_what_has_no_heat_map_is_refused_before_anything_is_written(
    predict, images, exported, tmp_path, capsys
):
    out = tmp_path / "o.csv"
    assert predict(images[0], "--out", out, "--explain", "/proc/nowhere") == 2
    assert "/proc/nowhere" in capsys.readouterr().err
    assert predict(images[0], "--explain", tmp_path / "heat", checkpoint=exported) == 2
    assert "checkpoint" in capsys.readouterr().err
    assert not out.exists()
    assert not (tmp_path / "heat").exists()


def pictures(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_prediction_gets_a_picture_in_any_shard_and_after_a_kill(predict, images, tmp_path):
    files = [tmp_path / name for name in ("a/x.jpeg", "b/X.jpeg", "c/...jpeg", "d.jpeg")]
    for file, image in zip(files[:3], images, strict=False):
        file.parent.mkdir()
        file.write_bytes(image.read_bytes())
    files[3].write_bytes(b"no image")
    whole, table = tmp_path / "whole", tmp_path / "o.csv"
    assert predict(*files, "--out", table, "--explain", whole) == 1
    names = list(pictures(whole))
    assert len({name.lower() for name in names}) == len(names) == 3
    assert all(name.endswith(".png") and not name.startswith(".") for name in names)
    for shard in ("1/2", "2/2"):
        predict(*files, "--shard", shard, "--explain", tmp_path / "parts")
    assert pictures(tmp_path / "parts") == pictures(whole)
    header, *rows = table.read_text().splitlines(keepends=True)
    table.write_text(header + rows[0])
    resumed = tmp_path / "resumed"
    assert predict(*files, "--out", table, "--explain", resumed, "--resume") == 1
    assert len(table.read_text().splitlines()) == 1 + len(files)
    assert pictures(resumed).items() < pictures(whole).items()
    assert len(pictures(resumed)) == 2
