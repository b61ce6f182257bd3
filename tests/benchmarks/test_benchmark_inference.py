"""Speed of inference and of starting, as ratios measured in one run. Run by hand:

pytest -m benchmark -s -n 0 tests/benchmarks/test_benchmark_inference.py
"""

import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from lightning import Trainer
from PIL import Image

from pneumonia.evaluation.threshold import OperatingPoint
from pneumonia.inference.export import export
from pneumonia.inference.predictor import Predictor
from pneumonia.model.checkpoint import finalize_checkpoint, read_checkpoint
from pneumonia.model.lightning_module import PneumoniaClassifier

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

ROUNDS = 3
FILES = 96


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    made = {}

    def of(backbone):
        if backbone not in made:
            torch.manual_seed(0)
            model = PneumoniaClassifier(backbone, pretrained=False, image_size=224)
            trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
            trainer.strategy.connect(model)
            path = tmp_path_factory.mktemp(backbone) / "best.ckpt"
            trainer.save_checkpoint(path, weights_only=True)
            point = OperatingPoint(0.5, "fixed", 0.5, 30, 30, 30, 30, 0.5, 0.5)
            finalize_checkpoint(
                path,
                read_checkpoint(path),
                calibration={"temperature": 1.0},
                operating_point=point.to_dict(),
            )
            export(path, path.with_suffix(".onnx"))
            made[backbone] = path
        return made[backbone]

    return of


@pytest.fixture(scope="module")
def files(synthetic, tmp_path_factory):
    """Radiographs of 224 pixels, as JPEG."""
    folder = tmp_path_factory.mktemp("files")
    for number, path in zip(range(FILES), 2 * sorted(synthetic.rglob("*.jpeg")), strict=False):
        with Image.open(path) as image:
            image.resize((224, 224)).save(folder / f"{number}.jpeg")
    return sorted(map(str, folder.iterdir()))


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
