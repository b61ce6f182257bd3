"""Training-only changes: small, repeatable, and none of anyone else's random numbers."""

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


def side(image: torch.Tensor) -> int:
    """The column of the brightest half."""
    return int(image.float().sum((0, 1)).argmax())


def test_shape_and_type_stay(heart):
    changed = Augmentation()(heart, 0)
    assert changed.shape == heart.shape
    assert changed.dtype == torch.uint8


def test_the_same_seed_gives_the_same_pixels_and_another_gives_others(heart):
    augment = Augmentation(horizontal_flip=0.5)
    assert torch.equal(augment(heart, 7), augment(heart, 7))
    assert torch.equal(augment(heart, 7), Augmentation(horizontal_flip=0.5)(heart, 7))
    assert not torch.equal(augment(heart, 7), augment(heart, 8))


def test_seeds_may_be_as_long_as_64_bits(heart):
    assert not torch.equal(Augmentation()(heart, 2**64 - 1), Augmentation()(heart, 2**63))


def test_the_global_random_state_is_left_alone_and_does_not_matter(heart):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Augmentation()(heart, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Augmentation()(heart, 3), first)


def test_the_image_given_is_not_changed(heart):
    copy = heart.clone()
    Augmentation()(heart, 0)
    assert torch.equal(heart, copy)


def test_by_default_the_heart_stays_on_its_side(heart):
    augment = Augmentation()
    assert all(side(augment(heart, seed)) > 24 for seed in range(100))


def test_a_flip_is_there_for_recipes_that_ask_for_it(heart):
    flip = Augmentation(**STILL, horizontal_flip=1.0)
    assert torch.equal(flip(heart, 0), heart.flip(-1))
    sides = [side(Augmentation(horizontal_flip=0.5)(heart, seed)) > 24 for seed in range(100)]
    assert 30 < sum(sides) < 70


def test_without_any_change_the_image_is_the_same(heart):
    assert torch.equal(Augmentation(**STILL)(heart, 0), heart)


@pytest.mark.parametrize(
    "change",
    [
        {"degrees": 10.0},
        {"translate": 0.1},
        {"scale": [0.8, 0.9]},
        {"shear": 10.0},
        {"brightness": 0.2},
        {"contrast": 0.2},
    ],
    ids=str,
)
def test_each_change_alone_changes_moderately(heart, change):
    changed = Augmentation(**{**STILL, **change})(heart, 2)
    assert not torch.equal(changed, heart)
    assert 0.7 < changed.float().mean() / heart.float().mean() < 1.3


@pytest.mark.parametrize(
    "settings",
    [
        {"degrees": -1.0},
        {"translate": 2.0},
        {"scale": [0.0, 1.0]},
        {"scale": [1.0]},
        {"shear": -1.0},
        {"brightness": -0.1},
        {"contrast": -0.1},
        {"horizontal_flip": 1.5},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(settings):
    with pytest.raises(ConfigError, match=r"^data\.augmentation"):
        Augmentation(**settings)
