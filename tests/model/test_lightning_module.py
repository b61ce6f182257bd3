"""The LightningModule: its loss, its settings, its figures."""

import math

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


def test_logits_are_raw_and_one_for_each_image():
    model = PneumoniaClassifier(**TINY).eval()
    logits = model(batch([0, 1, 1])["image"])
    assert logits.shape == (3,)
    assert torch.equal(logits, model.network(batch([0, 1, 1])["image"]))


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("pos_weight", [None, 0.35, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("labels", [[0, 1, 1, 0], [1, 1, 1, 1]])
def test_the_training_loss_is_torchs_on_the_raw_logits(pos_weight, smoothing, labels):
    model = PneumoniaClassifier(**TINY, pos_weight=pos_weight, label_smoothing=smoothing).eval()
    with torch.no_grad():
        model.network.backbone.get_classifier().bias.fill_(2.5)
        loss = model.training_step(batch(labels), 0)
        logits = model(batch(labels)["image"])
    targets = torch.tensor([{0: smoothing / 2, 1: 1 - smoothing / 2}[label] for label in labels])
    weight = torch.tensor(float(pos_weight or 1))
    expected = binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)
    assert torch.allclose(loss, expected)


def test_balanced_weighs_by_the_training_split(datamodule):
    model = PneumoniaClassifier(**TINY, pos_weight="balanced")
    trainer(limit_train_batches=1, limit_val_batches=1).fit(model, datamodule=datamodule)
    normal, pneumonia = datamodule.class_counts()
    assert normal != pneumonia
    assert float(model.pos_weight) == pytest.approx(normal / pneumonia)


def test_balanced_without_a_data_module_is_refused():
    model = PneumoniaClassifier(**TINY, pos_weight="balanced")
    loader = DataLoader([{key: value[0] for key, value in batch([1]).items()}])
    with pytest.raises(ConfigError, match=r"model\.pos_weight=balanced"):
        trainer().fit(model, loader)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"pos_weight": 0}, "model.pos_weight=0"),
        ({"pos_weight": -1.5}, "model.pos_weight=-1.5"),
        ({"pos_weight": math.nan}, "model.pos_weight=nan"),
        ({"pos_weight": math.inf}, "model.pos_weight=inf"),
        ({"pos_weight": "even"}, "model.pos_weight='even'"),
        ({"label_smoothing": -0.1}, "model.label_smoothing=-0.1"),
        ({"label_smoothing": 1.0}, "model.label_smoothing=1.0"),
        ({"drop_rate": 2.0}, "model.drop_rate=2.0"),
        ({"drop_path_rate": -0.5}, "model.drop_path_rate=-0.5"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, key):
    with pytest.raises(ConfigError) as refusal:
        PneumoniaClassifier(**(TINY | settings))
    assert key in str(refusal.value)


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        (None, 1.0),
        ({"name": "CosineAnnealingLR"}, 0.0),
        ({"name": "CosineAnnealingLR", "interval": "epoch"}, 0.0),
        ({"name": "StepLR", "step_size": 1, "gamma": 0.1, "interval": "epoch"}, 0.01),
        ({"name": "ReduceLROnPlateau", "patience": 5}, 1.0),
    ],
)
def test_a_fit_ends_where_its_schedule_ends(datamodule, schedule, last):
    optimizer = {"name": "sgd", "lr": 0.1}
    model = PneumoniaClassifier(**TINY, optimizer=optimizer, schedule=schedule)
    run = trainer(max_epochs=2, limit_train_batches=2, limit_val_batches=1)
    run.fit(model, datamodule=datamodule)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * last, abs=1e-9)


def test_layer_decay_reaches_the_layers_of_the_backbone(datamodule):
    optimizer = {"name": "adamw", "lr": 1e-3, "layer_decay": 0.5}
    model = PneumoniaClassifier(**TINY, optimizer=optimizer)
    run = trainer(limit_train_batches=1, limit_val_batches=0)
    run.fit(model, datamodule=datamodule)
    assert len({group["lr"] for group in run.optimizers[0].param_groups}) > 2


@pytest.mark.parametrize("inside", [False, True], ids=["any logits", "all logits within 0 and 1"])
def test_what_is_logged_agrees_with_scikit_learn_on_the_logits(datamodule, inside):
    # In order, the first batches hold normals alone and the last pneumonias alone.
    torch.manual_seed(0)
    model = PneumoniaClassifier(**TINY)
    if inside:  # torchmetrics takes such logits for probabilities (torchmetrics #2195)
        head = model.network.backbone.get_classifier()
        with torch.no_grad():
            head.weight.mul_(0.01)
            head.bias.fill_(0.3)
    datamodule.setup("test")
    (logged,) = trainer().test(model, datamodule=datamodule, verbose=False)
    batches = list(datamodule.test_dataloader())
    with torch.no_grad():
        logits = torch.cat([model.eval()(part["image"]) for part in batches]).double().numpy()
    labels = np.concatenate([part["label"] for part in batches])
    assert any(len(set(part["label"].tolist())) == 1 for part in batches)
    assert not inside or 0 < logits.min() < logits.max() < 1
    called = logits > 0
    expected = {
        "test/accuracy": sk.accuracy_score(labels, called),
        "test/precision": sk.precision_score(labels, called, zero_division=0),
        "test/recall": sk.recall_score(labels, called),
        "test/specificity": sk.recall_score(labels, called, pos_label=0),
        "test/f1": sk.f1_score(labels, called),
        "test/balanced_accuracy": sk.balanced_accuracy_score(labels, called),
        "test/auroc": sk.roc_auc_score(labels, logits),
        "test/average_precision": sk.average_precision_score(labels, logits),
        "test/loss": sk.log_loss(labels, 1 / (1 + np.exp(-logits))),
    }
    assert logged == pytest.approx(expected, abs=1e-5)


def test_all_that_a_fit_logs_can_be_monitored_and_nothing_else(datamodule):
    model = PneumoniaClassifier(**TINY)
    run = trainer(limit_train_batches=1, limit_val_batches=1)
    run.fit(model, datamodule=datamodule)
    assert set(model.monitors()) == set(run.logged_metrics)
    assert model.monitors()["val/loss"] == "min"
    assert model.monitors()["val/auroc"] == "max"


def test_predictions_carry_the_rows_they_belong_to(datamodule):
    datamodule.setup("test")
    model = PneumoniaClassifier(**TINY)
    parts = trainer().predict(model, datamodule.test_dataloader())
    rows = torch.cat([part["index"] for part in parts])
    assert rows.tolist() == list(range(len(datamodule.splits["test"])))
    with torch.no_grad():
        first = next(iter(datamodule.test_dataloader()))["image"]
        assert torch.allclose(parts[0]["logit"], model.eval()(first), atol=1e-6)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_order_does_not_change_the_answer(channels_last):
    torch.manual_seed(0)
    model = PneumoniaClassifier(**TINY, channels_last=channels_last).eval()
    stem = next(p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert stem.is_contiguous(memory_format=torch.channels_last) is channels_last
    other = PneumoniaClassifier(**TINY, channels_last=not channels_last).eval()
    other.load_state_dict(model.state_dict())
    images = batch([0, 1])["image"]
    assert torch.allclose(model(images), other(images), atol=1e-5)
