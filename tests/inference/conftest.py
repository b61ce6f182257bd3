"""Fixtures of inference: a small model that was never trained."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch.nn.functional import binary_cross_entropy_with_logits

from pneumonia import cli
from pneumonia.data.dataset import read_split
from pneumonia.data.image_io import Preprocessing
from pneumonia.evaluation.abstention import Abstention
from pneumonia.evaluation.calibration import fit_temperature
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.threshold import OperatingPoint, choose_threshold
from pneumonia.inference.export import export
from pneumonia.inference.predictor import InferenceModel, Predictor
from pneumonia.model.checkpoint import finalize_checkpoint
from pneumonia.model.lightning_module import PneumoniaClassifier
from pneumonia.model.ood_detector import OODDetector


@pytest.fixture(scope="session")
def model_file(tmp_path_factory) -> Path:
    """A checkpoint as training leaves it, before anything is calibrated."""
    torch.manual_seed(0)
    model = PneumoniaClassifier("test_resnet", pretrained=False, image_size=48)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # so that logits differ
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(model)
    path = tmp_path_factory.mktemp("model") / "best.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.fixture(scope="session")
def older_file(model_file, synthetic, tmp_path_factory) -> Path:
    """The same with a calibration and a threshold, as of the time before abstention."""
    classifier, split = InferenceModel.load(model_file), read_split(synthetic, "train")
    logits = classifier.logits([str(path) for path in split.paths])
    temperature = float(np.std(logits))
    probabilities = classifier.probabilities(logits / temperature)
    point = choose_threshold(split.labels, probabilities, split.patients, "youden", None)
    path = tmp_path_factory.mktemp("older") / "older.ckpt"
    shutil.copyfile(model_file, path)
    finalize_checkpoint(
        path, calibration={"temperature": temperature}, operating_point=point.to_dict()
    )
    return path


@pytest.fixture(scope="session")
def sealed_file(older_file, synthetic, tmp_path_factory) -> Path:
    """The same, complete: as a finished run leaves it."""
    content = torch.load(older_file, weights_only=True)
    threshold = content["operating_point"]["threshold"]
    band = Abstention(threshold / 2, (1 + threshold) / 2, 0.05, 30, 30)
    path = tmp_path_factory.mktemp("sealed") / "best.ckpt"
    classifier, split = InferenceModel.load(older_file), read_split(synthetic, "train")
    images = np.stack([classifier.pixels(file) for file in split.paths])
    batch = torch.from_numpy(images).unsqueeze(1)
    with torch.no_grad():
        _, embeddings = classifier.backend.network.embed(batch)
    detector = OODDetector.fit(batch, embeddings, split.patients)
    content |= {"abstention": band.to_dict()}
    content |= {"ood_detector": detector.to_dict(), "ood_threshold": detector.threshold}
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def exported(sealed_file, tmp_path_factory) -> Path:
    """The complete checkpoint, exported."""
    return export(sealed_file, tmp_path_factory.mktemp("exported") / "model.onnx")


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
def trained_file(shared, tmp_path_factory) -> Path:
    """EfficientNet-Lite0 trained on real X-rays for a moment, and frozen as a run freezes it."""
    split = read_split(shared / "data/chest_xray", "train")
    draw = np.random.default_rng(0)
    rows = np.concatenate(
        [draw.choice(np.flatnonzero(split.labels == label), 200, False) for label in (0, 1)]
    )
    seen, held = np.split(draw.permutation(rows), [280])
    preprocessing = Preprocessing(96)
    pixels = {row: preprocessing.read(split.paths[row]) for row in rows}
    torch.manual_seed(0)
    weights = str(shared / "weights/tf_efficientnet_lite0.safetensors")
    model = PneumoniaClassifier("tf_efficientnet_lite0", weights=weights, image_size=96)
    optimiser = torch.optim.AdamW(model.network.parameters(), 3e-4)
    model.train()
    for _ in range(30):
        some = draw.choice(seen, 16, False)
        batch = torch.from_numpy(np.stack([pixels[row] for row in some])).unsqueeze(1)
        truth = torch.from_numpy(split.labels[some]).float()
        optimiser.zero_grad()
        binary_cross_entropy_with_logits(model.network(batch), truth).backward()
        optimiser.step()
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(model)
    path = tmp_path_factory.mktemp("trained") / "best.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    batch = torch.from_numpy(np.stack([pixels[row] for row in held])).unsqueeze(1)
    with torch.no_grad():
        logits, embeddings = model.eval().network.embed(batch)
    labels, patients = split.labels[held], split.patients[held]
    temperature = fit_temperature(labels, logits.numpy())
    probabilities = sigmoid(logits.double().numpy() / temperature)
    detector = OODDetector.fit(batch, embeddings, patients)
    finalize_checkpoint(
        path,
        calibration={"temperature": temperature},
        operating_point=choose_threshold(labels, probabilities, patients, "youden", None).to_dict(),
        ood_detector=detector.to_dict(),
        ood_threshold=detector.threshold,
    )
    return path


@pytest.fixture(scope="session")
def real_file(shared, tmp_path_factory) -> Path:
    """EfficientNet-Lite0 with ImageNet's weights and a head of its own; for tests marked shared."""
    torch.manual_seed(0)
    weights = str(shared / "weights/tf_efficientnet_lite0.safetensors")
    model = PneumoniaClassifier("tf_efficientnet_lite0", weights=weights, image_size=160)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(model)
    path = tmp_path_factory.mktemp("real") / "best.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    point = OperatingPoint(0.5, "fixed", 0.5, 30, 30, 30, 30, 0.5, 0.5)
    finalize_checkpoint(path, calibration={"temperature": 0.1}, operating_point=point.to_dict())
    return path


