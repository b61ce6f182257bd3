"""Optimizer and schedule by name."""

import math
import re
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from pneumonia.errors import ConfigError
from pneumonia.model.optim import build_optimizer, build_schedule


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def test_adam_of_the_keras_notebook_is_torchs():
    settings = {"name": "adam", "lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.0}
    optimizer = build_optimizer(network(), settings)
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults == torch.optim.Adam(network().parameters(), lr=1e-3).defaults


def test_layer_decay_halves_the_rate_layer_by_layer_also_under_a_schedule():
    backbone = timm.create_model("test_vit", in_chans=1, num_classes=1)
    settings = {"name": "sgd", "lr": 0.1, "layer_decay": 0.5}
    optimizer = build_optimizer(backbone, settings)
    layers = [backbone.patch_embed.proj, *(block.mlp.fc1 for block in backbone.blocks)]

    def rates() -> dict[int, float]:
        return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}

    before = rates()
    assert len(before) == len(list(backbone.parameters()))
    found = [before[id(layer.weight)] for layer in layers]
    assert all(later == 2 * earlier for earlier, later in pairwise(found))
    assert before[id(backbone.get_classifier().weight)] == 0.1
    schedule = build_schedule(optimizer, {"name": "OneCycleLR"}, 20, 4)["scheduler"]
    for _ in range(10):
        optimizer.step()
        schedule.step()
    ratios = [rate / before[key] for key, rate in rates().items()]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"name": "adamm", "lr": 1e-3}, "model.optimizer.name=adamm"),
        ({"name": "adam", "learning_rate": 1e-3}, "learning_rate"),
        ({"name": "adam", "lr": -1.0}, "-1.0"),
        ({"lr": 1e-3}, "model.optimizer.name"),
    ],
)
def test_invalid_optimizer_settings_are_refused(settings, named):
    with pytest.raises(ConfigError, match=re.escape(named)) as refusal:
        build_optimizer(network(), settings)
    assert str(refusal.value).startswith("model.optimizer")


def scheduled(settings: dict, steps: float = 20, epochs: int = 4) -> dict:
    optimizer = build_optimizer(network(), {"name": "sgd", "lr": 0.1})
    return build_schedule(optimizer, settings, steps, epochs)


def test_one_cycle_spans_the_run_and_peaks_at_the_rate_of_the_optimizer():
    found = scheduled({"name": "OneCycleLR"})
    scheduler = found["scheduler"]
    assert (found["interval"], scheduler.total_steps) == ("step", 20)
    assert scheduler.optimizer.param_groups[0]["max_lr"] == 0.1


def test_a_plateau_follows_a_logged_metric_by_epoch():
    found = scheduled({"name": "ReduceLROnPlateau", "patience": 1})
    assert (found["interval"], found["monitor"]) == ("epoch", "val/loss")
    settings = {"name": "ReduceLROnPlateau", "mode": "max", "monitor": "val/auroc"}
    assert scheduled(settings)["monitor"] == "val/auroc"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"name": "OneCycle"}, "OneCycleLR"),
        ({"name": "CosineAnnealingLR", "t_max": 3}, "t_max"),
        ({"name": "CosineAnnealingLR", "interval": "batch"}, "model.schedule.interval=batch"),
        ({"interval": "step"}, "model.schedule.name"),
    ],
)
def test_invalid_schedule_settings_are_refused(settings, named):
    with pytest.raises(ConfigError, match=re.escape(named)) as refusal:
        scheduled(settings)
    assert str(refusal.value).startswith("model.schedule")


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_schedule_over_an_endless_run_needs_a_length(interval):
    settings = {"name": "CosineAnnealingLR", "interval": interval}
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs"):
        scheduled(settings, math.inf, -1)
    scheduled(settings | {"T_max": 10}, math.inf, -1)


def test_a_schedule_longer_than_the_run_is_refused():
    with pytest.raises(ConfigError, match=r"model\.schedule\.name=OneCycleLR .*4 steps"):
        scheduled({"name": "OneCycleLR", "pct_start": 0.25}, steps=4)
