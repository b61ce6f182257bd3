"""Random transforms of training images: small, reproducible, and independent of global state."""

import pytest
import torch

from pneumonia.data.transforms import Augmentation
from pneumonia.errors import ConfigError

STILL = {"degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0), "brightness": 0.0, "contrast": 0.0}


@pytest.fixture
def heart() -> torch.Tensor:
    """A dark square with a bright blob on the image's right, as hearts are."""
    image = torch.full((1, 48, 48), 60, dtype=torch.uint8)
    image[:, 18:32, 30:42] = 200
    return image


def column(image: torch.Tensor) -> int:
    """The brightest column."""
    return int(image.float().sum((0, 1)).argmax())


def test_pixels_depend_on_the_seed_only(heart):
    augment = Augmentation(horizontal_flip=0.5)
    copy, state = heart.clone(), torch.get_rng_state()
    first = augment(heart, 7)
    assert (first.shape, first.dtype) == (heart.shape, torch.uint8)
    assert torch.equal(heart, copy)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(Augmentation(horizontal_flip=0.5)(heart, 7), first)
    assert not torch.equal(augment(heart, 8), first)
    assert not torch.equal(augment(heart, 2**64 - 1), augment(heart, 2**63))


def test_the_heart_changes_sides_only_with_a_flip(heart):
    assert all(column(Augmentation()(heart, seed)) > 24 for seed in range(100))
    assert torch.equal(Augmentation(**STILL, horizontal_flip=1.0)(heart, 0), heart.flip(-1))
    sides = [column(Augmentation(horizontal_flip=0.5)(heart, seed)) > 24 for seed in range(100)]
    assert 30 < sum(sides) < 70


@pytest.mark.parametrize(
    "change",
    [
        *({"degrees": 10.0}, {"translate": 0.1}, {"scale": [0.8, 0.9]}),
        *({"shear": 10.0}, {"brightness": 0.2}, {"contrast": 0.2}),
    ],
    ids=str,
)
def test_each_transform_changes_the_image_moderately(heart, change):
    changed = Augmentation(**{**STILL, **change})(heart, 2)
    assert not torch.equal(changed, heart)
    assert 0.7 < changed.float().mean() / heart.float().mean() < 1.3


@pytest.mark.parametrize(
    ("key", "value"),
    [("degrees", -1.0), ("translate", 2.0), ("scale", [0.0, 1.0]), ("scale", [1.0])],
)
def test_a_setting_out_of_range_is_refused(key, value):
    with pytest.raises(ConfigError, match=rf"data\.augmentation\.{key}="):
        Augmentation(**{key: value})
