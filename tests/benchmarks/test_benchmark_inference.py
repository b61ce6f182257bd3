"""Speed of inference and of starting, as ratios measured in one run. Run by hand:

pytest -m benchmark -s -n 0 tests/benchmarks/test_benchmark_inference.py
"""

import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from pneumonia.inference.predictor import Predictor

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

ROUNDS = 3


def fastest(ways):
    """Seconds of each function's best round, in turn, so that all see the same machine."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


@pytest.mark.parametrize("backbone", ["resnetv2_50", "tf_efficientnet_lite0"])
def test_predict_against_the_bare_network(checkpoint, files, backbone):
    path = checkpoint(backbone)
    model, exported = Predictor.load(path, "cpu"), Predictor.load(path.with_suffix(".onnx"))
    images = torch.randint(0, 256, (len(files), 1, 224, 224)).byte()

    def bare():
        with torch.inference_mode():
            for batch in images.split(32):
                model.backend.network(batch)

    times = fastest(
        {
            "bare network": bare,
            "best.ckpt": lambda: model.predict(files),
            "best.onnx": lambda: exported.predict(files),
        }
    )
    print(f"\n{backbone} at 224, {len(files)} JPEG files, images/s and over the bare network:")
    for name, seconds in times.items():
        print(f"  {name:14}{len(files) / seconds:8.1f}{times['bare network'] / seconds:8.2f}")


def test_start_up_against_the_imports(checkpoint, files, synthetic, tmp_path, pytestconfig):
    path = checkpoint("tf_efficientnet_lite0")
    predict = ["-m", "pneumonia.cli", "predict", files[0], "--device", "cpu", "--checkpoint"]
    train = ["train.py", "experiment=quickstart", "debug=one_batch", f"data.root={synthetic}"]
    train += ["evaluation.operating_point=youden", f"hydra.run.dir={tmp_path}/${{now:%f}}"]
    commands = {
        "import typer": ["-c", "import typer"],
        "--help": ["-m", "pneumonia.cli", "--help"],
        "import torch, timm": ["-c", "import torch, timm"],
        "predict best.ckpt": [*predict, str(path), "--backend", "torch"],
        "import onnxruntime": ["-c", "import onnxruntime"],
        "predict best.onnx": [*predict, str(path.with_suffix(".onnx"))],
        "import train": ["-c", "import train"],
        "train one batch": train,
    }

    def run(words):
        where = {"cwd": pytestconfig.rootpath, "capture_output": True}
        subprocess.run([sys.executable, *words], check=True, **where)

    times = fastest({name: partial(run, words) for name, words in commands.items()})
    imports = 0.0
    print("\nfrom the shell, seconds and over the import above:")
    for name, seconds in times.items():
        imports = seconds if name.startswith("import") else imports
        print(f"  {name:20}{seconds:8.2f}{seconds / imports:8.2f}")
