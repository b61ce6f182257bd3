"""The checkpoint format: self-contained, and refused where it is not this version's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from fuzzing import Touch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import CheckpointError, sentence
from pneumonia.model.checkpoint import (
    FORMAT_VERSION,
    describe,
    finalize_checkpoint,
    read_checkpoint,
)
from pneumonia.model.lightning_module import PneumoniaClassifier

FRESH_PROCESS = """
import sys, torch
from pneumonia.model.lightning_module import PneumoniaClassifier
path, images, logits = sys.argv[1:]
model = PneumoniaClassifier.load_from_checkpoint(path, weights_only=True, map_location="cpu")
with torch.no_grad():
    torch.save(model.eval()(torch.load(images)), logits)
"""


@pytest.fixture(scope="module")
def trained(synthetic, tmp_path_factory) -> tuple[Path, PneumoniaClassifier]:
    """The checkpoint of two steps from a weights file, which no longer exists; and the model."""
    folder = tmp_path_factory.mktemp("run")
    weights = folder / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    model = PneumoniaClassifier(
        "test_resnet",
        image_size=32,
        weights=str(weights),
        pos_weight="balanced",
        resize_mode="pad",
        optimizer={"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.99]},
        schedule={"name": "OneCycleLR"},
    )
    best = ModelCheckpoint(folder, filename="best")
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[best],
    )
    trainer.fit(model, ChestXrayDataModule(synthetic, image_size=32, batch_size=8, num_workers=0))
    weights.unlink()
    return Path(best.best_model_path), model.eval()


@pytest.fixture
def images() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8, generator=random)


def test_loads_in_a_fresh_process_and_gives_the_same_logits(trained, images, tmp_path):
    path, model = trained
    torch.save(images, tmp_path / "images.pt")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "no cache")}
    subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, path, "images.pt", "logits.pt"],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    with torch.no_grad():
        assert torch.allclose(torch.load(tmp_path / "logits.pt"), model(images), atol=1e-6)


def test_stores_hyperparameters_that_need_no_download(trained):
    path, model = trained
    loaded = PneumoniaClassifier.load_from_checkpoint(path, weights_only=True)
    assert dict(loaded.hparams) == dict(model.hparams) | {"pretrained": False, "weights": None}
    assert torch.equal(loaded.pos_weight, model.pos_weight)
    assert float(loaded.pos_weight) != 1


def test_format_entries_and_state_keys(trained):
    path, model = trained
    checkpoint = read_checkpoint(path)
    assert checkpoint["format_version"] == FORMAT_VERSION
    assert checkpoint["classes"] == ["NORMAL", "PNEUMONIA"]
    assert checkpoint["pneumonia_version"]
    assert set(checkpoint["state_dict"]) == set(model.state_dict())


def test_finalizing_adds_entries_and_drops_the_training_state(trained, tmp_path):
    path = tmp_path / "best.ckpt"
    path.write_bytes(trained[0].read_bytes())
    finalize_checkpoint(path, read_checkpoint(path), calibration={"temperature": 2.0})
    checkpoint = read_checkpoint(path)
    assert checkpoint["calibration"] == {"temperature": 2.0}
    assert not checkpoint.keys() & {"optimizer_states", "loops", "callbacks"}
    PneumoniaClassifier.load_from_checkpoint(path, weights_only=True)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(path)
    message = sentence(refused.value)
    assert message.startswith(f"{path} ")
    return message


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", *(bytes([n]) + b"ello, this is text\n" for n in range(0, 256, 50))],
    ids=repr,
)
def test_a_missing_file_or_one_of_another_kind_is_refused(tmp_path, content):
    refusal(tmp_path / "best.ckpt")
    (tmp_path / "best.ckpt").write_bytes(content)
    refusal(tmp_path / "best.ckpt")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"state_dict": {}}, "format_version"),
        (torch.zeros(3), "format_version"),
        (describe() | {"format_version": "1"}, "format_version"),
        (describe() | {"classes": ["PNEUMONIA", "NORMAL"]}, "classes"),
        (describe() | {"metadata": 3}, "metadata"),
        (describe() | {"hyper_parameters": []}, "hyper_parameters"),
        (describe() | {"recalibration": [1]}, "recalibration"),
    ],
    ids=str,
)
def test_a_file_of_another_project_or_a_damaged_one_is_refused(tmp_path, content, named):
    torch.save(content, tmp_path / "best.ckpt")
    assert named in refusal(tmp_path / "best.ckpt")


@pytest.mark.parametrize(
    ("version", "release", "advice"), [(1, "0.1.0", "train again"), (99, "99.0", "install")]
)
def test_another_format_version_is_refused(trained, tmp_path, version, release, advice):
    other = {"format_version": version, "pneumonia_version": release}
    torch.save(read_checkpoint(trained[0]) | other, tmp_path / "best.ckpt")
    message = refusal(tmp_path / "best.ckpt")
    assert f"format_version {version} (pneumonia {release})" in message
    assert advice in message
    with pytest.raises(CheckpointError, match=f"format_version {version}"):
        PneumoniaClassifier.load_from_checkpoint(tmp_path / "best.ckpt", weights_only=True)


def test_a_malicious_checkpoint_is_refused_and_runs_nothing(tmp_path):
    torch.save(describe() | {"evil": Touch(tmp_path / "ran")}, tmp_path / "best.ckpt")
    refusal(tmp_path / "best.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_truncated_checkpoint_is_refused(trained, tmp_path):
    whole = trained[0].read_bytes()
    (tmp_path / "best.ckpt").write_bytes(whole[: len(whole) // 2])
    refusal(tmp_path / "best.ckpt")
