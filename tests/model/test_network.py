"""Any timm backbone: grey pixels to one logit."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from pneumonia.errors import ModelError
from pneumonia.model.network import PneumoniaNetwork


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
