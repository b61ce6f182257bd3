"""Any timm backbone for grey X-rays, with pretrained weights from the hub or a local file."""

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.request import Request, urlopen

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import adapt_input_conv, load_state_dict
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from pneumonia.connectivity import ANSWER_WITHIN, connection_error
from pneumonia.errors import ModelError, check_setting, first_line

_HUB_FILE = "model.safetensors"
_KERNEL_DIMS = 4  # out channels, in channels, height, width


class View(NamedTuple):
    """One view for test-time augmentation: mirrored, zoomed, rotated, widened by e^stretch."""

    flip: bool = False
    zoom: float = 1.0
    degrees: float = 0.0
    stretch: float = 0.0


TTA = {
    "flip": [View(flip=True)],
    "zoom": [View(flip, zoom) for zoom in (1.0, 1.15, 1.3) for flip in (False, True)][1:],
    "pose": [
        View(flip=True),
        View(zoom=1.15),
        View(flip=True, zoom=1.3),
        View(degrees=8.0),
        View(flip=True, degrees=-8.0),
        View(stretch=0.2),
        View(flip=True, stretch=-0.2),
    ],
}
"""Test-time augmentation by name: the views that are averaged with the unmodified one."""


class PneumoniaNetwork(nn.Module):
    """Any timm backbone for one grey channel and one logit.

    Pixel normalisation and test-time augmentation are part of the network, so that an exported
    graph carries them. The arguments are those of `PneumoniaClassifier`; `weights` is a
    `.safetensors` or `.pth` file.

    Attributes:
        n_views: Number of views of an image that `forward` averages.

    Raises:
        ConfigError: If the test-time augmentation is unknown.
        ModelError: If the backbone is unknown, or weights are not available or do not fit.
    """

    scale: Tensor
    shift: Tensor
    grids: Tensor

    def __init__(
        self,
        backbone: str,
        *,
        pretrained: bool = False,
        weights: str | None = None,
        image_size: int = 224,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        tta: str | None = None,
    ) -> None:
        super().__init__()
        check_setting(tta is None or tta in TTA, "model.tta", tta, f"null, {' or '.join(TTA)}")
        options: dict[str, Any] = {"num_classes": 1, "in_chans": 1, "drop_rate": drop_rate}
        if drop_path_rate:
            options["drop_path_rate"] = drop_path_rate
        if _pretrained_cfg(backbone).get("fixed_input_size"):
            options["img_size"] = image_size
        from_hub = pretrained and weights is None
        if from_hub:
            options["pretrained_cfg_overlay"] = _check_download(backbone)
        try:
            self.backbone = timm.create_model(backbone, pretrained=from_hub, **options)
            self.backbone.eval()
            with torch.no_grad():  # many backbones refuse a size only in their first forward
                self.backbone(torch.zeros(1, 1, image_size, image_size))
            self.backbone.train()
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ModelError(
                f"model.backbone={backbone} cannot be built for one grey channel at {image_size}"
                f" pixels ({error}); choose another backbone or data.image_size."
            ) from error
        except OSError as error:  # the host answered, and then failed
            raise _no_download(backbone, first_line(error)) from error
        if weights is not None:
            _load_weights(self.backbone, weights)
        # The statistics of the weights, averaged over RGB: the image is one grey channel.
        cfg = cast(dict[str, Any], self.backbone.pretrained_cfg)
        mean, std = (sum(cfg[key]) / len(cfg[key]) for key in ("mean", "std"))
        self.register_buffer("scale", torch.tensor(1 / (255 * std)), persistent=False)
        self.register_buffer("shift", torch.tensor(-mean / std), persistent=False)
        self.n_views = 1
        if tta is not None:
            grids = _sampling_grids(TTA[tta], image_size)
            self.register_buffer("grids", grids, persistent=False)
            self.n_views += len(grids)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.scale.device

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of PNEUMONIA, averaged over the views of test-time augmentation.

        Args:
            images: uint8 (or float of the same range) [N, 1, H, W], 0 black to 255 white.

        Returns:
            float32 [N], raw: the probability is their sigmoid.
        """
        return self._average(self.single_view(images), images)

    def single_view(self, images: Tensor) -> Tensor:
        """Return the logits of images as they are, as for `forward`."""
        logits: Tensor = self.backbone(self.normalise(images))
        return logits.squeeze(1).float()

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and an embedding, in one pass.

        Returns:
            The logits of `forward`, and the backbone's pooled features of the images as they are,
            float32 [N, D].
        """
        backbone = cast(Any, self.backbone)  # every timm model has these two halves
        features = backbone.forward_features(self.normalise(images))
        embedding: Tensor = backbone.forward_head(features, pre_logits=True)
        logits: Tensor = backbone.forward_head(features)
        logits = self._average(logits.squeeze(1).float(), images)
        return logits, embedding.flatten(1).float()

    def changed_views(self, images: Tensor) -> list[Tensor]:
        """Return the views beside the unmodified one, each like the images (as for `forward`)."""
        if self.n_views == 1:
            return []
        # As channels, all images share the grid of a view; what lies outside of them is black.
        channels = images.to(self.grids.dtype).transpose(0, 1).expand(len(self.grids), -1, -1, -1)
        changed = grid_sample(channels, self.grids, align_corners=False)
        return list(changed.unsqueeze(2))

    def _average(self, logits: Tensor, images: Tensor) -> Tensor:
        # One view after the other: together they take many times the memory, and longer.
        views = [logits, *map(self.single_view, self.changed_views(images))]
        return torch.stack(views).mean(0)

    def normalise(self, images: Tensor) -> Tensor:
        """Scale pixels (as for `forward`) to what the weights expect; float, of the same shape."""
        return images.to(self.scale.dtype) * self.scale + self.shift


