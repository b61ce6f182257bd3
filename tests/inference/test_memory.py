"""Many predictions need no more memory and no more open files than a few."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from pneumonia.inference.predictor import Predictor

PEAK = """
import sys
from pathlib import Path
from pneumonia.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
status = Path("/proc/self/status").read_text()
print(status.partition("VmHWM:")[2].split()[0])
"""


@pytest.fixture(params=["ckpt", "onnx"])
def model(request, checkpoint_file, exported) -> Path:
    return checkpoint_file if request.param == "ckpt" else exported


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_20_000_predictions_need_no_more_memory_and_open_files_than_5_000(images, model):
    predictor, process = Predictor.load(model), psutil.Process()
    paths = [str(images[number % 7]) for number in range(20_000)]
    samples = [
        (number, process.memory_full_info().uss, process.num_fds())
        for number, _ in enumerate(predictor.stream(paths), start=1)
        if number % 100 == 0
    ]

    def medians(first: int, last: int) -> list[float]:
        some = [values for number, *values in samples if first <= number <= last]
        return [statistics.median(column) for column in zip(*some, strict=True)]

    (memory, files), (last_memory, last_files) = medians(3000, 5000), medians(18_000, 20_000)
    print(f"{model.suffix}: memory {last_memory / memory - 1:+.2%}, {last_files} open files")
    assert last_memory < 1.02 * memory
    assert last_files <= files


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_decoded_originals_are_not_kept_in_memory(images, exported, tmp_path):
    large = tmp_path / "large.jpeg"
    with Image.open(images[0]) as image:
        image.resize((1800, 1400)).save(large)
    few, many = (peak(exported, [large], number, tmp_path) for number in (2, 150))
    decoded = 1800 * 1400 // 1024
    assert many - few < 10 * decoded


def peak(model: Path, images: list[Path], count: int, folder: Path) -> int:
    """Peak memory, in KiB, of a process that predicts a number of files, copies of some images."""
    files, table = folder / str(count), folder / f"{count}.csv"
    files.mkdir()
    for number in range(count):
        os.link(images[number % len(images)], files / f"{number:05d}.jpeg")
    words = ["predict", "--checkpoint", model, files, "--out", table]
    command = [sys.executable, "-c", PEAK, *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    assert len(table.read_text().splitlines()) == count + 1
    return int(done.stdout.split()[-1])
