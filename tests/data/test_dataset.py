"""Items: an image, its label and its row."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from pneumonia.data.cache import open_cache
from pneumonia.data.dataset import ChestXrayDataset, read_split
from pneumonia.data.image_io import Preprocessing
from pneumonia.data.transforms import Augmentation
from pneumonia.errors import DataError


@pytest.fixture
def radiographs(kaggle):
    """Makes a dataset of the small training split."""
    samples = read_split(kaggle, "train")

    def make(augmentation: Augmentation | None = None, seed: int = 0) -> ChestXrayDataset:
        return ChestXrayDataset(samples, Preprocessing(32), augmentation, seed)

    return make


def test_an_item_is_an_image_its_label_and_its_row(radiographs):
    dataset = radiographs()
    item = dataset[3]
    assert set(item) == {"image", "label", "index"}
    assert item["image"].dtype == torch.uint8
    assert item["image"].shape == (1, 32, 32)
    assert (item["label"], item["index"]) == (dataset.samples.labels[3], 3)
    assert {dataset[row]["label"] for row in range(len(dataset))} == {0, 1}


def test_without_augmentation_the_epoch_does_not_matter(radiographs):
    dataset = radiographs()
    assert torch.equal(dataset[3]["image"], dataset[5, 3]["image"])
    assert dataset[5, 3]["index"] == 3


def test_augmentation_depends_on_seed_epoch_and_row_alone(radiographs):
    image = radiographs(Augmentation(), seed=1)[2, 3]["image"]
    torch.manual_seed(99)
    again = radiographs(Augmentation(), seed=1)
    again[0, 0]  # what was drawn before does not matter
    assert torch.equal(again[2, 3]["image"], image)
    assert not torch.equal(again[1, 3]["image"], image)
    assert not torch.equal(radiographs(Augmentation(), seed=2)[2, 3]["image"], image)


def test_an_unreadable_file_is_named(radiographs):
    dataset = radiographs()
    os.truncate(dataset.samples.paths[3], 200)
    with pytest.raises(DataError, match=str(dataset.samples.paths[3])):
        dataset[0, 3]


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_the_cache_changes_no_bit(synthetic, tmp_path, fit):
    samples = read_split(synthetic, "train")
    preprocessing = Preprocessing(48, fit)
    cache = open_cache(samples.paths, preprocessing, tmp_path, workers=1)
    some = samples.take(np.arange(20, 2, -3))
    for augmentation in (None, Augmentation()):
        plain = ChestXrayDataset(some, preprocessing, augmentation, seed=4)
        cached = ChestXrayDataset(some, preprocessing, augmentation, seed=4, cache=cache)
        for row in range(len(some)):
            one, other = plain[7, row], cached[7, row]
            assert torch.equal(one["image"], other["image"])
            assert (one["label"], one["index"]) == (other["label"], other["index"])


def test_an_image_drawn_again_is_augmented_in_its_own_way(radiographs):
    dataset = radiographs(Augmentation())
    first, second = dataset[2, 3, 0]["image"], dataset[2, 3, 1]["image"]
    assert not torch.equal(first, second)
    assert torch.equal(dataset[2, 3, 1]["image"], second)


MEMORY = """
import sys
import numpy as np
from pathlib import Path
from torch.utils.data import DataLoader, Sampler
from pneumonia.data.cache import Cache
from pneumonia.data.dataset import ChestXrayDataset
from pneumonia.data.image_io import Preprocessing
from pneumonia.data.cache import Pixels, write_pixels
from pneumonia.data.manifest import Samples

count = int(sys.argv[1])
file = Path(sys.argv[2])
image = np.zeros((128, 128), np.uint8)
write_pixels(file, (image for _ in range(count)), count, 128, bytes(32))
paths = [f"person{n:06d}_virus_{n}.jpeg" for n in range(count)]
samples = Samples.identified(paths, [1] * count)

class Spying(ChestXrayDataset):
    def __getitem__(self, key):
        item = super().__getitem__(key)
        if key == count - 1:
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
            (resident,) = [int(line.split()[1]) for line in lines if line.startswith("Rss:")]
            item["index"] = resident
        return item

dataset = Spying(samples, Preprocessing(128), cache=Cache(np.array(paths), Pixels(file)))
for batch in DataLoader(dataset, 32, num_workers=1):
    pass
print(int(batch["index"][-1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_worker_does_not_grow_with_the_data_set(tmp_path):
    def kilobytes(count: int) -> int:
        command = [sys.executable, "-c", MEMORY, str(count), str(tmp_path / f"{count}.pixels")]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    small, large = kilobytes(500), kilobytes(20_000)  # 8 MB and 328 MB of pixels
    assert large - small < 8_000
