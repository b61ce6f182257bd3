"""Pretrained weights, from a file or from the hub."""

import pickle
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as hub
import pytest
import timm
import torch
from fuzzing import Touch
from runs import free_port
from safetensors.torch import save_file

from pneumonia.errors import ModelError, sentence
from pneumonia.model.network import PneumoniaNetwork

BACKBONE = "test_resnet"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """RGB weights as timm publishes them: three channels, a thousand classes."""
    return timm.create_model(BACKBONE, num_classes=1000).state_dict()


def refusal(file: Path | str, backbone: str = BACKBONE) -> str:
    with pytest.raises(ModelError) as refused:
        PneumoniaNetwork(backbone, weights=str(file))
    message = sentence(refused.value)
    assert f"model.weights={file}" in message
    return message


def test_all_but_the_head_comes_from_the_file(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    loaded = PneumoniaNetwork(BACKBONE, weights=str(tmp_path / "w.safetensors")).backbone
    own = loaded.state_dict()
    stem, head = (loaded.pretrained_cfg[key] for key in ("first_conv", "classifier"))
    for key, value in state.items():
        if key == f"{stem}.weight":
            assert torch.allclose(own[key], value.sum(1, keepdim=True))
        elif not key.startswith(f"{head}."):
            assert torch.equal(own[key], value)
    assert own[f"{head}.weight"].shape[0] == 1


def test_weights_of_one_channel_are_taken_as_they_are(tmp_path):
    grey = timm.create_model(BACKBONE, in_chans=1, num_classes=3)
    stem = f"{grey.pretrained_cfg['first_conv']}.weight"
    save_file(grey.state_dict(), tmp_path / "w.safetensors")
    loaded = PneumoniaNetwork(BACKBONE, weights=str(tmp_path / "w.safetensors")).backbone
    assert torch.equal(loaded.state_dict()[stem], grey.state_dict()[stem])


STEM = f"{timm.get_pretrained_cfg(BACKBONE).first_conv}.weight"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layer1.0.conv1.weight", None),
        ("layer1.0.conv1.weight", torch.zeros(5)),
        ("extra.weight", torch.zeros(3)),
        (STEM, torch.zeros(24, 5, 3, 3)),
        (STEM, torch.zeros(())),
    ],
    ids=["missing", "shape", "unknown", "stem", "scalar stem"],
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, state, key, value):
    if value is None:
        del state[key]
    else:
        state[key] = value
    save_file(state, tmp_path / "w.safetensors")
    assert key in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("content", [b"", b"hello, this is text", bytes(range(256)) * 9], ids=len)
def test_a_missing_file_or_one_of_another_kind_is_refused(tmp_path, suffix, content):
    refusal(tmp_path / f"w.{suffix}")
    (tmp_path / f"w.{suffix}").write_bytes(content)
    refusal(tmp_path / f"w.{suffix}")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"a": 1}], ids=str)
def test_a_pth_without_a_dictionary_of_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    refusal(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda it, path: path.write_bytes(pickle.dumps(it))])
def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path, state, write):
    write({**state, "evil": Touch(tmp_path / "ran")}, tmp_path / "w.pth")
    refusal(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.shared
def test_real_imagenet_weights_load(shared):
    file = str(shared / "weights/tf_efficientnet_lite0.safetensors")
    network = PneumoniaNetwork("tf_efficientnet_lite0", weights=file).eval()
    bright, dark = torch.full((1, 1, 96, 96), 250.0), torch.zeros(1, 1, 96, 96)
    assert network(torch.cat([bright, dark])).isfinite().all()
    with pytest.raises(ModelError, match="resnetv2_50"):
        PneumoniaNetwork("resnetv2_50", weights=file)


@pytest.fixture
def hub_at(monkeypatch, tmp_path):
    """Replace the hub by a local port, with an empty cache."""

    def move(port: int) -> None:
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setattr(hub, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")

    return move


@pytest.fixture
def listening() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def assert_refused_soon(backbone: str = BACKBONE) -> None:
    start = time.monotonic()
    with pytest.raises(ModelError) as refused:
        PneumoniaNetwork(backbone, pretrained=True)
    assert time.monotonic() - start < 5
    message = sentence(refused.value)
    assert message == str(refused.value)
    for part in (backbone, "model.weights=FILE", "model.pretrained=false"):
        assert part in message


@pytest.mark.parametrize("hangs", [False, True])
def test_a_hub_that_does_not_answer_is_reported_within_5_seconds(hub_at, listening, hangs):
    hub_at(listening if hangs else free_port())
    assert_refused_soon()


def test_another_server_that_refuses_is_reported_within_5_seconds(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cfg = next(
        cfg
        for cfg in map(timm.get_pretrained_cfg, timm.list_pretrained())
        if cfg.url and not cfg.hf_hub_id
    )
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert_refused_soon(f"{cfg.architecture}.{cfg.tag}")


def test_a_file_takes_precedence_over_the_hub_and_a_cached_copy_needs_no_hub(
    hub_at, state, tmp_path
):
    hub_at(free_port())
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    given = PneumoniaNetwork(BACKBONE, pretrained=True, weights=str(file)).backbone.state_dict()
    repository = timm.get_pretrained_cfg(BACKBONE).hf_hub_id.replace("/", "--")
    cached = tmp_path / "hub" / f"models--{repository}"
    (cached / "snapshots" / "a1").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a1")
    file.rename(cached / "snapshots" / "a1" / "model.safetensors")
    found = PneumoniaNetwork(BACKBONE, pretrained=True).backbone.state_dict()
    key = next(key for key in state if key.startswith("layer1"))
    assert torch.equal(given[key], state[key])
    assert torch.equal(found[key], state[key])


def test_a_backbone_without_published_weights_is_refused():
    with pytest.raises(ModelError, match=r"model\.backbone=darknet17") as refused:
        PneumoniaNetwork("darknet17", pretrained=True)
    for part in ("model.pretrained=false", "model.weights=FILE"):
        assert part in str(refused.value)
