"""Random changes of images: plausible, reproducible, and independent of global state."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pneumonia.data.transforms import STRONG, VAL_SHIFT, Augmentation, scanner_shift
from pneumonia.errors import ConfigError

EVERYTHING = Augmentation(
    degrees=20.0,
    area=(0.4, 1.0),
    ratio=(0.75, 1.333),
    shear=5.0,
    stretch=0.2,
    horizontal_flip=0.5,
    gamma=0.2,
    resolution=(0.4, 1.0),
    noise=0.03,
    jpeg=0.5,
)


@pytest.fixture
def heart() -> np.ndarray:
    """A dark square with a bright blob on the image's right, as hearts are."""
    image = np.full((48, 48), 60, np.uint8)
    image[18:32, 30:42] = 200
    return image


def column(image: np.ndarray) -> int:
    """The brightest column."""
    return int(image.sum(0, dtype=int).argmax())


def extent(image: np.ndarray) -> tuple[int, int]:
    """Width and height of the blob."""
    bright = image > 130
    return int(bright.any(0).sum()), int(bright.any(1).sum())


@pytest.mark.parametrize("change", [STRONG, EVERYTHING, VAL_SHIFT, scanner_shift])
def test_pixels_depend_on_the_seed_only(heart, change):
    copy, state = heart.copy(), (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    first = change(heart, 7)
    assert (first.shape, first.dtype) == (heart.shape, np.uint8)
    assert (heart == copy).all()
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()  # noqa: NPY002
    assert (change(heart, 7) == first).all()
    assert len({change(heart, seed).tobytes() for seed in (7, 8, 2**63, 2**64 - 1)}) > 2
    assert first.flags.writeable


def test_the_heart_changes_sides_only_with_a_flip(heart):
    pose = Augmentation(degrees=10.0, translate=0.05, scale=(0.9, 1.1))
    assert all(column(pose(heart, seed)) > 24 for seed in range(100))
    flipped = Augmentation(horizontal_flip=1.0)(heart, 0)
    np.testing.assert_array_equal(flipped, heart[:, ::-1])
    sides = [column(replace(pose, horizontal_flip=0.5)(heart, seed)) > 24 for seed in range(100)]
    assert 30 < sum(sides) < 70


def test_nothing_changes_where_every_setting_is_neutral(heart):
    for seed in range(5):
        np.testing.assert_array_equal(Augmentation()(heart, seed), heart)


@pytest.mark.parametrize(
    "change",
    [
        *({"degrees": 10.0}, {"translate": 0.1}, {"scale": [0.8, 0.9]}, {"stretch": 0.3}),
        *({"shear": 10.0}, {"brightness": 0.2}, {"contrast": 0.2}, {"gamma": 0.3}),
        *({"area": [0.6, 0.8]}, {"ratio": [0.6, 0.8]}, {"resolution": [0.4, 0.5]}),
        *({"noise": 0.05}, {"jpeg": 1.0}),
    ],
    ids=str,
)
def test_each_setting_changes_the_image_moderately(heart, change):
    changed = [Augmentation(**change)(heart, seed) for seed in range(2, 6)]
    assert all((image != heart).any() for image in changed)
    assert all(0.6 < image.mean() / heart.mean() < 1.5 for image in changed)


def test_each_setting_changes_what_it_names(heart):
    def widths_and_heights(**change):
        found = [extent(Augmentation(**change)(heart, seed)) for seed in range(20)]
        return np.array(found).T

    width, height = widths_and_heights(scale=(0.5, 0.5))
    assert set(width) == {6}
    assert set(height) == {7}
    width, height = widths_and_heights(stretch=0.5)
    assert np.corrcoef(width, height)[0, 1] < -0.8
    assert width.min() < 12 < width.max()
    width, height = widths_and_heights(area=(0.25, 0.25), ratio=(1.0, 1.0))
    assert width.max() == 24  # a crop of half the side, where it holds the whole blob
    width, height = widths_and_heights(area=(0.5, 0.5), ratio=(0.5, 0.5))  # half the width
    assert (width.max(), height.max()) == (24, 14)


def test_a_larger_source_is_brought_to_the_size_of_the_network(heart):
    large = heart.repeat(2, 0).repeat(2, 1)
    same = Augmentation()(large, 0, 48)
    assert same.shape == (48, 48)
    np.testing.assert_allclose(same.astype(int), heart, atol=1)


def detail(pixels: np.ndarray) -> float:
    return np.diff(pixels.astype(float)).std()


@pytest.mark.parametrize("change", [{}, {"scale": (0.5, 0.5)}], ids=["as it is", "smaller"])
def test_a_large_source_is_sampled_without_aliasing(change):
    image = np.random.default_rng(0).integers(0, 256, (84, 84)).astype(np.uint8)
    found = Augmentation(**change)(image, 0, 48)
    resized = np.array(Image.fromarray(image).resize((48, 48)))
    assert detail(found[16:32, 16:32]) < 1.2 * detail(resized)


def test_blur_and_noise_change_sharpness_alone():
    image = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    assert detail(Augmentation(resolution=(0.4, 0.5))(image, 1)) < 0.5 * detail(image)
    for side in (64, 1024):
        flat = np.full((side, side), 128, np.uint8)
        assert detail(Augmentation(noise=0.1)(flat, 1)) > 1


def test_the_shifted_validation_sets_are_fixed():
    """Their pixels are part of every published figure: change them only with a new name."""
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8)
    for change, means in (
        (VAL_SHIFT, [80.3, 90.9, 69.5, 88.9, 94.2, 81.7]),
        (scanner_shift, [71.9, 85.8, 101.7, 105.1, 94.5, 93.0]),
    ):
        found = [change(ramp, seed).mean() for seed in range(6)]
        assert found == pytest.approx(means, abs=0.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("degrees", -1.0), ("translate", 2.0), ("jpeg", 1.5)),
        *(("scale", [0.0, 1.0]), ("scale", [1.0]), ("area", [0.5, 1.5]), ("resolution", [1, 0.5])),
    ],
)
def test_a_setting_out_of_range_is_refused(key, value):
    with pytest.raises(ConfigError, match=rf"data\.augmentation\.{key}="):
        Augmentation(**{key: value})
