"""Pretrained weights: timm's own from the hub, or a local file. Never partly, never silently."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from timm.models import adapt_input_conv, load_state_dict
from torch import nn

from pneumonia.errors import ModelError

_HUB_ANSWERS_WITHIN = 4.0
_HUB_FILE = "model.safetensors"
_KERNEL_DIMS = 4  # out channels, in channels, height, width


def hub_overlay(backbone: str) -> dict[str, str]:
    """Make sure that timm's weights for a backbone can be had, before timm waits for them.

    A failing download retries for three quarters of a minute; this asks their host once.

    Args:
        backbone: A timm architecture, with or without a weights tag.

    Returns:
        What to lay over timm's pretrained configuration: the cached file, or nothing.

    Raises:
        ModelError: If timm has no weights for the backbone, or their host does not answer
            within 4 s and nothing is cached.
    """
    cfg = timm.get_pretrained_cfg(backbone)
    if cfg is None or not cfg.has_weights:
        raise ModelError(
            f"timm has no pretrained weights for model.backbone={backbone}; use"
            " model.pretrained=false, or model.weights=FILE with weights of your own."
        )
    problem = None
    url = cfg.url[0] if isinstance(cfg.url, tuple) else cfg.url
    if cfg.hf_hub_id:
        cached = try_to_load_from_cache(cfg.hf_hub_id, _HUB_FILE)
        if isinstance(cached, str):
            return {"file": cached}
        problem = _problem(_ask_hub, cfg.hf_hub_id)
    elif url:  # a few are files on a server of their authors, kept by torch.hub
        if (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).is_file():
            return {}
        problem = _problem(_ask_server, url)
    if problem:
        raise no_download(backbone, problem)
    return {}


def no_download(backbone: str, problem: object) -> ModelError:
    """The error for pretrained weights that cannot be downloaded, with both ways out."""
    reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    return ModelError(
        f"the pretrained weights of {backbone} cannot be downloaded ({reason}); use"
        " model.weights=FILE with a copy of them, or model.pretrained=false to train from"
        " scratch."
    )


def load_weights(backbone: nn.Module, file: str) -> None:
    """Load a local file of ImageNet-style weights into a one-channel, one-logit backbone.

    The RGB stem is summed over its channels, the head stays as initialised; everything
    else must fit exactly.

    Args:
        backbone: A timm model, changed in place.
        file: `.safetensors`, or a `.pth` that loads with `weights_only=True`.

    Raises:
        ModelError: If the file is missing, is no weights file, or is of another architecture.
    """
    cfg: dict[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]
    state = _read(file)
    expected = backbone.state_dict()
    for stem in _names(cfg.get("first_conv")):
        kernel = state.get(f"{stem}.weight")
        if kernel is not None and kernel.ndim == _KERNEL_DIMS and kernel.shape[1] % 3 == 0:
            state[f"{stem}.weight"] = adapt_input_conv(1, kernel)
    heads = tuple(f"{head}." for head in _names(cfg.get("classifier")))
    state = {key: value for key, value in state.items() if not key.startswith(heads)}
    body = {key for key in expected if not key.startswith(heads)}
    wrong = sorted(
        key
        for key in body | state.keys()
        if key not in body or key not in state or expected[key].shape != state[key].shape
    )
    if wrong:
        raise ModelError(
            f"model.weights={file} is not of {cfg['architecture']}: {len(wrong)} tensors are"
            f" missing, unknown or of another shape (first: {', '.join(wrong[:3])});"
            " name the backbone that the file was trained with."
        )
    backbone.load_state_dict(state, strict=False)


def _read(file: str) -> dict[str, torch.Tensor]:
    if not Path(file).is_file():
        raise ModelError(f"model.weights={file} does not exist.")
    try:
        state = load_state_dict(file, use_ema=False, weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"model.weights={file} cannot be read as weights ({reason}).") from error
    except Exception as error:  # pickle's own errors derive from nothing narrower
        raise ModelError(
            f"model.weights={file} cannot be read as weights ({type(error).__name__})."
        ) from error
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"model.weights={file} holds no plain table of tensors.")
    return dict(state)


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _ask_hub(repository: str) -> None:
    try:
        get_hf_file_metadata(hf_hub_url(repository, _HUB_FILE), timeout=_HUB_ANSWERS_WITHIN)
    except EntryNotFoundError:
        return  # the hub answers, and timm knows the file's other names


def _ask_server(url: str) -> None:
    with urlopen(Request(url, method="HEAD"), timeout=_HUB_ANSWERS_WITHIN):  # noqa: S310  timm's own
        return


def _problem(ask: Callable[[str], None], address: str) -> str | None:
    # In a thread, since a name look-up honours no timeout.
    answer: queue.Queue[str | None] = queue.Queue()

    def run() -> None:
        try:
            ask(address)
            answer.put(None)
        except Exception as error:  # noqa: BLE001  whatever the reason, it is the answer
            answer.put(str(error) or type(error).__name__)

    threading.Thread(target=run, daemon=True).start()
    try:
        return answer.get(timeout=_HUB_ANSWERS_WITHIN)
    except queue.Empty:
        return f"no answer within {_HUB_ANSWERS_WITHIN:.0f} s"
