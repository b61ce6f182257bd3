"""Fixtures of inference: a small model that was never trained."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer

from pneumonia.model.classifier import PneumoniaClassifier


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
