"""One file is the whole model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import CheckpointError, sentence
from pneumonia.model.checkpoint import FORMAT_VERSION, read_checkpoint
from pneumonia.model.lightning_module import PneumoniaClassifier

FRESH = """
import sys, torch
from pneumonia.model.lightning_module import PneumoniaClassifier
path, images, logits = sys.argv[1:]
model = PneumoniaClassifier.load_from_checkpoint(path, weights_only=True, map_location="cpu")
with torch.no_grad():
    torch.save(model.eval()(torch.load(images)), logits)
"""


def train(synthetic: Path, folder: Path, **settings) -> tuple[Path, PneumoniaClassifier]:
    """Trains for two steps; returns the best checkpoint and the model."""
    datamodule = ChestXrayDataModule(synthetic, image_size=32, batch_size=8, num_workers=0)
    best = ModelCheckpoint(folder, filename="best", monitor="val/loss")
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[best],
    )
    model = PneumoniaClassifier("test_resnet", image_size=32, **settings)
    trainer.fit(model, datamodule=datamodule)
    return Path(best.best_model_path), model.eval()


@pytest.fixture(scope="module")
def trained(synthetic, tmp_path_factory) -> tuple[Path, PneumoniaClassifier]:
    """A best checkpoint that started from a weights file, which is gone by now."""
    folder = tmp_path_factory.mktemp("run")
    weights = folder / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    settings = {"weights": str(weights), "pos_weight": "balanced", "resize_mode": "pad"}
    settings["optimizer"] = {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.99]}
    settings["schedule"] = {"name": "OneCycleLR"}
    checkpoint, model = train(synthetic, folder, **settings)
    weights.unlink()
    return checkpoint, model


@pytest.fixture
def images() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8, generator=random)


def test_it_loads_in_a_fresh_process_elsewhere_and_gives_the_same_logits(trained, images, tmp_path):
    path, model = trained
    torch.save(images, tmp_path / "images.pt")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "no cache")}
    subprocess.run(
        [sys.executable, "-c", FRESH, path, "images.pt", "logits.pt"],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    with torch.no_grad():
        assert torch.allclose(torch.load(tmp_path / "logits.pt"), model(images), atol=1e-6)


def test_it_carries_its_settings_and_asks_for_no_weights_again(trained):
    path, model = trained
    loaded = PneumoniaClassifier.load_from_checkpoint(path, weights_only=True)
    changed = {"pretrained": False, "weights": None}
    assert dict(loaded.hparams) == dict(model.hparams) | changed
    assert loaded.hparams["resize_mode"] == "pad"
    assert torch.equal(loaded.pos_weight, model.pos_weight)
    assert float(loaded.pos_weight) != 1


def test_it_says_what_it_is(trained):
    checkpoint = read_checkpoint(trained[0])
    assert checkpoint["format_version"] == FORMAT_VERSION
    assert checkpoint["classes"] == ["NORMAL", "PNEUMONIA"]
    assert checkpoint["pneumonia_version"]


def test_its_keys_are_those_of_the_network(trained):
    path, model = trained
    assert set(read_checkpoint(path)["state_dict"]) == set(model.state_dict())
    assert not any("_orig_mod" in key for key in model.state_dict())


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(path)
    said = sentence(refused.value)
    assert said.startswith(f"{path} ")
    return said


def test_a_missing_checkpoint_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "best.ckpt")
    assert "is no file" in refusal(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is text\n",
        b"epoch,loss\n1,0.5\n",
        b"{}",
        b"PK\x03\x04",
        bytes(range(256)),
    ],
    ids=repr,
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "best.ckpt").write_bytes(content)
    assert "is not a checkpoint" in refusal(tmp_path / "best.ckpt")


@pytest.mark.parametrize("first", range(0, 256, 5))
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_text_is_refused_whatever_it_begins_with(tmp_path, first):
    (tmp_path / "best.ckpt").write_bytes(bytes([first]) + b"ello world, this is text\n")
    refusal(tmp_path / "best.ckpt")


def test_a_truncated_checkpoint_is_refused(trained, tmp_path):
    whole = trained[0].read_bytes()
    (tmp_path / "best.ckpt").write_bytes(whole[: len(whole) // 2])
    assert "is not a checkpoint" in refusal(tmp_path / "best.ckpt")


@pytest.mark.parametrize(
    "content", [{"state_dict": {}}, [1], torch.zeros(3), {"format_version": "1"}], ids=str
)
def test_a_file_of_another_project_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "best.ckpt")
    assert "was not written by this project" in refusal(tmp_path / "best.ckpt")


class Touch:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_malicious_checkpoint_is_refused_and_runs_nothing(tmp_path):
    torch.save({"format_version": 1, "evil": Touch(tmp_path / "ran")}, tmp_path / "best.ckpt")
    refusal(tmp_path / "best.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_a_newer_version_is_refused_with_the_version_to_install(trained, tmp_path):
    newer = {"format_version": FORMAT_VERSION + 1, "pneumonia_version": "99.0"}
    torch.save(read_checkpoint(trained[0]) | newer, tmp_path / "best.ckpt")
    assert f"format {FORMAT_VERSION + 1}" in refusal(tmp_path / "best.ckpt")
    with pytest.raises(CheckpointError, match=r"install pneumonia 99\.0 or newer"):
        PneumoniaClassifier.load_from_checkpoint(tmp_path / "best.ckpt", weights_only=True)


@pytest.mark.slow
def test_a_compiled_fit_leaves_a_plain_checkpoint(synthetic, images, tmp_path):
    path, model = train(synthetic, tmp_path, pretrained=False, compile=True)
    loaded = PneumoniaClassifier.load_from_checkpoint(path, weights_only=True)
    assert set(loaded.state_dict()) == set(read_checkpoint(path)["state_dict"])
    with torch.no_grad():
        assert torch.allclose(loaded.eval()(images), model(images), atol=1e-5)
