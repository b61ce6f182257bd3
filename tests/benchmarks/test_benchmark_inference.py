"""Speed of inference, as ratios measured in one run. Run by hand:

pytest -m benchmark -s -n 0 tests/benchmarks/test_benchmark_inference.py
"""

import statistics
import time

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image

from pneumonia.data.synthetic import write_synthetic
from pneumonia.evaluation.threshold import OperatingPoint
from pneumonia.inference.export import export
from pneumonia.inference.predictor import Predictor
from pneumonia.model.checkpoint import finalize_checkpoint, read_checkpoint
from pneumonia.model.lightning_module import PneumoniaClassifier

pytestmark = pytest.mark.benchmark

ROUNDS = 5
FILES = 700


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
            made[backbone] = path
        return made[backbone]

    return of


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backbone", ["resnetv2_50", "tf_efficientnet_lite0"])
def test_exported_against_eager_torch(checkpoint, tmp_path, backbone):
    path = checkpoint(backbone)
    eager = Predictor.load(path, "cpu").backend
    exported = Predictor.load(export(path, tmp_path / "m.onnx")).backend
    for size in (1, 32):
        images = np.random.default_rng(0).integers(0, 256, (size, 224, 224), np.uint8)
        for backend in (eager, exported):
            backend(images)
        pairs = [(seconds(eager, images), seconds(exported, images)) for _ in range(ROUNDS)]
        torch_time, onnx_time = map(statistics.median, zip(*pairs, strict=True))
        print(
            f"\n{backbone} 224 batch {size}: torch {size / torch_time:.1f} images/s,"
            f" exported {size / onnx_time:.1f}: ratio {torch_time / onnx_time:.2f}"
        )


@pytest.mark.timeout(1200)
def test_a_folder_of_files_against_the_bare_network(checkpoint, tmp_path):
    root = write_synthetic(tmp_path / "synthetic", images=FILES)
    for path in root.glob("*/*/*.jpeg"):
        with Image.open(path) as image:
            small = image.resize((224, 224))
        small.save(path)
    paths = sorted(map(str, root.glob("*/*/*.jpeg")))[:FILES]
    predictor = Predictor.load(checkpoint("resnetv2_50"), "cpu")
    network = predictor.backend.network
    batch = torch.zeros(32, 1, 224, 224, dtype=torch.uint8)

    def bare():
        with torch.inference_mode():
            for start in range(0, len(paths), 32):
                network(batch[: len(paths) - start])

    def folder():
        assert len(list(predictor.stream(paths))) == len(paths)

    network(batch)
    pairs = [(seconds(bare), seconds(folder)) for _ in range(3)]
    bare_time, folder_time = map(statistics.median, zip(*pairs, strict=True))
    print(
        f"\n{len(paths)} files of 224 px, resnetv2_50: network {bare_time:.1f} s,"
        f" predict {folder_time:.1f} s: ratio {folder_time / bare_time:.3f}"
    )
