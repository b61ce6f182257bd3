"""Images decoded once: the cache is whole, of these very files, or not there."""

import errno
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumonia.data import cache as cache_module
from pneumonia.data.cache import (
    ABANDONED,
    PARTIAL,
    cache_directory,
    clear_caches,
    list_caches,
    open_cache,
)
from pneumonia.data.image_io import Preprocessing
from pneumonia.errors import DataError, sentence

SMALL = Preprocessing(32)


@pytest.fixture
def images(tmp_path, write_images) -> list[str]:
    names = [f"person{n}_virus_{n}.png" for n in range(12)]
    return sorted(map(str, write_images(tmp_path / "set/train", names)))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "caches"


def made(paths, folder, preprocessing=SMALL):
    return open_cache(np.array(paths), preprocessing, folder, workers=1)


def whole(folder) -> list[Path]:
    return [c.file for c in list_caches(folder) if c.images]


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Which files are decoded from now on."""
    read, seen = Preprocessing.read, []
    monkeypatch.setattr(Preprocessing, "read", lambda s, path: seen.append(path) or read(s, path))
    return seen


def test_it_holds_what_the_preprocessing_reads_whatever_the_order_of_the_paths(images, folder):
    cache = made(images[::-1], folder)
    rows = cache.rows(np.array(images[::3]))
    for path, row in zip(images[::3], rows, strict=True):
        assert np.array_equal(cache.pixels[int(row)], SMALL.read(path))
    assert (len(cache.pixels), cache.pixels.side) == (12, 32)
    with pytest.raises(KeyError, match="elsewhere"):
        cache.rows(np.array(["elsewhere.png"]))


def test_an_image_is_decoded_once(images, folder, decoded):
    made(images, folder)
    assert decoded == images
    made(images, folder)
    assert decoded == images


def test_a_row_is_a_copy_that_may_be_written_to(images, folder):
    pixels = made(images, folder).pixels
    before = pixels[0]
    pixels[0][:] = 0
    assert np.array_equal(pixels[0], before)


@pytest.mark.parametrize(
    "other",
    [Preprocessing(48), Preprocessing(32, "pad"), Preprocessing(32, "squash", "nearest")],
    ids=str,
)
def test_other_preprocessing_is_another_cache(images, folder, other):
    made(images, folder)
    cache = made(images, folder, other)
    assert np.array_equal(cache.pixels[0], other.read(images[0]))
    assert len(whole(folder)) == 2


def test_another_decoder_is_another_cache(images, folder, monkeypatch):
    made(images, folder)
    monkeypatch.setattr(cache_module, "DECODER", "2/99.0")
    made(images, folder)
    assert len(whole(folder)) == 2


def replaced(path: Path) -> None:
    """Other pixels in a file of the same length and time of modification."""
    status = path.stat()
    shape = Image.open(path).size[::-1]
    Image.fromarray(np.full(shape, 7, np.uint8)).save(path)
    path.write_bytes(path.read_bytes().ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: Image.fromarray(np.zeros((9, 9), np.uint8)).save(path),
        replaced,
    ],
    ids=["touched", "rewritten", "replaced"],
)
def test_a_changed_file_is_read_again(images, folder, change):
    made(images, folder)
    change(Path(images[5]))
    cache = made(images, folder)
    assert np.array_equal(cache.pixels[5], SMALL.read(images[5]))
    assert len(whole(folder)) == 2


def test_more_or_other_files_are_another_cache(images, folder):
    made(images, folder)
    made(images[1:], folder)
    Path(images[0]).rename(moved := images[0].replace("person0", "person99"))
    cache = made([*images[1:], moved], folder)
    assert len(whole(folder)) == 3
    assert np.array_equal(cache.pixels[int(cache.rows(np.array([moved]))[0])], SMALL.read(moved))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: b"\x93NUMPY",
        lambda data: bytes(len(data)),
        lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
        lambda data: data[:-4] + b"\0\0\0\0",
        lambda data: data[:-30] + b"x" + data[-29:],
        lambda data: data.replace(b"(12, 32, 32)", b"(12, 16, 64)"),
    ],
    ids=[
        "a byte short", "half", "empty", "a byte long", "header only", "zeros", "one bit",
        "checksum", "fingerprint", "shape",
    ],
)  # fmt: skip
def test_a_damaged_cache_is_not_read_but_made_anew(images, folder, caplog, damage):
    right = [made(images, folder).pixels[row] for row in range(12)]
    (file,) = whole(folder)
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        cache = made(images, folder)
    assert all(np.array_equal(cache.pixels[row], right[row]) for row in range(12))
    assert f"The cache {file} is damaged" in caplog.text
    assert whole(folder) == [file]


def test_the_cache_of_other_images_under_this_name_is_not_read(images, folder):
    made(images[:6], folder)
    (other,) = whole(folder)
    made(images[6:], folder)
    (file,) = set(whole(folder)) - {other}
    shutil.copy(other, file)
    cache = made(images[6:], folder)
    assert np.array_equal(cache.pixels[0], SMALL.read(images[6]))


def test_an_image_that_cannot_be_read_is_named_and_nothing_is_left(images, folder):
    Path(images[7]).write_bytes(b"an X-ray")
    with pytest.raises(DataError, match=f"{images[7]} cannot be read as an image"):
        made(images, folder)
    assert list(folder.iterdir()) == []


def test_an_image_that_cannot_be_read_by_one_of_several_threads_is_named_likewise(images, folder):
    Path(images[7]).write_bytes(b"an X-ray")
    with pytest.raises(DataError) as refusal:
        open_cache(np.array(images), SMALL, folder, workers=2)
    assert sentence(refusal.value).startswith(f"{images[7]} cannot be read as an image (")
    assert list(folder.iterdir()) == []


def test_several_threads_make_the_same_cache(images, folder, tmp_path):
    made(images, folder)
    open_cache(np.array(images), SMALL, tmp_path / "other", workers=2)
    assert whole(folder)[0].read_bytes() == whole(tmp_path / "other")[0].read_bytes()


@pytest.mark.parametrize("kind", ["missing", "loop", "pipe"])
def test_what_is_no_file_is_named_before_anything_is_decoded(images, folder, decoded, kind):
    path = Path(images[3])
    path.unlink()
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(DataError, match=str(path)):
        made(images, folder)
    assert decoded == []


def test_a_file_that_changes_while_it_is_cached_is_refused(images, folder, monkeypatch):
    read = Preprocessing.read

    def meddle(self, path):
        os.utime(images[2], ns=(2, 2))
        return read(self, path)

    monkeypatch.setattr(Preprocessing, "read", meddle)
    with pytest.raises(DataError, match=r"set/train changed while they were cached"):
        made(images, folder)
    assert list(folder.iterdir()) == []
    monkeypatch.undo()
    made(images, folder)


def test_pixels_stay_those_that_were_listed_when_files_change_or_the_cache_is_cleared(
    images, folder
):
    cache = made(images, folder)
    before = [cache.pixels[row] for row in range(12)]
    for path in images:
        Path(path).unlink()
    clear_caches(folder)
    assert all(np.array_equal(cache.pixels[row], before[row]) for row in range(12))


def test_another_process_is_sent_the_name_and_not_the_images(images, folder):
    pixels = made(images, folder, Preprocessing(128)).pixels
    sent = pickle.dumps(pixels)
    assert len(sent) < 500
    assert np.array_equal(pickle.loads(sent)[3], pixels[3])


BUILD = """
import sys, time
import numpy as np
from pathlib import Path
from pneumonia.data import cache
from pneumonia.data.image_io import Preprocessing

