"""Any timm backbone: grey pixels to one logit."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from pneumonia.errors import ConfigError, ModelError
from pneumonia.model.network import TTA, Ensemble, PneumoniaNetwork


def pixels(size: int = 96, count: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=random)


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """Perturb the tensors of an untrained model, so that its outputs differ between images."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.2 * torch.rand_like(buffer))
    return model.eval()


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224", "test_convnext"])
def test_embed_returns_embeddings_and_the_logits_of_forward(backbone):
    network = perturbed(PneumoniaNetwork(backbone, image_size=96))
    with torch.no_grad():
        logits, embedding = network.embed(pixels())
        assert torch.equal(logits, network(pixels()))
    assert logits.shape == (2,)
    assert logits.dtype == embedding.dtype == torch.float32
    assert logits.isfinite().all()
    assert embedding.shape == (2, network.backbone.head_hidden_size)
    assert not torch.equal(embedding[0], embedding[1])


@pytest.mark.parametrize("backbone", ["test_resnet", "resnet10t"])
def test_the_backbone_gets_pixels_normalised_with_its_own_statistics(backbone):
    network = PneumoniaNetwork(backbone).eval()
    inputs = []
    network.backbone.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    assert torch.equal(network(pixels(32)), network(pixels(32).float()))
    cfg = timm.get_pretrained_cfg(backbone)
    mean, std = sum(cfg.mean) / 3, sum(cfg.std) / 3
    expected = (pixels(32).double() / 255 - mean) / std
    assert torch.allclose(inputs[0].double(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "suffix"), [("tf_efficientnet_lite0", "safetensors"), ("test_vit", "pth")]
)
def test_rgb_weights_give_the_logits_of_the_grey_image_repeated_three_times(
    tmp_path, backbone, suffix
):
    size = {"img_size": 96} if "vit" in backbone else {}
    rgb = perturbed(timm.create_model(backbone, num_classes=1, **size))
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


@pytest.mark.parametrize(
    ("backbone", "named"),
    [
        ("resnetv2_5", "resnetv2_50"),
        ("zzzzzzzz", "list_models"),
        ("resnet10t.nope", "resnet10t.c3_in1k"),
    ],
)
def test_an_unknown_backbone_is_refused_with_known_names(backbone, named):
    with pytest.raises(ModelError, match=re.escape(named)) as refusal:
        PneumoniaNetwork(backbone)
    assert f"model.backbone={backbone} " in str(refusal.value)


@pytest.mark.parametrize(
    ("backbone", "size"), [("xcit_nano_12_p16_224", 20), ("levit_128s", 100), ("test_vit", 8)]
)
def test_an_image_size_that_a_backbone_cannot_take_is_refused(backbone, size):
    with pytest.raises(ModelError, match=f"model.backbone={backbone} .*{size} pixels .*image_size"):
        PneumoniaNetwork(backbone, image_size=size)


@pytest.mark.parametrize("tta", TTA)
def test_test_time_augmentation_averages_logits_and_leaves_the_embedding_alone(tta):
    plain = perturbed(PneumoniaNetwork("test_resnet", image_size=96))
    network = PneumoniaNetwork("test_resnet", image_size=96, tta=tta).eval()
    network.load_state_dict(plain.state_dict())
    with torch.no_grad():
        views = [pixels(), *network.changed_views(pixels())]
        expected = torch.stack([plain(view) for view in views]).mean(0)
        logits, embedding = network.embed(pixels())
        assert torch.allclose(network(pixels()), expected, atol=1e-5)
        assert torch.allclose(logits, expected, atol=1e-5)
        assert torch.equal(embedding, plain.embed(pixels())[1])
        assert torch.equal(network.single_view(pixels()), plain(pixels()))
        assert not torch.allclose(expected, plain(pixels()), atol=1e-5)
    assert network.n_views == len(views)


@pytest.mark.parametrize("tta", TTA)
def test_a_view_is_mirrored_enlarged_and_stretched_about_the_centre(tta):
    network = PneumoniaNetwork("test_resnet", image_size=96, tta=tta)
    y, x = torch.meshgrid(*[torch.arange(96) - 47.5] * 2, indexing="ij")
    disc = 255.0 * (x**2 + y**2 < 28**2) * (1 + 0.2 * (x > 0)) / 1.2
    for view, (image,) in zip(TTA[tta], network.changed_views(disc[None, None]), strict=True):
        pixel = image[0] / image.sum()
        assert image.sum() / disc.sum() == pytest.approx(view.zoom**2, rel=0.02)
        assert ((x * pixel).sum() < 0) == view.flip
        wide, high = (((each**2 * pixel).sum()).sqrt() for each in (x, y))
        assert torch.log(wide / high) == pytest.approx(view.stretch, abs=0.02)


def test_a_view_is_rotated_counterclockwise_by_its_degrees():
    network = PneumoniaNetwork("test_resnet", image_size=96, tta="pose")
    bar = torch.zeros(1, 1, 96, 96)
    bar[..., 44:52, 10:86] = 255.0
    y, x = torch.meshgrid(*[torch.arange(96) - 47.5] * 2, indexing="ij")
    for view, (image,) in zip(TTA["pose"], network.changed_views(bar), strict=True):
        slope = (x * y * image[0]).sum() / (x**2 * image[0]).sum()
        assert torch.rad2deg(torch.atan(-slope)) == pytest.approx(view.degrees, abs=1)


def test_an_unknown_test_time_augmentation_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"model\.tta='mirror'.*flip.*pose"):
        PneumoniaNetwork("test_resnet", tta="mirror")


def test_an_ensemble_averages_logits_and_joins_embeddings():
    backbones = ("test_resnet", "test_efficientnet")
    members = [perturbed(PneumoniaNetwork(name, image_size=96)) for name in backbones]
    ensemble = Ensemble(members)
    with torch.no_grad():
        (a, first), (b, second) = (member.embed(pixels()) for member in members)
        logits, embedding = ensemble.embed(pixels())
        assert torch.allclose(ensemble(pixels()), (a + b) / 2)
    assert torch.allclose(logits, (a + b) / 2)
    assert torch.equal(embedding, torch.cat([first, second], 1))
