"""Many predictions need no more memory and no more open files than a few."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from pneumonia.inference.export import export
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

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


@pytest.fixture(params=["ckpt", "onnx"])
def model(request, sealed_file, tmp_path) -> Path:
    """A model of either kind."""
    if request.param == "ckpt":
        return sealed_file
    return export(sealed_file, tmp_path / "model.onnx")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_memory_and_open_files_stay_as_they_are_over_20_000_predictions(images, model):
    predictor, me = Predictor.load(model), psutil.Process()
    paths = [str(images[number % 7]) for number in range(20_000)]
    looks: list[tuple[int, int, int]] = []
    for number, _ in enumerate(predictor.stream(paths), start=1):
        if number % 100 == 0:
            looks.append((number, me.memory_full_info().uss, me.num_fds()))

    def median(first: int, last: int) -> tuple[float, float]:
        some = [(memory, files) for number, memory, files in looks if first <= number <= last]
        return statistics.median(m for m, _ in some), statistics.median(f for _, f in some)

    warm, end = median(3000, 5000), median(18_000, 20_000)
    print(f"{model.suffix}: {warm} after 4,000, {end} after 20,000, {end[0] / warm[0] - 1:+.2%}")
    assert end[0] < 1.02 * warm[0]
    assert end[1] <= warm[1]


@LINUX
def test_originals_wait_for_the_network_as_what_it_sees_of_them(images, exported, tmp_path):
    large = tmp_path / "large.jpeg"
    with Image.open(images[0]) as image:
        image.resize((1800, 1400)).save(large)
    few, many = (_peak(exported, [large], number, tmp_path) for number in (2, 150))
    decoded = 1800 * 1400 // 1024
    assert many - few < 10 * decoded


@pytest.mark.soak
@pytest.mark.timeout(1800)
@LINUX
def test_10_000_files_need_no_more_memory_than_100(images, model, tmp_path):
    few, many = (_peak(model, images[:7], number, tmp_path) for number in (100, 10_000))
    print(f"{model.suffix}: peak of {few} KiB for 100 files, {many} for 10,000")
    assert many < 1.02 * few


def _peak(model: Path, images: list[Path], count: int, folder: Path) -> int:
    """KiB of a process that answers so many files, which are some images again and again."""
    files, table = folder / str(count), folder / f"{count}.csv"
    files.mkdir()
    for number in range(count):
        os.link(images[number % len(images)], files / f"{number:05d}.jpeg")
    words = ["predict", "--checkpoint", model, files, "--out", table]
    command = [sys.executable, "-c", PEAK, *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    assert len(table.read_text().splitlines()) == count + 1
    return int(done.stdout.split()[-1])
