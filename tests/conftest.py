"""Fixtures of all tests: synthetic X-rays, small folders that look like Kaggle's, the CLI."""

import os
import shutil
import signal
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pneumonia import cli
from pneumonia.data.synthetic import write_synthetic

WriteImages = Callable[..., list[Path]]
MakeDicom = Callable[..., bytes]
Once = Callable[[str, Callable[[Path], object]], Path]

NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian}


def pytest_configure() -> None:
    """Hear Ctrl-C: what a shell runs in the background does not, nor does what that starts."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    data = config.rootpath.parent / "shared" / "data"
    if data.is_dir():
        return
    skip = pytest.mark.skip(reason=f"needs the real X-rays, and {data} does not exist")
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The networks of tests are too small to share out, and test processes share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory) -> Iterator[None]:
    """Caches of tests, and of the processes they start, never go to the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared(pytestconfig) -> Path:
    """The folder of real X-rays and weights; for tests marked `shared`."""
    return pytestconfig.rootpath.parent / "shared"


@pytest.fixture(scope="session")
def trained_files(shared, pytestconfig, tmp_path_factory) -> list[Path]:
    """Checkpoints of real X-rays; for tests marked `shared`.

    Those that PNEUMONIA_CHECKPOINT names, joined as in PATH, or one that is trained for a minute.
    """
    if named := os.environ.get("PNEUMONIA_CHECKPOINT"):
        return [Path(name) for name in named.split(os.pathsep)]
    run = tmp_path_factory.mktemp("trained") / "run"
    command = [sys.executable, "train.py", f"data.root={shared / 'data/chest_xray'}"]
    command += ["model.backbone=tf_efficientnet_lite0", f"hydra.run.dir={run}"]
    command += [f"model.weights={shared / 'weights/tf_efficientnet_lite0.safetensors'}"]
    command += ["data.image_size=96", "data.num_workers=0", "trainer=cpu", "trainer.max_epochs=1"]
    command += ["trainer.limit_train_batches=30", "trainer.enable_progress_bar=false"]
    command += ["callbacks.progress=null", "callbacks.summary=null", "test=false", "export=false"]
    subprocess.run(command, check=True, cwd=pytestconfig.rootpath, stdout=subprocess.PIPE)
    return [run / "checkpoints/best.ckpt"]


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id) -> Once:
    """Makes a folder once for all test processes. What is in it is read only."""
    base = tmp_path_factory.getbasetemp()

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder = (base if worker_id == "master" else base.parent) / "once" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                make(folder)
        return folder

    return once


@pytest.fixture(scope="session")
def synthetic(once) -> Path:
    """A synthetic data set. Read only: copy it to change it."""
    return once("synthetic", lambda folder: write_synthetic(folder, images=60, workers=1))


@pytest.fixture(scope="session")
def write_images() -> WriteImages:
    """Writes small grey images under a folder, each with pixels of its own."""

    def write(folder: Path, names: Iterable[str], size: tuple[int, int] = (24, 16)) -> list[Path]:
        paths = [Path(folder) / name for name in names]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            random = np.random.default_rng(zlib.crc32(str(path).encode()))
            pixels = random.integers(0, 256, (size[1], size[0]), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        return paths

    return write


@pytest.fixture
def kaggle(kaggle_once, tmp_path) -> Path:
    """A small data set in Kaggle's layout and names, free to be changed.

    Train has the patients 1 to 25 of every stream, val 31 and 32, test 101 to 104; each has one
    or two images.
    """
    return shutil.copytree(kaggle_once, tmp_path / "chest_xray")


@pytest.fixture(scope="session")
def kaggle_once(tmp_path_factory, write_images) -> Path:
    root = tmp_path_factory.mktemp("kaggle") / "chest_xray"
    for split, numbers in (("train", range(1, 26)), ("val", (31, 32)), ("test", range(101, 105))):
        for n in numbers:
            for k in range(1, 2 + n % 2):
                write_images(
                    root / split,
                    [
                        f"PNEUMONIA/person{n}_bacteria_{10 * n + k}.jpeg",
                        f"PNEUMONIA/person{n}_virus_{10 * n + k}.jpeg",
                        f"NORMAL/IM-{n:04d}-{k:04d}.jpeg",
                        f"NORMAL/NORMAL2-IM-{n:04d}-{k:04d}.jpeg",
                    ],
                )
    return root


@pytest.fixture
def run(monkeypatch) -> Callable[..., int]:
    """Runs the command line in this process, and gives the exit code."""

    def command(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["pneumonia", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return int(exit_.value.code or 0)

    return command


@pytest.fixture(scope="session")
def make_dicom() -> MakeDicom:
    """Writes a DICOM file: pixels of 8 or 16 bits [H, W], and attributes by keyword.

    An attribute of None is left out. `syntax` is a transfer syntax that pydicom can write, and
    `stream` pixels that are compressed already.
    """

    def make(
        pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, stream: bytes = b"", **attributes
    ) -> bytes:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"  # computed radiography
        dataset.SOPInstanceUID = "1.2.3.4"
        bits = 8 * pixels.dtype.itemsize
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = bits
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.BitsStored = attributes.pop("BitsStored", bits)
        dataset.HighBit = dataset.BitsStored - 1
        if stream:
            dataset.PixelData = encapsulate([stream])
            dataset["PixelData"].VR = "OB"
            dataset.file_meta.TransferSyntaxUID = syntax
        else:
            order = ">" if syntax == ExplicitVRBigEndian else "<"
            data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
            dataset.PixelData = data + b"\0" * (len(data) % 2)
            dataset["PixelData"].VR = "OW" if bits == 16 else "OB"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of wrong values, which are wanted here
            for keyword, value in attributes.items():
                if value is None:
                    delattr(dataset, keyword)
                else:
                    setattr(dataset, keyword, value)
        if not stream:
            if syntax in NATIVE or str(syntax).endswith(".99"):
                dataset.file_meta.TransferSyntaxUID = syntax
            else:
                dataset.compress(syntax)
        file = BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.save_as(
                file,
                implicit_vr=syntax == ImplicitVRLittleEndian,
                little_endian=syntax != ExplicitVRBigEndian,
                enforce_file_format=True,
            )
        return file.getvalue()

    return make
