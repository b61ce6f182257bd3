"""Heat maps lie where the evidence is, on the original's shape, and leave the model as it was."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pneumonia import cli
from pneumonia.data.image import Preprocessing
from pneumonia.errors import ConfigError, DataError, ModelError
from pneumonia.inference.explain import HeatMaps, explain, lay_back
from pneumonia.inference.export import export
from pneumonia.inference.overlay import blend
from pneumonia.inference.prediction import Failure
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.saliency import Saliency
from pneumonia.labels import NORMAL, PNEUMONIA
from pneumonia.model.network import PneumoniaNetwork

SIDE = 64


def square(row: int, column: int) -> np.ndarray:
    pixels = np.full((SIDE, SIDE), 60, np.uint8)
    pixels[row : row + 16, column : column + 16] = 230
    return pixels


def centre(heat: np.ndarray) -> tuple[float, float]:
    weight = np.nan_to_num(heat)
    rows, columns = np.indices(heat.shape)
    return float((rows * weight).sum() / weight.sum()), float(
        (columns * weight).sum() / weight.sum()
    )


def taught(backbone: str) -> PneumoniaNetwork:
    """A network that has learnt to tell whether there is a bright square, wherever it lies."""
    torch.manual_seed(0)
    network = PneumoniaNetwork(backbone, image_size=SIDE)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    random = np.random.default_rng(0)
    for _ in range(60):
        labels = torch.arange(16) % 2
        pictures = [
            square(*random.integers(0, SIDE - 16, 2)) if label else np.full((SIDE, SIDE), 60)
            for label in labels
        ]
        noisy = np.stack(pictures) + random.normal(0, 4, (16, SIDE, SIDE))
        batch = torch.from_numpy(noisy.clip(0, 255).astype(np.uint8))[:, None]
        loss = nn.functional.binary_cross_entropy_with_logits(network(batch), labels.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    optimizer.zero_grad()
    return network.eval()


@pytest.fixture(scope="module")
def network() -> PneumoniaNetwork:
    return taught("resnet10t")


@pytest.mark.parametrize(("row", "column"), [(4, 4), (4, 44), (44, 4), (44, 44)])
def test_the_map_lies_where_the_evidence_is(network, row, column):
    heat = Saliency(network, SIDE)(square(row, column), PNEUMONIA)
    assert heat.shape == (SIDE, SIDE)
    assert heat.dtype == np.float32
    assert (heat.min() >= 0, heat.max()) == (True, 1)
    hottest = np.unravel_index(heat.argmax(), heat.shape)
    assert np.hypot(hottest[0] - row - 8, hottest[1] - column - 8) < 24
    off = [r + c for r, c in zip(centre(heat), (-row - 8, -column - 8), strict=True)]
    assert np.hypot(*off) < 26


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 48), (48, 0), (32, 16)])
def test_in_a_vision_transformer_a_place_of_the_map_is_the_patch_that_lies_there(row, column):
    torch.manual_seed(0)
    network = PneumoniaNetwork("test_vit", image_size=SIDE).eval()
    for block in network.backbone.blocks:  # without mixing, a token knows its own patch alone
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.mlp.fc2.weight)
    saliency, seen = Saliency(network, SIDE), []
    saliency._probed.probe.register_forward_hook(lambda *call: seen.append(call[2].detach()))
    saliency._probed(torch.full((1, 1, SIDE, SIDE), 60, dtype=torch.uint8))
    saliency._probed(torch.from_numpy(square(row, column))[None, None])
    different = (seen[1] - seen[0]).abs().sum(1)[0] > 1e-6
    assert different.nonzero().tolist() == [[row // 16, column // 16]]


def test_the_map_of_a_vision_transformer_weighs_places_by_their_gradients():
    torch.manual_seed(0)
    network = PneumoniaNetwork("test_vit", image_size=SIDE).eval()
    pixels = square(16, 32)
    saliency, kept = Saliency(network, SIDE), []

    def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        output.requires_grad_().retain_grad()
        kept.append(output)

    heat = saliency(pixels, PNEUMONIA)
    handle = network.backbone.blocks[-1].norm1.register_forward_hook(keep)
    network(torch.from_numpy(pixels)[None, None]).sum().backward()
    handle.remove()
    first = network.backbone.num_prefix_tokens
    gradient, activation = kept[0].grad[0, first:], kept[0].detach()[0, first:]
    expected = (activation * gradient.mean(0)).sum(1).relu().reshape(1, 1, 4, 4)
    smooth = nn.functional.interpolate(expected, (SIDE, SIDE), mode="bilinear")[0, 0]
    np.testing.assert_allclose(heat, smooth / smooth.max(), atol=1e-4)


def test_the_network_is_left_as_it_was(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.from_numpy(square(4, 4))[None, None]
    logits = network(images).detach()
    first = Saliency(network, SIDE)(square(4, 4), PNEUMONIA)
    with torch.inference_mode():  # as Lightning validates
        assert np.array_equal(Saliency(network, SIDE)(square(4, 4), PNEUMONIA), first)
    assert torch.equal(network(images), logits)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [parameter.grad for parameter in network.parameters()] == [None] * len(
        list(network.parameters())
    )
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("test_resnet", 48),
        ("resnetv2_50", 64),
        ("tf_efficientnet_lite0", 64),
        ("test_convnext", 64),
        ("test_vit", 64),
        ("deit_tiny_distilled_patch16_224", 64),
        ("swin_tiny_patch4_window7_224", 224),
    ],
)
def test_convolutions_and_vision_transformers_are_known(backbone, size):
    network = PneumoniaNetwork(backbone, image_size=size).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size), np.uint8)
    both = [Saliency(network, size)(pixels, label) for label in (NORMAL, PNEUMONIA)]
    assert {heat.shape for heat in both} == {(size, size)}
    assert max(heat.max() for heat in both) == 1
    assert not np.array_equal(*both)


@pytest.mark.parametrize("backbone", ["mixer_s32_224", "gmlp_s16_224"])
def test_another_architecture_is_refused_by_name(backbone):
    with pytest.raises(ModelError, match=backbone.partition("_")[0]):
        Saliency(PneumoniaNetwork(backbone, image_size=224).eval(), 224)


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


def test_the_same_image_gives_the_same_map(sealed_file, phantom):
    predictor = Predictor.load(sealed_file)
    image = next((phantom / "test/NORMAL").iterdir())
    assert np.array_equal(predictor.explain(image).heat, predictor.explain(image).heat)


def test_heat_shows_in_proportion_and_not_where_nothing_was_seen():
    image = np.full((2, 2), 100, np.uint8)
    shown = blend(image, np.array([[0, 1], [np.nan, 0.5]], np.float32))
    assert (shown[0, 0] == 100).all()
    assert (shown[1, 0] == 100).all()
    assert not (shown[0, 1] == shown[1, 1]).all()


def test_every_answer_has_its_picture_and_a_name_never_leaves_the_folder(
    sealed_file, phantom, tmp_path
):
    images = sorted((phantom / "test").glob("*/*"))[:3]
    names = ["a/x.jpeg", "b/X.jpeg", "...jpeg"]
    paths = [tmp_path / name for name in names]
    for path, image in zip(paths, images, strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image.read_bytes())
    predictor, folder = Predictor.load(sealed_file), tmp_path / "heat"
    words = [*map(str, paths), "/etc/passwd"]
    maps = HeatMaps(predictor, folder, words)
    maps.write([*predictor.predict(paths), Failure("/etc/passwd", "no image")])
    found = sorted(path.name for path in folder.iterdir())
    assert len(found) == 3
    assert len({name.lower() for name in found}) == 3
    assert all(name.endswith(".png") and not name.startswith(".") for name in found)


def test_predict_draws_while_it_answers(sealed_file, phantom, tmp_path, monkeypatch):
    words = ["predict", "--checkpoint", sealed_file, phantom / "test/NORMAL"]
    words += ["--explain", tmp_path / "heat", "--out", tmp_path / "o.csv"]
    monkeypatch.setattr(sys, "argv", ["pneumonia", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    expected = {f"{path.stem}.png" for path in (phantom / "test/NORMAL").iterdir()}
    assert {path.name for path in (tmp_path / "heat").iterdir()} == expected


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
