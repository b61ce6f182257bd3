"""Speed of reading, as ratios measured in one run on one core. Run by hand:

pytest -m benchmark -s -n 0 tests/benchmarks/test_benchmark_data.py
"""

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from pneumonia.data.cache import Cache, Pixels, write_pixels
from pneumonia.data.dataset import ChestXrayDataset
from pneumonia.data.image_io import Preprocessing, read_grey
from pneumonia.data.manifest import Manifest
from pneumonia.data.samplers import ShuffledSampler
from pneumonia.data.transforms import Augmentation

SIZE = 224
BATCH = 32
ROUNDS = 3
TRAINING_IMAGES = 5216
FEEDS_AN_A100 = 2500
"""Images/s at which an A100 trains a ResNet-50."""


def rate(images: int, run: Callable[[], object]) -> float:
    """Images/s of the best round: other processes only ever slow a round down."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return images / best


def consume(loader, batches: int | None = None) -> None:
    for _ in islice(loader, batches):
        pass


@pytest.fixture(scope="module")
def originals(pytestconfig) -> Path:
    return pytestconfig.rootpath.parent / "shared/data/originals"


@pytest.fixture(scope="module")
def cached(tmp_path_factory) -> Callable[..., DataLoader]:
    """Makes a loader of as many cached images as the Kaggle set trains on, in one process."""
    random = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("cache") / "images.pixels"
    images = (random.integers(0, 256, (SIZE, SIZE), np.uint8) for _ in range(TRAINING_IMAGES))
    write_pixels(file, images, TRAINING_IMAGES, SIZE, bytes(32))
    paths = [f"person{n:04d}_virus_{n}.jpeg" for n in range(TRAINING_IMAGES)]
    samples = Manifest.from_paths(paths, [1] * TRAINING_IMAGES)
    preprocessing, cache = Preprocessing(SIZE), Cache(samples.paths, Pixels(file))

    def make(augmentation: Augmentation | None = None) -> DataLoader:
        dataset = ChestXrayDataset(samples, preprocessing, augmentation, cache=cache)
        return DataLoader(dataset, BATCH, sampler=ShuffledSampler(len(dataset), BATCH, seed=0))

    return make


@pytest.mark.benchmark
@pytest.mark.shared
@pytest.mark.timeout(900)
def test_cached_batches_against_an_image_folder(originals, cached):
    transform = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor()])
    folder = ImageFolder(str(originals), transform)
    plain = rate(len(folder), lambda: consume(DataLoader(folder, BATCH)))
    loader = cached()
    fast = rate(len(loader) * BATCH, lambda: consume(loader))
    print(
        f"\nfrom the cache to uint8 batches of {BATCH} at {SIZE}: {fast:,.0f} images/s over"
        f" ImageFolder, Resize and ToTensor {plain:.1f} = {fast / plain:.0f}"
    )


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_augmented_batches_a_core(cached):
    plain, loader = cached(), cached(Augmentation())
    batches = 20
    images = batches * BATCH
    fast = rate(images, lambda: consume(plain, batches))
    augmented = rate(images, lambda: consume(loader, batches))
    print(
        f"\naugmented from the cache at {SIZE}: {augmented:,.0f} images/s a core over"
        f" {fast:,.0f} without = {augmented / fast:.2f};"
        f" {1e6 / augmented - 1e6 / fast:.0f} microseconds of an image are augmentation;"
        f" {FEEDS_AN_A100:,} images/s need {FEEDS_AN_A100 / augmented:.1f} cores"
    )


@pytest.mark.benchmark
@pytest.mark.shared
@pytest.mark.timeout(900)
def test_decoding_against_a_full_decode(originals):
    paths = sorted(originals.rglob("*.jpeg"))
    preprocessing = Preprocessing(SIZE)

    def full(path: Path) -> np.ndarray:
        return preprocessing(read_grey(path))

    slow = rate(len(paths), lambda: [full(path) for path in paths])
    fast = rate(len(paths), lambda: [preprocessing.read(path) for path in paths])
    apart = [np.abs(preprocessing.read(path).astype(float) - full(path)).mean() for path in paths]
    print(
        f"\ndecoded at a reduced size: {fast:.0f} images/s over a full decode {slow:.0f} ="
        f" {fast / slow:.2f}; grey levels apart: {np.mean(apart):.2f} in the mean,"
        f" {max(apart):.2f} in the image that differs most"
    )


@pytest.mark.benchmark
def test_the_cost_of_each_part_of_an_augmentation():
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), np.uint8)
    image = torch.from_numpy(np.asarray(Image.fromarray(pixels)).copy())[None]
    nothing = {"degrees": 0, "translate": 0, "scale": (1, 1), "brightness": 0, "contrast": 0}
    repeats = 300

    def microseconds(augment: Augmentation) -> float:
        return 1e6 / rate(repeats, lambda: [augment(image, seed) for seed in range(repeats)])

    seeds = 1e6 / rate(repeats, lambda: [np.random.default_rng(s) for s in range(repeats)])
    print(
        f"\naugmentation of one image at {SIZE}: {microseconds(Augmentation()):.0f} microseconds,"
        f" {microseconds(Augmentation(**nothing)):.0f} with every range empty (the work is the"
        f" same), {seeds:.0f} of it for seeding"
    )