read = Preprocessing.read
def slowly(self, path):
    time.sleep(float(sys.argv[3]))
    return read(self, path)
Preprocessing.read = slowly
paths = np.array(sorted(map(str, Path(sys.argv[1]).glob("*.png"))))
cache.open_cache(paths, Preprocessing(32), sys.argv[2], workers=1)
"""


def build(images, folder, pause: float) -> subprocess.Popen:
    train = Path(images[0]).parent
    return subprocess.Popen([sys.executable, "-c", BUILD, train, folder, str(pause)])


def wait_for_partials(folder, count: int) -> None:
    for _ in range(600):
        if len(list(folder.glob(f".*{PARTIAL}"))) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("no build started")


def test_a_kill_leaves_nothing_that_is_read_and_the_next_run_makes_it(images, folder):
    process = build(images, folder, 0.5)
    wait_for_partials(folder, 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = list_caches(folder)
    assert (left.file.suffix, left.images) == (PARTIAL, 0)
    cache = made(images, folder)
    assert np.array_equal(cache.pixels[11], SMALL.read(images[11]))
    assert len(whole(folder)) == 1


def test_what_a_killed_run_left_is_removed_once_nobody_can_be_writing_it(images, folder):
    folder.mkdir()
    old, new = (folder / f".x-32-0.pixels.{n}{PARTIAL}" for n in (1, 2))
    for file in (old, new):
        file.write_bytes(b"")
    past = time.time() - ABANDONED - 60
    os.utime(old, (past, past))
    made(images, folder)
    assert (old.exists(), new.exists()) == (False, True)


def test_two_builds_at_once_leave_one_whole_cache(images, folder):
    both = [build(images, folder, 0.2) for _ in range(2)]
    wait_for_partials(folder, 2)
    assert [process.wait() for process in both] == [0, 0]
    assert len(list(folder.iterdir())) == 1
    cache = made(images, folder)
    assert all(np.array_equal(cache.pixels[n], SMALL.read(path)) for n, path in enumerate(images))


@pytest.fixture
def mounted(tmp_path):
    """Mounts a small file system of its own; root ignores the modes of files."""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("mounting a file system needs Linux and root")
    mounts = []

    def mount(options: str) -> Path:
        point = tmp_path / f"mount{len(mounts)}"
        point.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)]
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"mounting is not allowed here: {tried.stderr.strip()}")
        mounts.append(point)
        return point

    yield mount
    for point in mounts:
        subprocess.run(["umount", "--lazy", point], check=True)


def refusal_of(images, folder) -> str:
    with pytest.raises(DataError) as refusal:
        made(images, folder)
    message = sentence(refusal.value)
    for way_out in (str(folder), "data.cache_dir", "data.cache=false"):
        assert way_out in message
    return message


def test_a_full_disk_is_refused_before_anything_is_decoded(images, mounted, decoded):
    disk = mounted("size=8k")
    assert "needs 0.0 MB in" in refusal_of(images, disk / "deep/caches")
    assert decoded == []


def test_a_disk_that_fills_up_meanwhile_is_one_sentence_and_nothing_is_left(
    images, mounted, monkeypatch
):
    disk = mounted("size=8k")
    monkeypatch.setattr(cache_module, "_free", lambda folder: 10**9)
    refusal_of(images, disk)
    assert list(disk.iterdir()) == []


def test_a_full_disk_is_told_from_the_error_alone(images, folder, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module, "write_pixels", full)
    assert "make room" in refusal_of(images, folder)
    assert list(folder.iterdir()) == []


def test_a_read_only_folder_is_refused_unless_the_cache_is_there_already(images, mounted):
    disk = mounted("size=1m")
    made(images[:6], disk)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert "Read-only file system" in refusal_of(images, disk)
    assert "Read-only file system" in refusal_of(images, disk / "deeper")
    assert len(made(images[:6], disk).pixels) == 6


def test_a_file_in_place_of_the_folder_is_refused(images, folder):
    folder.write_text("")
    refusal_of(images, folder)
    refusal_of(images, folder / "deeper")


def test_caches_are_listed_and_cleared_and_nothing_else_is(images, folder):
    assert list_caches(folder) == clear_caches(folder) == []
    made(images, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / f".x-32-0.pixels.1{PARTIAL}").write_bytes(b"123")
    left, cache = sorted(list_caches(folder), key=lambda c: c.size)
    assert (left.images, left.side, left.size) == (0, 0, 3)
    assert (cache.images, cache.side) == (12, 32)
    assert cache.size == cache.file.stat().st_size > 12 * 32 * 32
    assert "set_train-32-" in cache.file.name
    assert len(clear_caches(folder)) == 2
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("/some/where", "/some/where/pneumonia"), ("relative", "~/.cache/pneumonia"),
     ("", "~/.cache/pneumonia"), (None, "~/.cache/pneumonia")],
)  # fmt: skip
def test_the_default_folder_is_the_users_cache_folder(monkeypatch, tmp_path, setting, expected):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if setting is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", setting)
    assert cache_directory() == Path(expected).expanduser()
    assert cache_directory("~/x") == tmp_path / "x"


BYTES = os.fsdecode(b"latin-\xe9")  # no UTF-8


@pytest.mark.parametrize(
    "name",
    [f"{word}.png" for word in ("a b", "a,b", "a=b", "it's", '"q"', "größe", "肺", BYTES)],
)
def test_any_name_is_cached(tmp_path, folder, name):
    path = tmp_path / name
    try:
        Image.fromarray(np.full((40, 40), 90, np.uint8)).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(path)
    except OSError:
        pytest.skip("this file system does not take such a name")
    assert (made([str(path)], folder).pixels[0] == 90).all()
