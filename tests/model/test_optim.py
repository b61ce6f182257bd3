"""Optimiser and schedule by name, with nothing between the user and the factory."""

import math
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


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 5) -> torch.Tensor:
    inputs = torch.arange(12.0).view(4, 3)
    for _ in range(count):
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_adam_of_the_notebook_is_exactly_torchs():
    ours, reference = network(), network()
    settings = {"name": "adam", "lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.0}
    optimizer = build_optimizer(ours, settings)
    expected = torch.optim.Adam(reference.parameters(), lr=1e-3, betas=(0.9, 0.999))
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults == expected.defaults
    assert torch.equal(steps(ours, optimizer), steps(reference, expected))


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"name": "adamw", "lr": 1e-3, "weight_decay": 0.05}, torch.optim.AdamW),
        ({"name": "sgd", "lr": 0.1, "momentum": 0.8}, torch.optim.SGD),
        ({"name": "lamb", "lr": 1e-3}, timm.optim.Lamb),
    ],
)
def test_an_optimiser_has_its_name_and_keywords(settings, kind):
    optimizer = build_optimizer(network(), settings)
    assert isinstance(optimizer, kind)
    group = optimizer.param_groups[-1]
    for key in set(settings) - {"name"}:
        assert group[key] == settings[key]


def test_biases_and_norms_do_not_decay():
    optimizer = build_optimizer(network(), {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05})
    decays = {
        parameter.ndim > 1: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert decays == {True: 0.05, False: 0.0}


def test_layer_decay_gives_earlier_layers_smaller_rates_and_the_head_the_whole():
    backbone = timm.create_model("test_vit", in_chans=1, num_classes=1)
    settings = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "layer_decay": 0.5}
    groups = build_optimizer(backbone, settings).param_groups
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rate) == len(list(backbone.parameters()))
    layers = [backbone.patch_embed.proj, *(block.mlp.fc1 for block in backbone.blocks)]
    found = [rate[id(layer.weight)] for layer in layers]
    assert all(later == 2 * earlier for earlier, later in pairwise(found))
    assert rate[id(backbone.get_classifier().weight)] == 1e-3


def test_a_schedule_keeps_the_ratios_of_layer_decay():
    backbone = timm.create_model("test_vit", in_chans=1, num_classes=1)
    optimizer = build_optimizer(backbone, {"name": "sgd", "lr": 0.1, "layer_decay": 0.5})
    before = [group["lr"] for group in optimizer.param_groups]
    schedule = build_schedule(optimizer, {"name": "OneCycleLR"}, 20, 4)["scheduler"]
    for _ in range(10):
        optimizer.step()
        schedule.step()
    ratios = [group["lr"] / lr for group, lr in zip(optimizer.param_groups, before, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert len(set(before)) > 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "adamm", "lr": 1e-3}, "model.optimizer.name=adamm is unknown"),
        ({"name": "adam", "learning_rate": 1e-3}, "learning_rate"),
        ({"name": "adam", "lr": -1.0}, "-1.0"),
        ({"name": "adam", "lr": 1e-3, "betas": (0.9, 1.5)}, "1.5"),
        ({"lr": 1e-3}, "model.optimizer needs a name"),
    ],
)
def test_an_unusable_optimiser_is_refused(settings, says):
    with pytest.raises(ConfigError, match=r"^model\.optimizer") as refusal:
        build_optimizer(network(), settings)
    assert says in str(refusal.value)


def rates(settings: dict, total: int = 20, epochs: int = 4) -> tuple[str, list[float]]:
    """Learning rate of every step, or epoch, of a run."""
    optimizer = build_optimizer(network(), {"name": "sgd", "lr": 0.1})
    schedule = build_schedule(optimizer, settings, total, epochs)
    found = []
    for _ in range(total if schedule["interval"] == "step" else epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    return schedule["interval"], found


def test_one_cycle_spans_the_run_and_peaks_at_the_optimisers_rate():
    interval, found = rates({"name": "OneCycleLR", "pct_start": 0.25})
    assert (interval, len(found)) == ("step", 20)
    assert found[0] == pytest.approx(0.1 / 25)
    assert max(found) == pytest.approx(0.1) == found[4]
    assert found[-1] == pytest.approx(0.1 / 25 / 1e4)


@pytest.mark.parametrize(("interval", "length"), [("step", 20), ("epoch", 4)])
def test_cosine_falls_over_the_run_by_step_or_by_epoch(interval, length):
    kind, found = rates({"name": "CosineAnnealingLR", "interval": interval})
    expected = [0.05 * (1 + math.cos(math.pi * n / length)) for n in range(length)]
    assert kind == interval
    assert found == pytest.approx(expected)


def test_a_step_schedule_can_go_by_epochs():
    settings = {"name": "StepLR", "step_size": 2, "gamma": 0.1, "interval": "epoch"}
    assert rates(settings) == ("epoch", pytest.approx([0.1, 0.1, 0.01, 0.01]))


def test_a_given_length_and_rate_go_before_those_of_the_run():
    _, found = rates({"name": "OneCycleLR", "total_steps": 30, "max_lr": 0.5, "pct_start": 0.5})
    assert max(found) == pytest.approx(0.5, rel=0.01)
    assert found[-1] > 0.2


def test_a_plateau_follows_a_logged_metric_by_epoch():
    optimizer = build_optimizer(network(), {"name": "sgd", "lr": 0.1})
    found = build_schedule(optimizer, {"name": "ReduceLROnPlateau", "patience": 1}, 20, 4)
    assert (found["interval"], found["monitor"]) == ("epoch", "val/loss")
    settings = {"name": "ReduceLROnPlateau", "mode": "max", "monitor": "val/auroc"}
    assert build_schedule(optimizer, settings, 20, 4)["monitor"] == "val/auroc"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "OneCycle"}, "OneCycleLR"),
        ({"name": "LRScheduler"}, "model.schedule.name=LRScheduler is unknown"),
        ({"name": "StepLR"}, "step_size"),
        ({"name": "CosineAnnealingLR", "t_max": 3}, "t_max"),
        ({"name": "CosineAnnealingLR", "interval": "batch"}, "model.schedule.interval=batch"),
        ({"name": "OneCycleLR", "pct_start": 2.0}, "pct_start"),
        ({"interval": "step"}, "model.schedule needs a name"),
    ],
)
def test_an_unusable_schedule_is_refused(settings, says):
    with pytest.raises(ConfigError, match=r"^model\.schedule") as refusal:
        rates(settings)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    ("interval", "total", "epochs"), [("step", math.inf, -1), ("epoch", 9, -1)]
)
def test_a_schedule_over_a_run_without_end_is_refused(interval, total, epochs):
    optimizer = build_optimizer(network(), {"name": "sgd", "lr": 0.1})
    settings = {"name": "CosineAnnealingLR", "interval": interval}
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs"):
        build_schedule(optimizer, settings, total, epochs)
    build_schedule(optimizer, settings | {"T_max": 10}, total, epochs)


def test_a_run_too_short_for_its_schedule_is_refused_with_its_length():
    optimizer = build_optimizer(network(), {"name": "sgd", "lr": 0.1})
    settings = {"name": "OneCycleLR", "pct_start": 0.25}
    with pytest.raises(ConfigError, match="a run of 4 steps"):
        build_schedule(optimizer, settings, 4, 1)
