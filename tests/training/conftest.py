"""Runs of the real entry point on synthetic radiographs, and a fit of three steps for callbacks."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig, open_dict
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from pneumonia.training.config import register_resolvers

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

# A network and images small enough that an epoch takes a second or two.
TINY = (
    "trainer=cpu",
    "model.backbone=resnet10t",
    "model.pretrained=false",
    "model.tta=null",
    "data.image_size=32",
    "data.batch_size=8",
    "data.num_workers=0",
    "trainer.max_epochs=2",
    "export=false",  # takes seconds
    "trainer.enable_progress_bar=false",
    "callbacks.progress=null",
    "callbacks.summary=null",
    "evaluation.operating_point=youden",  # the validation set is too small for a target
)


class ThreeSteps(LightningModule):
    """A linear model on three batches; the loss of step `bad` is NaN."""

    def __init__(self, bad: int | None = None) -> None:
        super().__init__()
        self.network = torch.nn.Linear(2, 1)
        self.train_loss = MeanMetric()
        self.bad = bad

    def step(self, batch):
        logit = self.network(batch["image"])[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, batch["label"].float())
        return {"loss": loss, "logit": logit, "label": batch["label"], "index": batch["index"]}

    def training_step(self, batch, batch_idx):
        outputs = self.step(batch)
        self.train_loss.update(outputs["loss"].detach())
        self.log("train/loss", self.train_loss, on_epoch=True, on_step=False)
        return outputs["loss"] * (float("nan") if batch_idx == self.bad else 1)

    def validation_step(self, batch, batch_idx):
        outputs = self.step(batch)
        self.log("val/loss", outputs["loss"], batch_size=4)
        return outputs

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.25)


@pytest.fixture(name="three_steps")
def three_steps_fixture(tmp_path: Path) -> Callable[..., Trainer]:
    """Fit `ThreeSteps` with callbacks; returns the trainer."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"image": torch.randn(2, generator=generator), "label": i % 2, "index": i}
        for i in range(12)
    ]

    def fit(*callbacks, bad: int | None = None, ckpt_path=None, **settings) -> Trainer:
        defaults = {"max_epochs": 1, "logger": False, "accelerator": "cpu"}
        trainer = Trainer(
            **defaults | settings,
            callbacks=list(callbacks),
            default_root_dir=tmp_path,
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        torch.manual_seed(0)
        model, loader = ThreeSteps(bad), DataLoader(rows, batch_size=4)
        trainer.fit(model, loader, loader, ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return fit


def compose_config(directory: Path | str, *overrides: str) -> DictConfig:
    """Compose the configuration as the command line does."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "train",
            [*overrides, f"hydra.runtime.output_dir={directory}", "hydra.job.num=0"],
            return_hydra_config=True,
        )
        HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


@pytest.fixture(name="composed")
def composed_fixture(tmp_path: Path) -> Callable[..., DictConfig]:
    """Compose the configuration of a run in a directory."""

    def composed(*overrides: str, directory: Path | str = tmp_path / "run") -> DictConfig:
        return compose_config(directory, *overrides)

    return composed


@pytest.fixture(scope="session", name="train_in")
def train_in_fixture(synthetic: Path) -> Callable[..., float | None]:
    """Run `train.py` in a directory, in this process; returns what a sweeper would get."""
    entry_point = importlib.import_module("train")  # beside the package, not in it

    def run(directory: Path | str, *overrides: str) -> float | None:
        config = compose_config(directory, f"data.root={synthetic}", *TINY, *overrides)
        Path(directory).mkdir(parents=True, exist_ok=True)
        return entry_point.main.__wrapped__(config)

    return run


@pytest.fixture(name="train")
def train_fixture(train_in, tmp_path: Path) -> Callable[..., float | None]:
    """The same, in the directory `run` unless told otherwise."""

    def run(*overrides: str, directory: Path | str = tmp_path / "run") -> float | None:
        return train_in(directory, *overrides)

    return run


@pytest.fixture(scope="session", name="tiny")
def tiny_fixture() -> tuple[list[str], tuple[str, ...]]:
    """The real command line, and the overrides that make a run tiny."""
    return [sys.executable, str(ROOT / "train.py")], TINY


@pytest.fixture(scope="session", name="start")
def start_fixture() -> Callable[..., subprocess.Popen[str]]:
    """Start the real command line without waiting; it leads a process group, to be killed."""

    def start(*overrides: str, **streams) -> subprocess.Popen[str]:
        flags = [word for word in overrides if word.startswith("-")]
        words = [word for word in overrides if not word.startswith("-")]
        defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *flags, *TINY, *words],
            cwd=ROOT,
            start_new_session=True,
            text=True,
            **defaults | streams,
        )

    return start


@pytest.fixture(scope="session", name="cli")
def cli_fixture(start) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command line on a tiny setting, in a process of its own."""

    def run(*overrides: str) -> subprocess.CompletedProcess[str]:
        process = start(*overrides, stderr=subprocess.PIPE)
        stdout, stderr = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return run


@pytest.fixture(scope="session", name="finished")
def finished_fixture(once, synthetic, cli) -> Path:
    """A run of two epochs by the real command line; what it printed is in `console.txt`."""

    def make(folder: Path) -> None:
        words = ("data.num_workers=1", f"hydra.run.dir={folder / 'run'}")
        done = cli(f"data.root={synthetic}", *words)
        assert done.returncode == 0, done.stderr
        (folder / "run" / "console.txt").write_text(done.stdout + done.stderr)

    return once("finished", make) / "run"
