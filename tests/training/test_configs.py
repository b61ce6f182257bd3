"""Every file in conf/ composes, instantiates, and rejects what is misspelt."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hydra.errors import HydraException
from lightning import Trainer
from omegaconf import OmegaConf

from pneumonia.data.transforms import STRONG, Augmentation
from pneumonia.errors import ConfigError, PneumoniaError
from pneumonia.training.config import RENAMED, check_config, refuse_renamed_keys
from pneumonia.training.pipeline import build_run
from pneumonia.training.resume import RunStart

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(
    f"{file.parent.relative_to(CONF)}={file.stem}"
    for file in CONF.rglob("*.yaml")
    if file.parent != CONF
)
NEEDS_GPU = {"trainer=gpu"}
SMALL = ("model.pretrained=false", "model.backbone=resnet10t", "data.num_workers=0")


@pytest.mark.parametrize("choice", FILES)
def test_every_config_file_composes_and_instantiates(choice, composed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "chest_xray" / "train").mkdir(parents=True)
    (tmp_path / "data" / "table.csv").write_text("path,label\nx.jpeg,NORMAL\n")
    (tmp_path / "data" / "x.jpeg").touch()
    accelerator = ["trainer.accelerator=cpu"] if choice in NEEDS_GPU else []
    devices = ["trainer.accelerator=cpu", "trainer.devices=1"] if choice == "trainer=ddp" else []
    config = composed(choice, *SMALL, *accelerator, *devices)
    parts = build_run(RunStart(config, str(tmp_path)))
    assert isinstance(parts.trainer, Trainer)
    assert parts.model.hparams["image_size"] == parts.datamodule.preprocessing.image_size


def test_the_notebooks_recipe_depends_on_no_default(composed, tmp_path):
    file = OmegaConf.load(CONF / "experiment" / "keras_notebook.yaml")
    assert set(file.data.augmentation) == {field.name for field in dataclasses.fields(Augmentation)}
    config = composed("callbacks=ema", "experiment=keras_notebook", *SMALL)
    augmentation = dict(config.data.augmentation)
    assert augmentation.pop("horizontal_flip") == 0.5
    del augmentation["_target_"]
    assert all(value in (0.0, [1.0, 1.0]) for value in augmentation.values())
    assert not config.evaluation.threshold_on_shifted
    assert config.callbacks.ema is None  # no averaged weights
    assert config.data.sampler is config.model.pos_weight is config.model.schedule is None
    assert config.model.drop_rate == config.model.label_smoothing == 0
    assert config.monitor == "val/loss"
    parts = build_run(RunStart(config, str(tmp_path)))
    assert parts.datamodule.preprocessing.interpolation == "nearest"
    parts.trainer.strategy.connect(parts.model)
    optimizer = parts.model.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["lr"] == 1e-3
    assert tuple(optimizer.defaults["betas"]) == (0.9, 0.999)


def test_training_uses_the_strong_augmentation_by_default(composed, tmp_path):
    found = build_run(RunStart(composed(*SMALL), str(tmp_path))).datamodule.augmentation
    ranges = {key: tuple(v) for key, v in vars(found).items() if isinstance(v, list)}
    assert dataclasses.replace(found, **ranges) == STRONG


def test_every_visible_callback_is_in_the_default_config(composed, tmp_path):
    config = composed(*SMALL)
    callbacks = build_run(RunStart(config, str(tmp_path))).trainer.callbacks
    always = {"SanityChecks", "RunFiles", "ResumeState", "CollectLogits"}
    listed = {node["_target_"].rpartition(".")[2] for node in config.callbacks.values()}
    assert {type(callback).__name__ for callback in callbacks} == always | listed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+trainer.max_epoch=3", "trainer.max_epoch.* max_epochs"),
        ("trainer.max_epochs=many", "trainer.max_epochs='many'.* integer"),
        ("trainer.max_epochs=true", "trainer.max_epochs=True.* integer"),
        ("data.interpolation=blurred", "data.interpolation='blurred'.* 'nearest'"),
        ("model.pos_weight=heavy", "model.pos_weight='heavy'.* number or 'balanced'"),
        ("+callbacks=mine", "callbacks"),
        ("checkpoint.every_n_steps=0", "checkpoint.every_n_steps=0"),
        ("callbacks.figures.every_n_epochs=0", "callbacks.figures.every_n_epochs=0"),
        ("model.backbone=resnetv2_5O", "model.backbone=resnetv2_5O .* resnetv2_50"),
        ("data.num_workers=1000", "data.num_workers=1000"),
        ("trainer.accelerator=abacus", "trainer: .*abacus"),
        ("callbacks.best._target_=lightning.Nothing", "callbacks.best._target_=lightning.Nothing"),
    ],
)
def test_an_invalid_setting_is_refused_by_its_key(override, message, composed, tmp_path):
    with pytest.raises((PneumoniaError, HydraException), match=message):
        build_run(RunStart(composed(*SMALL, override), str(tmp_path)))


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_key_is_refused_with_its_new_name(old, new):
    override = old if "=" in old else f"{old}=1"
    with pytest.raises(ConfigError, match=new):
        refuse_renamed_keys(["seed=1", override])


def test_a_key_that_starts_like_a_renamed_one_is_accepted():
    refuse_renamed_keys(["data.fitting=1", "experiment=seedling", "data.split.seed=1", "-m"])


def test_a_renamed_key_in_an_old_configuration_is_refused_with_its_new_name(composed):
    config = OmegaConf.to_container(composed(*SMALL), resolve=True)
    config["evaluation"]["abstention_error"] = config["evaluation"].pop("alpha")
    with pytest.raises(ConfigError, match=r"evaluation\.alpha"):
        check_config(config)


def test_without_a_progress_callback_there_is_no_progress_bar(composed, tmp_path):
    config = composed(*SMALL, "callbacks.progress=null")
    assert build_run(RunStart(config, str(tmp_path))).trainer.progress_bar_callback is None