class Ensemble(nn.Module):
    """Several networks whose logits are averaged; used like a `PneumoniaNetwork` at inference.

    Attributes:
        n_views: Forward passes through a backbone per image.
    """

    def __init__(self, members: Sequence[PneumoniaNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.n_views = sum(member.n_views for member in members)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.parameters()).device

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean logits; see `PneumoniaNetwork.forward`."""
        return torch.stack([member(images) for member in self.members]).mean(0)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean logits, and the joined embeddings of all members."""
        logits, embeddings = zip(*(cast(Any, m).embed(images) for m in self.members), strict=True)
        return torch.stack(logits).mean(0), torch.cat(embeddings, 1)


def build_network(settings: Mapping[str, Any]) -> PneumoniaNetwork | Ensemble:
    """Build the network that the hyperparameters of a checkpoint describe, without its weights.

    Those of an ensemble list in `members` what differs between its members.
    """
    if members := settings.get("members"):
        return Ensemble([_build_one({**settings, **member}) for member in members])
    return _build_one(settings)


def _build_one(settings: Mapping[str, Any]) -> PneumoniaNetwork:
    size, tta = settings["image_size"], settings.get("tta")
    network = PneumoniaNetwork(settings["backbone"], image_size=size, tta=tta)
    last = settings.get("channels_last") is not False
    return network.to(memory_format=torch.channels_last) if last else network


def _sampling_grids(views: list[View], side: int) -> Tensor:
    """Where each pixel of each view lies in the image, from -1 to 1: float32 [V, S, S, 2]."""
    matrices = torch.zeros(len(views), 2, 3)
    for matrix, view in zip(matrices, views, strict=True):
        angle, stretch = math.radians(view.degrees), math.exp(view.stretch / 2)
        rotation = torch.tensor(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        rotation[0] *= -1 if view.flip else 1
        matrix[:, :2] = rotation * torch.tensor([1 / stretch, stretch]) / view.zoom
    return affine_grid(matrices, [len(views), 1, side, side], align_corners=False)


def _check_download(backbone: str) -> dict[str, str]:
    """Refuse weights that are not available, since a failing download retries for 47 s.

    Returns what to lay over timm's pretrained configuration: the cached file, or nothing.
    """
    cfg = timm.get_pretrained_cfg(backbone)
    if cfg is None or not cfg.has_weights:
        raise ModelError(
            f"timm has no pretrained weights for model.backbone={backbone}; use"
            " model.pretrained=false, or model.weights=FILE with weights of your own."
        )
    reason = None
    url = cfg.url[0] if isinstance(cfg.url, tuple) else cfg.url
    if cfg.hf_hub_id:
        cached = try_to_load_from_cache(cfg.hf_hub_id, _HUB_FILE)
        if isinstance(cached, str):
            return {"file": cached}
        reason = connection_error(partial(_ask_hub, cfg.hf_hub_id))
    elif url and not (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).is_file():
        request = Request(url, method="HEAD")  # noqa: S310  the address is timm's own
        reason = connection_error(lambda: urlopen(request, timeout=ANSWER_WITHIN).close())  # noqa: S310
    if reason:
        raise _no_download(backbone, reason)
    return {}


def _load_weights(backbone: nn.Module, file: str) -> None:
    """Load all but the head; the RGB stem is summed over its channels."""
    cfg: dict[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]
    state = _read_weights(file)
    expected = backbone.state_dict()
    for stem in _as_tuple(cfg.get("first_conv")):
        kernel = state.get(f"{stem}.weight")
        if kernel is not None and kernel.ndim == _KERNEL_DIMS and kernel.shape[1] % 3 == 0:
            state[f"{stem}.weight"] = adapt_input_conv(1, kernel)
    heads = tuple(f"{head}." for head in _as_tuple(cfg.get("classifier")))
    state = {key: value for key, value in state.items() if not key.startswith(heads)}
    body = {key for key in expected if not key.startswith(heads)}
    wrong = sorted(
        key
        for key in body | state.keys()
        if key not in body or key not in state or expected[key].shape != state[key].shape
    )
    if wrong:
        raise ModelError(
            f"model.weights={file} does not fit {cfg['architecture']}: {len(wrong)} tensors are"
            f" missing, unknown or of another shape (first: {', '.join(wrong[:3])}); set"
            " model.backbone to the one that the file was trained with."
        )
    backbone.load_state_dict(state, strict=False)


def _read_weights(file: str) -> dict[str, Tensor]:
    if not Path(file).is_file():
        raise ModelError(f"model.weights={file} does not exist.")
    try:
        state = load_state_dict(file, use_ema=False, weights_only=True)
    except Exception as error:  # a file of another kind fails anywhere in the unpickler
        raise ModelError(
            f"model.weights={file} cannot be read as weights ({first_line(error)})."
        ) from error
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"model.weights={file} is not a flat dictionary of tensors.")
    return dict(state)


def _as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _ask_hub(repository: str) -> None:
    try:
        get_hf_file_metadata(hf_hub_url(repository, _HUB_FILE), timeout=ANSWER_WITHIN)
    except EntryNotFoundError:
        return  # the hub answers, and timm knows the file's other names


def _no_download(backbone: str, reason: str) -> ModelError:
    return ModelError(
        f"the pretrained weights of {backbone} cannot be downloaded ({reason}); use"
        " model.weights=FILE with a copy of them, or model.pretrained=false to train from"
        " scratch."
    )


def _pretrained_cfg(backbone: str) -> dict[str, Any]:
    if not timm.is_model(backbone):
        close = difflib.get_close_matches(backbone, timm.list_models(), 3)
        raise ModelError(
            f"model.backbone={backbone} is unknown to timm"
            + (f"; did you mean {' or '.join(close)}?" if close else "; see timm.list_models().")
        )
    try:
        cfg = timm.get_pretrained_cfg(backbone)
    except RuntimeError as error:
        known = timm.list_pretrained(f"{backbone.partition('.')[0]}.*")
        raise ModelError(
            f"model.backbone={backbone} has an unknown weights tag; timm knows"
            f" {', '.join(known) or 'none'}."
        ) from error
    return dict(vars(cfg)) if cfg is not None else {}