@pytest.fixture(scope="session")
def real_model(real_file) -> Predictor:
    """The same, loaded."""
    return Predictor.load(real_file)


@pytest.fixture
def predict(monkeypatch, sealed_file):
    """Runs the command in this process; returns its exit code."""

    def run(*arguments: object, checkpoint: Path = sealed_file) -> int:
        words = ["pneumonia", "predict", "--checkpoint", checkpoint, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return int(exit_.value.code or 0)

    return run


@pytest.fixture
def images(synthetic, tmp_path) -> list[Path]:
    """Seven X-rays in a folder of their own, in name order."""
    tested = sorted((synthetic / "test").glob("*/*"))
    found = [*tested[:4], *tested[-3:]]
    folder = tmp_path / "images"
    folder.mkdir()
    copies = [folder / f"{number} é.{path.name}" for number, path in enumerate(found)]
    for path, copy in zip(found, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    return copies


@dataclass(frozen=True)
class Served:
    """A page that is served by a process of its own."""

    address: str
    folder: Path
    """Where its temporary folder is."""
    process: subprocess.Popen
    log: Path

    def uploads(self) -> list[Path]:
        """What clients have left on its disk."""
        (folder,) = self.folder.glob("pneumonia-*/uploads")
        return [path for path in folder.rglob("*") if path.is_file()]

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Tell it to end; gives its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


ServePage = Callable[..., Served]


@pytest.fixture(scope="session")
def serve_page() -> ServePage:
    """Starts a page in a process of its own: model, folder for all it writes, options."""
    return _serve


def _serve(model: Path, folder: Path, *options: str) -> Served:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pneumonia.cli", "app", "--checkpoint", str(model)]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--port", str(port), *options],
            stdout=file,
            stderr=file,
            env={**os.environ, "TMPDIR": str(folder)},
        )
    served = Served(f"http://127.0.0.1:{port}", folder, process, log)
    for _ in range(1200):
        try:
            urllib.request.urlopen(served.address, timeout=120).close()
            break
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
    return served


@pytest.fixture(scope="module")
def served(serve_page, sealed_file, tmp_path_factory) -> Iterator[Served]:
    """The page, served; ended by Ctrl-C, after which nothing of it may be left."""
    page = serve_page(sealed_file, tmp_path_factory.mktemp("served"))
    yield page
    assert page.end() == 130
    assert "Traceback" not in page.log.read_text()
    assert list(page.folder.glob("pneumonia-*")) == []
