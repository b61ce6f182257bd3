"""Fixtures of inference: a small model that was never trained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer

from pneumonia.data.dataset import read_split
from pneumonia.evaluation.abstention import Abstention
from pneumonia.evaluation.threshold import choose_threshold
from pneumonia.inference.export import export
from pneumonia.inference.predictor import Predictor
from pneumonia.model.lightning_module import PneumoniaClassifier
from pneumonia.model.ood_detector import OODDetector


@pytest.fixture(scope="session")
def unfinalized_file(tmp_path_factory) -> Path:
    """A checkpoint as training leaves it, before anything is calibrated."""
    torch.manual_seed(0)
    model = PneumoniaClassifier("test_resnet", pretrained=False, image_size=48)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # so that logits differ
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(model)
    path = tmp_path_factory.mktemp("unfinalized") / "best.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.fixture(scope="session")
def file_without_abstention(unfinalized_file, synthetic, tmp_path_factory) -> Path:
    """The same with calibration and threshold, without abstention and OOD detector."""
    model = Predictor.load(unfinalized_file, finalized=False)
    split = read_split(synthetic, "train")
    logits = model.logits([str(path) for path in split.paths])
    temperature = float(np.std(logits))
    probabilities = model.probabilities(logits / temperature)
    point = choose_threshold(split.labels, probabilities, split.patients, "youden", None)
    content = torch.load(unfinalized_file, weights_only=True)
    content |= {"calibration": {"temperature": temperature}, "operating_point": point.to_dict()}
    path = tmp_path_factory.mktemp("without_abstention") / "best.ckpt"
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def checkpoint_file(file_without_abstention, synthetic, tmp_path_factory) -> Path:
    """The same, complete: as a finished run leaves it."""
    content = torch.load(file_without_abstention, weights_only=True)
    threshold = content["operating_point"]["threshold"]
    abstention = Abstention(threshold / 2, (1 + threshold) / 2, 0.05, 30, 30)
    model, split = Predictor.load(file_without_abstention), read_split(synthetic, "train")
    images = np.stack([model.preprocessing.read(file) for file in split.paths])
    batch = torch.from_numpy(images).unsqueeze(1)
    with torch.no_grad():
        _, embeddings = model.backend.network.embed(batch)
    detector = OODDetector.fit(batch, embeddings, split.patients)
    content |= {"abstention": abstention.to_dict()}
    content |= {"ood_detector": detector.to_dict(), "ood_threshold": detector.threshold}
    path = tmp_path_factory.mktemp("complete") / "best.ckpt"
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def exported(checkpoint_file, once) -> Path:
    """The complete checkpoint, exported."""
    folder = once("exported", lambda new: export(checkpoint_file, new / "model.onnx"))
    return folder / "model.onnx"


@pytest.fixture
def predict(run, checkpoint_file) -> Callable[..., int]:
    """Runs `pneumonia predict` in this process, and gives the exit code."""

    def command(*words: object, checkpoint: Path = checkpoint_file) -> int:
        return run("predict", "--checkpoint", checkpoint, *words)

    return command


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
