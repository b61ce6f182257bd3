"""Downloading Kaggle's data set, from a local server in place of Kaggle."""

import errno
import http.server
import io
import shutil
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kagglehub
import pytest
from kagglesdk import kaggle_http_client
from PIL import Image

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
MIB = 1 << 20  # what kagglehub writes at once
LAID_OUT = sorted(f"{folder}/{name}" for folder, names in FILES.items() for name in names)


@pytest.fixture(autouse=True)
def few(monkeypatch) -> None:
    monkeypatch.setattr(module, "COUNTS", FEW)


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> Path:
    """An archive laid out as Kaggle's: everything twice, and a Macintosh's debris."""
    path = tmp_path_factory.mktemp("kaggle-archive") / "archive.zip"
    with zipfile.ZipFile(path, "w") as file:
        for grey, name in enumerate(LAID_OUT):
            jpeg = io.BytesIO()
            Image.new("L", (24, 16), 8 * grey).save(jpeg, "JPEG")
            folder, _, stem = name.rpartition("/")
            for copy in ("chest_xray", "chest_xray/chest_xray"):
                file.writestr(f"{copy}/{name}", jpeg.getvalue())
            file.writestr(f"chest_xray/__MACOSX/{folder}/._{stem}", b"\0\5\26\7")
        file.writestr("chest_xray/train/NORMAL/.DS_Store", b"\0\0\0\1Bud1")
        file.writestr("chest_xray/__MACOSX/._large", bytes(3 * MIB))
    return path


@pytest.fixture
def source(archive, tmp_path) -> Path:
    """The archive, unpacked as kagglehub does."""
    folder = tmp_path / "versions" / "2"
    shutil.unpack_archive(archive, folder)
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


class Kaggle(http.server.ThreadingHTTPServer):
    """A server in place of Kaggle, whose connection can be cut."""

    def __init__(self, archive: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archive = archive
        self.cut_at = len(archive)
        self.slow = 0.0
        self.sent_from: list[int] = []

    def handle_error(self, *_) -> None:
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Kaggle

    def do_HEAD(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(302)
        self.send_header("Location", "/archive.zip")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        self.server.sent_from.append(start)
        time.sleep(self.server.slow)
        self.send_response(206 if start else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(self.server.archive) - start))
        self.end_headers()
        self.wfile.write(self.server.archive[start : self.server.cut_at])
        self.close_connection = True

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "kagglehub"
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(folder))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder


def ask_at(url, monkeypatch):
    """Redirect kagglehub and the connection test to another address."""
    monkeypatch.setattr(module, "_SERVER", url)
    monkeypatch.setattr(kaggle_http_client, "get_endpoint", lambda environment: url)


@pytest.fixture
def kaggle_site(archive, cache, monkeypatch):
    with Kaggle(archive.read_bytes()) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        ask_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield server
        server.shutdown()


def test_a_download_makes_the_root_and_needs_the_network_once(kaggle_site, root, monkeypatch):
    download(root)
    assert files(root) == LAID_OUT
    ask_at("http://127.0.0.1:9", monkeypatch)
    download(root.with_name("again"))
    assert files(root.with_name("again")) == LAID_OUT


def test_a_cut_connection_is_an_error_and_the_next_run_continues_there(kaggle_site, root):
    kaggle_site.cut_at = 5 * MIB // 2
    with pytest.raises(DataError, match="IncompleteRead") as refusal:
        download(root)
    assert "data=synthetic" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not root.parent.exists()
    kaggle_site.cut_at = len(kaggle_site.archive)
    download(root)
    assert files(root) == LAID_OUT
    assert kaggle_site.sent_from[-1] == 2 * MIB


def test_a_damaged_archive_is_an_error(kaggle_site, root):
    kaggle_site.archive = b"<html>Sorry</html>"
    with pytest.raises(DataError, match=str(root)):
        download(root)
    assert not root.parent.exists()


def test_two_downloads_at_once_share_one(kaggle_site, root):
    kaggle_site.slow = 0.3
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(download, [root, root]))
    assert files(root) == LAID_OUT
    assert kaggle_site.sent_from == [0]


def test_a_full_cache_is_named(kaggle_site, root, cache, monkeypatch):
    monkeypatch.setattr(kagglehub, "dataset_download", no_space)
    with pytest.raises(DataError, match=f"^{cache} .*KAGGLEHUB_CACHE"):
        download(root)
    assert not root.parent.exists()


@pytest.mark.parametrize("listens", [False, True])
def test_without_an_answer_within_5_s_the_alternatives_are_named(cache, root, monkeypatch, listens):
    with Kaggle(b"") as server:  # accepts connections, never answers
        port = server.server_port if listens else 9
        ask_at(f"http://127.0.0.1:{port}", monkeypatch)
        start = time.monotonic()
        with pytest.raises(DataError, match=module._SERVER) as refusal:
            download(root)
    assert time.monotonic() - start < 5
    assert not root.parent.exists()
    for part in (str(root / "train"), module.PAGE, "data=synthetic"):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
