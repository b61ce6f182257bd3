"""The cache of decoded images: complete, of exactly these files, or absent."""

import errno
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pneumonia.data import cache as cache_module
from pneumonia.data import parallel
from pneumonia.data.cache import Cache, cache_directory, open_cache
from pneumonia.data.image_io import Preprocessing
from pneumonia.errors import DataError

SMALL = Preprocessing(32)


@pytest.fixture
def images(tmp_path, write_images) -> list[str]:
    names = [f"person{n}_virus_{n}.png" for n in range(12)]
    return sorted(map(str, write_images(tmp_path / "set/train", names)))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "caches"


def opened(paths, folder, preprocessing=SMALL):
    return open_cache(np.array(paths), preprocessing, folder)


def complete(folder) -> list[Path]:
    return sorted(folder.glob("*.pixels.npy"))


def matches(cache, images, preprocessing=SMALL) -> bool:
    rows = cache.rows(np.array(images))
    pairs = zip(images, rows, strict=True)
    return all(np.array_equal(cache[int(row)], preprocessing.read(path)) for path, row in pairs)


@pytest.fixture(params=[1, 2])
def workers(request, monkeypatch) -> None:
    monkeypatch.setattr(parallel, "_TASKS_PER_WORKER", 12 if request.param == 2 else 256)
    monkeypatch.setattr(parallel, "available_cores", lambda: 2)


@pytest.mark.usefixtures("workers")
def test_it_holds_the_preprocessed_images_in_any_order_of_paths(images, folder, monkeypatch):
    cache = opened(images[::-1], folder)
    cache[0][:] = 0  # a copy
    assert matches(cache, images)
    assert matches(cache, images[::-3])
    with pytest.raises(KeyError, match="elsewhere"):
        cache.rows(np.array(["elsewhere.png"]))
    monkeypatch.setattr(Preprocessing, "read", None)
    assert len(opened(images, folder)) == 12


def test_other_preprocessing_is_another_cache(images, folder):
    others = [Preprocessing(48), Preprocessing(32, "pad"), Preprocessing(32, "squash", "nearest")]
    for preprocessing in (SMALL, *others):
        assert matches(opened(images, folder, preprocessing), images, preprocessing)
    assert len(complete(folder)) == 4


def replace(path: Path) -> None:
    """Other pixels in a file of the same length and time of modification."""
    status = path.stat()
    shape = Image.open(path).size[::-1]
    Image.fromarray(np.full(shape, 7, np.uint8)).save(path)
    path.write_bytes(path.read_bytes().ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_changed_or_fewer_or_renamed_files_are_another_cache(images, folder):
    opened(images, folder)
    replace(Path(images[5]))
    assert matches(opened(images, folder), images)
    opened(images[1:], folder)
    Path(images[0]).rename(moved := images[0].replace("person0", "person99"))
    assert matches(opened([*images[1:], moved], folder), [moved])
    assert len(complete(folder)) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda file, key: file.write_bytes(file.read_bytes()[:-1]),
        lambda file, key: np.save(file, np.zeros((2, 32, 32), np.uint8)),
        lambda file, key: key.write_text("{"),
    ],
    ids=["truncated", "wrong shape", "truncated key"],
)
def test_a_damaged_cache_is_made_again(images, folder, damage):
    opened(images, folder)
    (file,) = complete(folder)
    (key,) = folder.glob("*.json")
    damage(file, key)
    assert matches(opened(images, folder), images)
    assert complete(folder) == [file]


@pytest.mark.usefixtures("workers")
def test_an_unreadable_image_is_named_and_nothing_is_left(images, folder):
    Path(images[7]).write_bytes(b"an X-ray")
    with pytest.raises(DataError, match=images[7]):
        opened(images, folder)
    assert list(folder.iterdir()) == []


def test_a_file_that_changes_while_it_is_cached_is_refused(images, folder, monkeypatch):
    read = Preprocessing.read

    def meddle(self, path):
        os.utime(images[2], ns=(2, 2))
        return read(self, path)

    monkeypatch.setattr(Preprocessing, "read", meddle)
    with pytest.raises(DataError, match=images[0]):
        opened(images, folder)
    assert complete(folder) == []


def test_another_process_opens_the_file_instead_of_receiving_the_pixels(images, folder):
    sent = pickle.dumps(opened(images, folder))
    assert len(sent) < 12 * 32 * 32
    assert matches(pickle.loads(sent), images)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pages stay")
def test_the_memory_of_a_process_does_not_grow_with_the_images_it_reads(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2000, 128, 128), np.uint8))
    cache = Cache(tmp_path / "x.npy", np.array([f"{n:04d}" for n in range(2000)]))
    before = psutil.Process().memory_info().rss
    assert not any(cache[row].any() for row in range(2000))
    assert psutil.Process().memory_info().rss - before < 16 << 20  # of 32


def test_a_cache_that_cannot_be_written_is_refused_and_leaves_nothing(images, folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module.npy, "write_array_header_1_0", full)
    with pytest.raises(DataError, match=rf"{folder} .*data\.cache_dir.*data\.cache=false"):
        opened(images, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("/some/where", "/some/where/pneumonia"), ("relative", "~/.cache/pneumonia")],
)
def test_the_default_folder_is_the_users_cache_folder(monkeypatch, tmp_path, setting, expected):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", setting)
    assert cache_directory() == Path(expected).expanduser()
    assert cache_directory("~/x") == tmp_path / "x"


def test_any_file_name_can_be_cached(tmp_path, folder):
    Image.fromarray(np.full((40, 40), 90, np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(path := tmp_path / os.fsdecode("it's 肺 ".encode() + b"\xe9.png"))
    assert (opened([str(path)], folder)[0] == 90).all()
