"""The notebook's network, here and in Keras, from the same JPEG files. Run by hand:

PNEUMONIA_KERAS_PYTHON=PYTHON_WITH_TENSORFLOW \
    pytest -m benchmark -s -n 0 tests/benchmarks/test_benchmark_keras.py
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from benchmarks.test_benchmark_inference import fastest
from benchmarks.test_benchmark_training import BATCH, ROUNDS, Clock, classifier
from lightning import Trainer
from torch.utils.data import DataLoader

from pneumonia.data.dataset import ChestXrayDataset
from pneumonia.data.image_io import Preprocessing
from pneumonia.data.manifest import Manifest
from pneumonia.data.parallel import init_worker
from pneumonia.inference.predictor import Predictor

SCRIPT = Path(__file__).with_name("keras_resnet50v2.py")


def fit_rate(files):
    """Images/s of training from JPEG files, in steps after the first."""
    samples = Manifest.from_paths(3 * files, [0] * 3 * len(files), patients="file")
    dataset = ChestXrayDataset(samples, Preprocessing(224))
    loader = DataLoader(dataset, BATCH, num_workers=1, worker_init_fn=init_worker)
    clock = Clock()
    Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(classifier(), loader)
    return (len(dataset) - BATCH) / (clock.stop - clock.start)


@pytest.mark.benchmark
@pytest.mark.timeout(1200)
def test_predict_and_train_against_keras(checkpoint, files):
    python = os.environ.get("PNEUMONIA_KERAS_PYTHON")
    if not python:
        pytest.skip("PNEUMONIA_KERAS_PYTHON names no Python with TensorFlow")
    folder = Path(files[0]).parent
    done = subprocess.run(
        [python, SCRIPT, folder], check=True, stdout=subprocess.PIPE, text=True, timeout=900
    )
    keras = json.loads(done.stdout.splitlines()[-1])
    path = checkpoint("resnetv2_50")
    models = {
        "predict best.ckpt": Predictor.load(path, "cpu"),
        "predict best.onnx": Predictor.load(path.with_suffix(".onnx")),
    }
    seconds = fastest({name: lambda m=model: m.predict(files) for name, model in models.items()})
    rates = {name: len(files) / time for name, time in seconds.items()}
    rates["train"] = max(fit_rate(files) for _ in range(ROUNDS))
    print("\nresnetv2_50 at 224 from JPEG files, images/s and over Keras:")
    for name, found in rates.items():
        print(f"  {name:20}{found:8.1f}{found / keras[name.split()[0]]:8.2f}")
