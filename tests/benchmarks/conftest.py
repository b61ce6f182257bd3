"""Benchmarks run on all cores, as training does."""

import pytest
import torch
from lightning import Trainer
from PIL import Image

from pneumonia.data.parallel import available_cores
from pneumonia.evaluation.threshold import OperatingPoint
from pneumonia.inference.export import export
from pneumonia.model.checkpoint import finalize_checkpoint, read_checkpoint
from pneumonia.model.lightning_module import PneumoniaClassifier

FILES = 96


@pytest.fixture(autouse=True)
def all_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(available_cores())
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def files(synthetic, tmp_path_factory):
    """Radiographs of 224 pixels, as JPEG."""
    folder = tmp_path_factory.mktemp("files")
    for number, path in zip(range(FILES), 2 * sorted(synthetic.rglob("*.jpeg")), strict=False):
        with Image.open(path) as image:
            image.resize((224, 224)).save(folder / f"{number}.jpeg")
    return sorted(map(str, folder.iterdir()))
