"""Many predictions need no more memory and no more open files than a few."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

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


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_10_000_files_need_no_more_memory_than_100(images, model, tmp_path):
    peaks = []
    for count in (100, 10_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            os.link(images[number % 7], folder / f"{number:05d}.jpeg")
        words = ["predict", "--checkpoint", model, folder, "--out", tmp_path / f"{count}.csv"]
        command = [sys.executable, "-c", PEAK, *map(str, words)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
        assert len((tmp_path / f"{count}.csv").read_text().splitlines()) == count + 1
        peaks.append(int(done.stdout.split()[-1]))
    print(f"{model.suffix}: peak of {peaks[0]} KiB for 100 files, {peaks[1]} for 10,000")
    assert peaks[1] < 1.02 * peaks[0]
