"""Grey pixels to one logit, with any backbone of timm."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from pneumonia.errors import ModelError
from pneumonia.model.network import PneumoniaNetwork

BACKBONES = ("resnet10t", "tf_efficientnet_lite0", "vit_tiny_patch16_224")


def pixels(size: int = 96, count: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=random)


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Moves a fresh model's tensors about, so that its outputs tell something."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.2 * torch.rand_like(buffer))
    return model.eval()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_backbone_gives_one_finite_logit_per_grey_image(backbone):
    network = PneumoniaNetwork(backbone, image_size=96).eval()
    with torch.no_grad():
        logits = network(pixels())
    assert logits.shape == (2,)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("backbone", [*BACKBONES, "test_convnext", "test_efficientnet"])
def test_the_embedding_comes_with_the_very_logits_of_forward(backbone):
    network = lively(PneumoniaNetwork(backbone, image_size=96))
    with torch.no_grad():
        logits, embedding = network.embed(pixels())
        assert torch.equal(logits, network(pixels()))
    assert embedding.shape == (2, network.backbone.head_hidden_size)
    assert embedding.dtype == torch.float32
    assert not torch.equal(embedding[0], embedding[1])


def test_a_batch_of_one_keeps_its_dimension():
    assert PneumoniaNetwork("test_resnet").eval()(pixels(32, 1)).shape == (1,)


@pytest.mark.parametrize("backbone", ["test_resnet", "resnet10t"])
def test_the_backbone_sees_pixels_normalised_with_its_own_statistics(backbone):
    network = PneumoniaNetwork(backbone).eval()
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(pixels(32))
    cfg = timm.get_pretrained_cfg(backbone)
    mean, std = sum(cfg.mean) / 3, sum(cfg.std) / 3
    expected = (pixels(32).double() / 255 - mean) / std
    assert torch.allclose(seen[0].double(), expected, atol=1e-5)
    assert 1.5 < seen[0].max() - seen[0].min() < 5


def test_pixels_as_floats_of_the_same_range_give_the_same():
    network = PneumoniaNetwork("test_resnet").eval()
    assert torch.equal(network(pixels(32)), network(pixels(32).float()))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("backbone", ["test_resnet", "tf_efficientnet_lite0", "test_vit"])
def test_rgb_weights_do_for_grey_what_they_did_for_grey_repeated_three_times(
    tmp_path, backbone, suffix
):
    size = {"img_size": 96} if "vit" in backbone else {}
    rgb = lively(timm.create_model(backbone, num_classes=1, **size))
    file = str(tmp_path / f"weights.{suffix}")
    if suffix == "pth":
        torch.save({"state_dict": rgb.state_dict()}, file)
    else:
        save_file(rgb.state_dict(), file)
    network = PneumoniaNetwork(backbone, weights=file, image_size=96).eval()
    rgb.get_classifier().load_state_dict(network.backbone.get_classifier().state_dict())
    cfg = rgb.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = rgb((pixels().expand(-1, 3, -1, -1) / 255 - mean) / std).squeeze(1)
        logits = network(pixels())
    assert expected.abs().max() > 1e-3
    assert torch.allclose(logits, expected, atol=1e-4, rtol=1e-4)


def test_the_state_holds_the_backbone_and_nothing_that_a_config_must_know():
    assert all(key.startswith("backbone.") for key in PneumoniaNetwork("test_resnet").state_dict())


@pytest.mark.parametrize(
    ("backbone", "close"),
    [("resnetv2_5", "resnetv2_50"), ("tf_eficientnet_lite0", "tf_efficientnet_lite0")],
)
def test_an_unknown_backbone_is_refused_with_close_names(backbone, close):
    with pytest.raises(
        ModelError, match=f"model.backbone={backbone} is no .*did you mean .*{close}"
    ):
        PneumoniaNetwork(backbone)


@pytest.mark.parametrize("backbone", ["", "zzzzzzzz"])
def test_a_backbone_like_no_other_is_refused_with_where_to_look(backbone):
    with pytest.raises(ModelError, match="list_models"):
        PneumoniaNetwork(backbone)


def test_an_unknown_weights_tag_is_refused_with_those_there_are():
    with pytest.raises(ModelError, match=r"resnet10t\.nope .*resnet10t\.c3_in1k"):
        PneumoniaNetwork("resnet10t.nope")


@pytest.mark.parametrize(
    ("backbone", "size"), [("xcit_nano_12_p16_224", 20), ("levit_128s", 100), ("test_vit", 8)]
)
def test_a_size_that_a_backbone_cannot_have_is_one_sentence(backbone, size):
    with pytest.raises(ModelError, match=f"model.backbone={backbone} .*{size} pixels .*image_size"):
        PneumoniaNetwork(backbone, image_size=size)
