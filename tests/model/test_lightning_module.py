"""The LightningModule: loss, hyperparameters, optimizer, logged metrics."""

import math
import re

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from lightning import Trainer
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import ConfigError
from pneumonia.model.lightning_module import PneumoniaClassifier

TINY = {"backbone": "test_resnet", "pretrained": False, "image_size": 32}


@pytest.fixture
def datamodule(synthetic) -> ChestXrayDataModule:
    return ChestXrayDataModule(synthetic, image_size=32, batch_size=8, num_workers=0)


pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated",  # lightning on torch 2.14
    "ignore:You defined a `validation_step` but have no",  # a test without a data module
)


def trainer(**settings) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "num_sanity_val_steps": 0}
    return Trainer(**(quiet | {"max_epochs": 1} | settings))


def batch(labels: list[int]) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shape = (len(labels), 1, 32, 32)
    return {
        "image": torch.randint(0, 256, shape, dtype=torch.uint8, generator=random),
        "label": torch.tensor(labels),
        "index": torch.arange(len(labels)),
    }


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("pos_weight", [None, 0.35])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("labels", [[0, 1, 1, 0], [1, 1, 1, 1]])
def test_training_loss_is_weighted_and_smoothed_cross_entropy_of_logits(
    pos_weight, smoothing, labels
):
    model = PneumoniaClassifier(**TINY, pos_weight=pos_weight, label_smoothing=smoothing).eval()
    with torch.no_grad():
        model.network.backbone.get_classifier().bias.fill_(2.5)
        loss = model.training_step(batch(labels), 0)
        logits = model(batch(labels)["image"])
    targets = torch.tensor([{0: smoothing / 2, 1: 1 - smoothing / 2}[label] for label in labels])
    weight = torch.tensor(float(pos_weight or 1))
    expected = binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)
    assert torch.allclose(loss, expected)


def test_balanced_pos_weight_is_the_class_ratio_of_the_training_split(datamodule):
    model = PneumoniaClassifier(**TINY, pos_weight="balanced")
    trainer(limit_train_batches=1, limit_val_batches=1).fit(model, datamodule=datamodule)
    normal, pneumonia = datamodule.splits["train"].class_counts()
    assert normal != pneumonia
    assert float(model.pos_weight) == pytest.approx(normal / pneumonia)


def test_balanced_pos_weight_without_a_data_module_is_refused():
    model = PneumoniaClassifier(**TINY, pos_weight="balanced")
    loader = DataLoader([{key: value[0] for key, value in batch([1]).items()}])
    with pytest.raises(ConfigError, match=r"model\.pos_weight=balanced"):
        trainer().fit(model, loader)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"pos_weight": 0}, "model.pos_weight=0"),
        ({"pos_weight": math.nan}, "model.pos_weight=nan"),
        ({"pos_weight": "even"}, "model.pos_weight='even'"),
        ({"label_smoothing": 1.0}, "model.label_smoothing=1.0"),
        ({"drop_rate": 2.0}, "model.drop_rate=2.0"),
        ({"drop_path_rate": -0.5}, "model.drop_path_rate=-0.5"),
    ],
)
def test_an_argument_out_of_range_is_refused(settings, key):
    with pytest.raises(ConfigError, match=re.escape(key)):
        PneumoniaClassifier(**(TINY | settings))


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        (None, 1.0),
        ({"name": "CosineAnnealingLR"}, 0.0),
        ({"name": "CosineAnnealingLR", "interval": "epoch"}, 0.0),
        ({"name": "ReduceLROnPlateau", "patience": 5}, 1.0),
    ],
)
def test_learning_rate_at_the_end_of_a_fit(datamodule, schedule, last):
    optimizer = {"name": "sgd", "lr": 0.1}
    model = PneumoniaClassifier(**TINY, optimizer=optimizer, schedule=schedule)
    run = trainer(max_epochs=2, limit_train_batches=2, limit_val_batches=1)
    run.fit(model, datamodule=datamodule)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * last, abs=1e-9)


@pytest.mark.parametrize("inside", [False, True], ids=["any logits", "all logits within 0 and 1"])
def test_logged_validation_metrics_agree_with_scikit_learn(datamodule, inside):
    torch.manual_seed(0)
    model = PneumoniaClassifier(**TINY)
    if inside:  # torchmetrics takes such logits for probabilities (torchmetrics #2195)
        head = model.network.backbone.get_classifier()
        with torch.no_grad():
            head.weight.mul_(0.01)
            head.bias.fill_(0.3)
    datamodule.setup("test")
    loader = datamodule.test_dataloader()
    (logged,) = trainer().validate(model, loader, verbose=False)
    batches = list(loader)
    with torch.no_grad():
        logits = torch.cat([model.eval()(part["image"]) for part in batches]).double().numpy()
    labels = np.concatenate([part["label"] for part in batches])
    assert any(len(set(part["label"].tolist())) == 1 for part in batches)
    assert not inside or 0 < logits.min() < logits.max() < 1
    assert logged["val/recall"] == pytest.approx(sk.recall_score(labels, logits > 0))
    assert logged["val/auroc"] == pytest.approx(sk.roc_auc_score(labels, logits))
    loss = sk.log_loss(labels, 1 / (1 + np.exp(-logits)))
    assert logged["val/loss"] == pytest.approx(loss, abs=1e-5)


def test_monitors_are_the_metrics_that_a_fit_logs(datamodule):
    model = PneumoniaClassifier(**TINY)
    run = trainer(limit_train_batches=1, limit_val_batches=1)
    run.fit(model, datamodule=datamodule)
    assert set(model.monitors()) == set(run.logged_metrics)
    assert model.monitors()["val/loss"] == "min"
    assert model.monitors()["val/auroc"] == "max"


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format_does_not_change_logits(channels_last):
    torch.manual_seed(0)
    model = PneumoniaClassifier(**TINY, channels_last=channels_last).eval()
    stem = next(p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert stem.is_contiguous(memory_format=torch.channels_last) is channels_last
    other = PneumoniaClassifier(**TINY, channels_last=not channels_last).eval()
    other.load_state_dict(model.state_dict())
    images = batch([0, 1])["image"]
    assert torch.allclose(model(images), other(images), atol=1e-5)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_test_time_augmentation_is_off_in_training_and_validation_and_on_after():
    plain = PneumoniaClassifier(**TINY).eval()
    model = PneumoniaClassifier(**TINY, tta="flip").eval()
    model.load_state_dict(plain.state_dict())
    images = batch([0, 1, 1, 0])
    mirrored = images | {"image": images["image"].flip(-1)}
    with torch.no_grad():
        assert torch.equal(model.training_step(images, 0), plain.training_step(images, 0))
        single, other = (plain.validation_step(each, 0)["logit"] for each in (images, mirrored))
        assert torch.equal(model.validation_step(images, 0)["logit"], single)
        averaged = model.predict_step(images, 0)["logit"]
        assert torch.equal(model.test_step(images, 0)["logit"], averaged)
    assert not torch.allclose(single, other)
    assert torch.allclose(averaged, (single + other) / 2, atol=1e-6)
