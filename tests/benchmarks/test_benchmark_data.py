"""Speed of reading, as ratios measured in one run on one core. Run by hand:

pytest -m benchmark -s -n 0 tests/benchmarks/test_benchmark_data.py
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from pneumonia.data.cache import Cache
from pneumonia.data.dataset import Change, ChestXrayDataset
from pneumonia.data.image_io import Preprocessing
from pneumonia.data.manifest import Manifest
from pneumonia.data.parallel import parallel_map
from pneumonia.data.samplers import TrainingSampler
from pneumonia.data.transforms import STRONG, VAL_SHIFT, Augmentation, scanner_shift

SIZE = 224
BATCH = 32
ROUNDS = 3
TRAINING_IMAGES = 5216
POSE = Augmentation(20.0, 0.12, (0.75, 1.35), stretch=0.25, horizontal_flip=0.5, gamma=0.2)
CHANGES = {
    "strong": STRONG,
    "pose": POSE,
    "sharpness": replace(POSE, resolution=(0.4, 1.0), noise=0.02),
    "everything": replace(
        POSE, area=(0.4, 1.0), shear=5.0, resolution=(0.4, 1.0), noise=0.02, jpeg=0.3
    ),
    "val_shift": VAL_SHIFT,
    "val_shift_b": scanner_shift,
}


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
    file = tmp_path_factory.mktemp("cache") / "images.npy"
    random = np.random.default_rng(0)
    np.save(file, random.integers(0, 256, (TRAINING_IMAGES, SIZE, SIZE), np.uint8))
    paths = [f"person{n:04d}_virus_{n}.jpeg" for n in range(TRAINING_IMAGES)]
    samples = Manifest.from_paths(paths, [1] * TRAINING_IMAGES)
    cache = Cache(file, samples.paths)

    def make(change: Change | None = None) -> DataLoader:
        dataset = ChestXrayDataset(samples, Preprocessing(SIZE), change, cache=cache)
        return DataLoader(dataset, BATCH, sampler=TrainingSampler(len(dataset), BATCH, seed=0))

    return make


@pytest.mark.benchmark
@pytest.mark.shared
def test_originals_and_their_cache_against_bare_pillow(originals, cached):
    files, fit = sorted(originals.glob("*/*")), Preprocessing(SIZE)

    def pillow(draft: bool) -> None:
        for file in files:
            with Image.open(file) as image:
                if draft:
                    image.draft("L", (SIZE, SIZE))  # faster, and gives other pixels
                image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)

    ours = rate(len(files), lambda: [fit.read(file) for file in files])
    both = rate(len(files), lambda: [*parallel_map(fit.read, files, "", 2, threads=True)])
    loader = cached()
    fast = rate(len(loader) * BATCH, lambda: consume(loader))
    whole, draft = (rate(len(files), partial(pillow, draft)) for draft in (False, True))
    print(
        f"\noriginals to {SIZE}: {ours:.0f} images/s per core, {both:.0f} on two; over bare Pillow"
        f" {whole:.0f} = {ours / whole:.2f}, over its draft mode {draft:.0f} = {ours / draft:.2f};"
        f" from the cache to batches of {BATCH}: {fast:,.0f} = {fast / whole:.0f} x bare Pillow"
    )


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_augmented_batches_per_core(cached):
    plain, batches = cached(), 20
    images = batches * BATCH
    fast = rate(images, lambda: consume(plain, batches))
    print(f"\naugmented from the cache at {SIZE}, images/s per core over {fast:,.0f} without:")
    for name, change in CHANGES.items():
        loader = cached(change)
        found = rate(images, lambda loader=loader: consume(loader, batches))
        print(
            f"  {name:12}{found:8,.0f}{found / fast:8.2f}, {1e6 / found - 1e6 / fast:.0f}"
            " microseconds per image are augmentation"
        )
