"""Heat maps lie where the evidence is, or are refused by name, and leave the network as it was."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from pneumonia.errors import ModelError
from pneumonia.inference.saliency import GRAD_CAM, INTEGRATED, Saliency
from pneumonia.labels import NORMAL, PNEUMONIA
from pneumonia.model.network import PneumoniaNetwork

SQUARE = 16
CASES = 40


def picture(random: np.random.Generator, side: int, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Blotches and grain; in PNEUMONIA a bright square at a random place, whose middle is given."""
    blotches = np.kron(random.normal(0, 12, (side // 8, side // 8)), np.ones((8, 8)))
    pixels = random.uniform(60, 110) + blotches + random.normal(0, 8, (side, side))
    row, column = random.integers(0, side - SQUARE, 2)
    if label == PNEUMONIA:
        pixels[row : row + SQUARE, column : column + SQUARE] += 70
    return pixels.clip(0, 255).astype(np.uint8), np.array([row, column]) + SQUARE // 2


def taught(backbone: str, side: int, steps: int, early: bool) -> PneumoniaNetwork:
    """A network that has learnt to tell whether there is a square: not every start leads there.

    `early`: only the first block of a transformer lets its tokens take from each other, so that
    behind it the class token alone holds what was found.
    """
    random = np.random.default_rng(2)
    labels = np.arange(200) % 2
    unseen = np.stack([picture(random, side, label)[0] for label in labels])
    for seed in range(5):
        network = trained(backbone, side, steps, early, seed)
        with torch.no_grad():
            logits = network(torch.from_numpy(unseen)[:, None])
        if roc_auc_score(labels, logits) > 0.98:
            return network
    raise AssertionError(f"{backbone} has learnt nothing that a map could show")


def trained(backbone: str, side: int, steps: int, early: bool, seed: int) -> PneumoniaNetwork:
    torch.manual_seed(seed)
    network = PneumoniaNetwork(backbone, image_size=side)
    for block in network.backbone.blocks[1:] if early else ():
        for parameter in block.attn.proj.parameters():
            nn.init.zeros_(parameter.requires_grad_(False))
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, 2e-3)
    random = np.random.default_rng(0)
    labels = torch.arange(32) % 2
    for _ in range(steps):
        batch = np.stack([picture(random, side, int(label))[0] for label in labels])
        logits = network(torch.from_numpy(batch)[:, None])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return network.eval()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("backbone", "side", "steps", "early", "method"),
    [
        pytest.param("test_efficientnet", 128, 60, False, GRAD_CAM, id="convolutions"),
        pytest.param("test_vit", 96, 160, False, INTEGRATED, id="class token", marks=SLOW),
        pytest.param("test_vit", 96, 160, True, INTEGRATED, id="class token that reads early"),
        pytest.param("test_vit2", 96, 160, False, INTEGRATED, id="mean", marks=SLOW),
    ],
)
def test_the_map_of_a_trained_network_lies_where_the_evidence_is(
    backbone, side, steps, early, method
):
    cell = 32 if method == GRAD_CAM else 16  # pixels of one place of the map
    network, random = taught(backbone, side, steps, early), np.random.default_rng(1)
    saliency = Saliency(network, side)
    assert saliency.method == method
    hits = 0
    for _ in range(CASES):
        pixels, middle = picture(random, side, PNEUMONIA)
        heat = saliency(pixels, PNEUMONIA)
        assert (heat.shape, heat.dtype, heat.min() >= 0) == ((side, side), np.float32, True)
        hottest = np.unravel_index(heat.argmax(), heat.shape)
        hits += int(heat.max() == 1 and np.abs(hottest - middle).max() <= cell)
    assert hits >= 0.9 * CASES


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit"])
def test_the_network_is_left_as_it_was(backbone):
    torch.manual_seed(0)
    network = PneumoniaNetwork(backbone, image_size=64).eval()
    pixels, _ = picture(np.random.default_rng(1), 64, PNEUMONIA)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.from_numpy(pixels)[None, None]
    logits = network(images).detach()
    first = Saliency(network, 64)(pixels, PNEUMONIA)
    with torch.inference_mode():  # as Lightning validates
        assert np.array_equal(Saliency(network, 64)(pixels, PNEUMONIA), first)
    assert torch.equal(network(images), logits)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_what_speaks_for_a_class_says_how_much_the_logit_rises_in_all():
    """Integrated gradients are complete: all places add up to the change of the logit."""
    torch.manual_seed(0)
    network = PneumoniaNetwork("test_vit", image_size=64).eval()
    pixels, _ = picture(np.random.default_rng(1), 64, PNEUMONIA)
    images = torch.from_numpy(pixels)[None, None].float()
    with torch.no_grad():
        change = network(images) - network(torch.full_like(images, float(images.mean())))
    found = Saliency(network, 64)._places(images, -1)
    assert found.shape == (1, 1, 4, 4)
    assert float(found.detach().sum()) == pytest.approx(-float(change), rel=0.02)


@pytest.mark.parametrize(
    ("backbone", "size", "method"),
    [
        ("resnet10t", 64, GRAD_CAM),
        ("resnetv2_50", 64, GRAD_CAM),
        ("tf_efficientnet_lite0", 64, GRAD_CAM),
        ("mobilenetv3_small_050", 64, GRAD_CAM),
        ("densenet121", 64, GRAD_CAM),
        ("vgg11", 64, GRAD_CAM),
        ("test_convnext", 64, GRAD_CAM),
        ("swin_tiny_patch4_window7_224", 224, GRAD_CAM),
        ("maxvit_rmlp_pico_rw_256", 256, GRAD_CAM),
        ("test_vit", 64, INTEGRATED),
        ("test_vit2", 64, INTEGRATED),
        ("test_vit3", 64, INTEGRATED),
        ("deit_tiny_distilled_patch16_224", 64, INTEGRATED),
        ("eva02_tiny_patch14_224", 56, INTEGRATED),
        ("cait_xxs24_224", 64, INTEGRATED),
        ("vit_small_patch16_18x2_224", 32, INTEGRATED),
    ],
)
def test_convolutions_and_vision_transformers_are_drawn(backbone, size, method):
    torch.manual_seed(0)
    network = PneumoniaNetwork(backbone, image_size=size).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size), np.uint8)
    saliency = Saliency(network, size)
    both = [saliency(pixels, label) for label in (NORMAL, PNEUMONIA)]
    assert saliency.method == method
    assert {heat.shape for heat in both} == {(size, size)}
    assert max(heat.max() for heat in both) == 1
    assert not np.array_equal(*both)


@pytest.mark.parametrize(
    "backbone",
    [
        "mixer_s32_224",
        "gmlp_s16_224",
        "levit_128s",
        "coat_lite_tiny",
        "xcit_nano_12_p16_224",
        "pit_ti_224",
        "mvitv2_tiny",
        "hiera_tiny_224",
    ],
)
def test_another_architecture_is_refused_by_name(backbone):
    with pytest.raises(ModelError, match=f"The architecture {backbone} "):
        Saliency(PneumoniaNetwork(backbone, image_size=224).eval(), 224)
