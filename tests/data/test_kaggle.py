"""Downloading Kaggle's data set, and the folder that is made of what kagglehub unpacked."""

import errno
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kagglehub
import pytest

from pneumonia.connectivity import connection_error
from pneumonia.data import kaggle as module
from pneumonia.data.dataset import read_split
from pneumonia.data.kaggle import download, lay_out
from pneumonia.errors import DataError

FILES = {
    "train/NORMAL": ["IM-0115-0001.jpeg", "IM-0117-0001.jpeg", "NORMAL2-IM-0383-0001.jpeg"],
    "train/PNEUMONIA": [*(f"person1_bacteria_{k}.jpeg" for k in (1, 2)), "person80_virus_150.jpeg"],
    "val/NORMAL": ["NORMAL2-IM-1427-0001.jpeg"],
    "val/PNEUMONIA": ["person1946_bacteria_4874.jpeg"],
    "test/NORMAL": ["IM-0001-0001.jpeg", "NORMAL2-IM-0007-0001.jpeg"],
    "test/PNEUMONIA": ["person100_bacteria_475.jpeg", "person1_virus_6.jpeg"],
}
FEW = {"train": (3, 3), "val": (1, 1), "test": (2, 2)}
LAID_OUT = sorted(f"{folder}/{name}" for folder, names in FILES.items() for name in names)


@pytest.fixture(autouse=True)
def few(monkeypatch) -> None:
    monkeypatch.setattr(module, "COUNTS", FEW)


@pytest.fixture
def source(tmp_path, write_images) -> Path:
    """What kagglehub unpacks: everything twice, and a Macintosh's debris."""
    folder = tmp_path / "versions" / "2"
    write_images(folder / "chest_xray", [*LAID_OUT, "__MACOSX/train/NORMAL/._IM-0115-0001.jpeg"])
    write_images(folder / "chest_xray" / "chest_xray", LAID_OUT)
    (folder / "chest_xray/train/NORMAL/.DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "data" / "chest_xray"


def files(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def beside(root: Path) -> list[str]:
    return [entry.name for entry in root.parent.iterdir()] if root.parent.exists() else []


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("inner", ["", "chest_xray"])
def test_each_image_is_copied_once_and_nothing_else(source, root, inner):
    lay_out(source / inner, root)
    assert files(root) == LAID_OUT
    assert beside(root) == [root.name]
    assert read_split(root, "train").class_counts() == FEW["train"]
    for name in LAID_OUT:
        assert (root / name).read_bytes() == (source / "chest_xray" / name).read_bytes()


def test_an_archive_that_is_not_as_published_makes_no_root(source, root):
    (source / "chest_xray" / "train" / "NORMAL" / "IM-0115-0001.jpeg").unlink()
    (source / "chest_xray" / "val" / "PNEUMONIA" / "extra.jpeg").write_bytes(b"")
    with pytest.raises(DataError, match=f"^{source} ") as refusal:
        lay_out(source, root)
    assert "2 images in train/NORMAL instead of 3" in str(refusal.value)
    assert "2 images in val/PNEUMONIA instead of 1" in str(refusal.value)
    assert beside(root) == []


def test_a_complete_root_is_left_as_it_is(source, root):
    lay_out(source, root)
    before = {name: (root / name).stat().st_ino for name in files(root)}
    download(root)  # without a server: it must not be asked
    download(source / "chest_xray")  # unzipped by hand
    assert {name: (root / name).stat().st_ino for name in files(root)} == before


@pytest.mark.parametrize("kind", ["other files", "too few", "dead link"])
def test_a_different_root_is_never_overwritten(source, root, kind):
    root.parent.mkdir()
    if kind == "dead link":
        root.symlink_to("nowhere")
    elif kind == "too few":
        lay_out(source, root)
        (root / LAID_OUT[0]).unlink()
    else:
        root.mkdir()
        (root / "mine.txt").write_text("mine")
    before = files(root.parent)
    with pytest.raises(DataError, match=f"^{root} exists already"):
        download(root)
    assert files(root.parent) == before


def test_a_full_disk_leaves_nothing(source, root, monkeypatch):
    monkeypatch.setattr(shutil, "copyfile", no_space)
    with pytest.raises(DataError, match=f"^{root} .*No space left on device"):
        lay_out(source, root)
    assert beside(root) == []


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Where kagglehub's cache is; whether Kaggle answers is not asked."""
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.setattr(module, "connection_error", lambda ask: None)
    return tmp_path / "kagglehub"


def test_a_download_makes_the_root_of_what_kagglehub_unpacked(source, root, monkeypatch):
    asked = []
    monkeypatch.setattr(kagglehub, "dataset_download", lambda it: asked.append(it) or source)
    download(root)
    assert files(root) == LAID_OUT
    assert asked == [module.HANDLE]


def test_two_downloads_at_once_wait_for_each_other(source, root, monkeypatch):
    busy = threading.Lock()

    def dataset_download(_):
        assert busy.acquire(blocking=False)
        time.sleep(0.1)
        busy.release()
        return source

    monkeypatch.setattr(kagglehub, "dataset_download", dataset_download)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(download, [root, root]))
    assert files(root) == LAID_OUT


def test_a_failed_download_is_an_error_with_the_alternatives(root, monkeypatch):
    def dataset_download(_):
        raise ConnectionError("cut\noff")

    monkeypatch.setattr(kagglehub, "dataset_download", dataset_download)
    assert_alternatives_are_named(root)


def assert_alternatives_are_named(root):
    with pytest.raises(DataError) as refusal:
        download(root)
    for part in (str(root / "train"), module.PAGE, "data=synthetic"):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not root.parent.exists()


def test_a_full_cache_is_named(root, cache, monkeypatch):
    monkeypatch.setattr(kagglehub, "dataset_download", no_space)
    with pytest.raises(DataError, match=f"^{cache} .*KAGGLEHUB_CACHE"):
        download(root)
    assert not root.parent.exists()


def test_without_an_answer_within_5_s_the_alternatives_are_named(root, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        monkeypatch.setattr(module, "connection_error", connection_error)
        monkeypatch.setattr(module, "_SERVER", f"http://127.0.0.1:{server.getsockname()[1]}")
        start = time.monotonic()
        assert_alternatives_are_named(root)
    assert time.monotonic() - start < 5
