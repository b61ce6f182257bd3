"""Pretrained weights: timm's own from the hub, or a local file. Never partly, never silently."""

import difflib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.request import Request, urlopen

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from timm.models import adapt_input_conv, load_state_dict
from torch import Tensor, nn

from pneumonia.errors import ModelError

_HUB_ANSWERS_WITHIN = 4.0
_HUB_FILE = "model.safetensors"
_KERNEL_DIMS = 4  # out channels, in channels, height, width


def pretrained_cfg_overlay(backbone: str) -> dict[str, str]:
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


class PneumoniaNetwork(nn.Module):
    """Any timm backbone for one grey channel and one logit.

    Normalisation is part of the network, so every consumer hands over plain pixels and an
    exported graph carries it.

    Args:
        backbone: A timm architecture, with or without a weights tag.
        pretrained: Start from timm's pretrained weights, downloaded once.
        weights: Start from this local `.safetensors` or `.pth` file instead.
        image_size: Side of the input in pixels; needed by backbones of fixed input size.
        drop_rate: Dropout before the head, 0 to 1.
        drop_path_rate: Stochastic depth, 0 to 1, for backbones that have it.

    Raises:
        ModelError: If the backbone is unknown or weights cannot be had or do not fit.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        backbone: str,
        *,
        pretrained: bool = False,
        weights: str | None = None,
        image_size: int = 224,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"num_classes": 1, "in_chans": 1, "drop_rate": drop_rate}
        if drop_path_rate:
            options["drop_path_rate"] = drop_path_rate
        if _pretrained_cfg(backbone).get("fixed_input_size"):
            options["img_size"] = image_size
        from_hub = pretrained and weights is None
        if from_hub:
            options["pretrained_cfg_overlay"] = pretrained_cfg_overlay(backbone)
        try:
            self.backbone = timm.create_model(backbone, pretrained=from_hub, **options)
            _try(self.backbone, image_size)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ModelError(
                f"model.backbone={backbone} cannot be built for one grey channel at {image_size}"
                f" pixels ({error}); choose another backbone or data.image_size."
            ) from error
        except OSError as error:  # the host answered, and then failed
            raise no_download(backbone, error) from error
        if weights is not None:
            load_weights(self.backbone, weights)
        # The three-channel statistics of the weights, for a grey image repeated three times.
        cfg = cast(dict[str, Any], self.backbone.pretrained_cfg)
        mean, std = (_average(cfg[key]) for key in ("mean", "std"))
        self.register_buffer("scale", torch.tensor(1 / (255 * std)), persistent=False)
        self.register_buffer("shift", torch.tensor(-mean / std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of pneumonia.

        Args:
            images: uint8 (or float of the same range) [N, 1, H, W], 0 black to 255 white.

        Returns:
            float32 [N], raw: the probability is their sigmoid.
        """
        logits: Tensor = self.backbone(self.normalise(images))
        return logits.squeeze(1).float()

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of pneumonia, and what the last layer makes them from, in one pass.

        Args:
            images: As for `forward`.

        Returns:
            The logits, float32 [N], those of `forward`; and the embedding, float32 [N, D]: the
            backbone's pooled features.
        """
        backbone = cast(Any, self.backbone)  # every timm model has these two halves
        features = backbone.forward_features(self.normalise(images))
        embedding: Tensor = backbone.forward_head(features, pre_logits=True)
        logits: Tensor = backbone.forward_head(features)
        return logits.squeeze(1).float(), embedding.flatten(1).float()

    def normalise(self, images: Tensor) -> Tensor:
        """Scale pixels to what the backbone's weights expect.

        Args:
            images: As for `forward`.

        Returns:
            Float, of the same shape.
        """
        return images.to(self.scale.dtype) * self.scale + self.shift


def _pretrained_cfg(backbone: str) -> dict[str, Any]:
    if not timm.is_model(backbone):
        close = difflib.get_close_matches(backbone, timm.list_models(), 3)
        raise ModelError(
            f"model.backbone={backbone} is no architecture of timm"
            + (f"; did you mean {' or '.join(close)}?" if close else "; see timm.list_models().")
        )
    try:
        cfg = timm.get_pretrained_cfg(backbone)
    except RuntimeError as error:
        known = timm.list_pretrained(f"{backbone.partition('.')[0]}.*")
        raise ModelError(
            f"model.backbone={backbone} names weights that timm does not know; it has"
            f" {', '.join(known) or 'none'}."
        ) from error
    return dict(vars(cfg)) if cfg is not None else {}


def _try(backbone: nn.Module, image_size: int) -> None:
    # Many backbones find out in their first forward that they cannot have this size.
    backbone.eval()
    with torch.no_grad():
        backbone(torch.zeros(1, 1, image_size, image_size))
    backbone.train()


def _average(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
