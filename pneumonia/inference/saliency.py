"""Where in an image a network's answer comes from.

- A network that hands maps of places to its head (convolutional ones, and those whose stages keep
  their places, as Swin's do): Grad-CAM at these maps (Selvaraju et al., ICCV 2017, section 3: the
  maps, weighted by their mean gradients, summed, and what is below 0 cut off).
- A vision transformer: integrated gradients (Sundararajan et al., ICML 2017, section 3) at its
  patch embeddings, from a flat image of the same mean grey to the image, summed over channels, and
  what is below 0 cut off. There alone every token still is its own place: later ones have taken
  from each other, and a class token may have read the evidence in any block.

How often the hottest place lay on the evidence, within half a patch: class-token and average-pooled
transformers (6 blocks, patches of 16) that had learnt to find a bright disc at a random place of
textured noise of 96 pixels; about 100 images for each, 9% by chance:

    transformer, AUROC                       class token          average
                                          0.99  1.00  0.91      1.00  1.00
    Grad-CAM at the first block's norm1   0.39  0.48  0.68      0.23  0.34
    Grad-CAM at the last block's norm1    0.54  0.58  0.34      0.83  0.65
    Grad-CAM summed over all blocks       0.76  0.73  0.45      0.86  0.54
    gradients x embeddings                0.75  0.72  0.65      0.82  0.68
    weighted attention (Chefer et al.)    0.98  0.92  0.91      0.94  0.83
    integrated gradients at the patches   0.93  0.97  0.97      0.93  0.98

4 to 48 steps of integration gave the same to 0.06. Grad-CAM of a ResNet-10 (AUROC 1.00), whose last
maps are 3 x 3 there: 0.72 within half a cell, 19% by chance. What a network never learnt has no
place: a transformer of AUROC 0.59 scored 0.19.

A heat map is no evidence of reasoning: see `pneumonia.inference.caveat`; and maps of an untrained
network can look as sensible (Adebayo et al., NeurIPS 2018).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pneumonia.errors import ExtraError, ModelError
from pneumonia.labels import PNEUMONIA
from pneumonia.model.network import PneumoniaNetwork

GRAD_CAM, INTEGRATED = "Grad-CAM", "integrated gradients"

_MAP = 4
"""Dimensions of a batch of maps."""
_STEPS, _AT_ONCE = 16, 4
"""Points on the way from the flat image to the image, and how many are in memory at once."""


class Saliency:
    """Draws heat maps of a network, which it leaves as it is.

    Args:
        network: In evaluation mode whenever it is asked.
        image_size: S, side of its input in pixels.

    Attributes:
        method: What the maps are, in words: `GRAD_CAM` or `INTEGRATED`.

    Raises:
        ExtraError: If captum is not installed.
        ModelError: If the architecture is not known to give a map that lies on its places.
    """

    def __init__(self, network: PneumoniaNetwork, image_size: int) -> None:
        try:
            import captum.attr  # noqa: F401, PLC0415  an extra
        except ImportError as error:
            raise ExtraError("A heat map", "explain") from error
        self._network, self._size = network, image_size
        self._places = _places(network, image_size)
        self.method = self._places.method

    def __call__(self, pixels: NDArray[np.uint8], label: int) -> NDArray[np.float32]:
        """Draw one image's map.

        Args:
            pixels: uint8 [S, S], as the network sees it.
            label: PNEUMONIA for what raises the logit, NORMAL for what lowers it.

        Returns:
            float32 [S, S], 0 to 1: the share of the strongest place in this very image, so that
            maps of two images cannot be compared. All 0 where no place speaks for the label.
        """
        # Lightning validates in inference mode, where nothing can have a gradient.
        device = self._network.scale.device
        full_precision = torch.autocast(device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), full_precision:
            images = torch.from_numpy(pixels.copy())[None, None].to(device).float()
            raw = self._places(images, 1 if label == PNEUMONIA else -1).relu()
            side = (self._size, self._size)
            smooth = nn.functional.interpolate(raw.float(), side, mode="bilinear")
        heat: NDArray[np.float32] = smooth[0, 0].detach().cpu().numpy().astype(np.float32)
        most = float(heat.max())
        return heat / most if np.isfinite(most) and most > 0 else np.zeros_like(heat)


class _Maps:
    """Grad-CAM where maps [N, C, H, W], or [N, H, W, C], are handed to the head."""

    method = GRAD_CAM

    def __init__(self, network: PneumoniaNetwork, channels_last: bool) -> None:
        self._network, self._channels_last = network, channels_last
        self._handed_over = nn.Identity()  # where captum looks

    def __call__(self, images: Tensor, sign: int) -> Tensor:
        from captum.attr import LayerGradCam  # noqa: PLC0415  an extra

        grad_cam = LayerGradCam(lambda x: sign * self._logits(x), self._handed_over)
        heat: Tensor = grad_cam.attribute(images)
        return heat

    def _logits(self, images: Tensor) -> Tensor:
        backbone: Any = self._network.backbone
        maps = backbone.forward_features(self._network.normalise(images))
        maps = self._handed_over(maps.permute(0, 3, 1, 2) if self._channels_last else maps)
        logits: Tensor = backbone.forward_head(
            maps.permute(0, 2, 3, 1) if self._channels_last else maps
        )
        return logits.squeeze(1)


class _Patches:
    """Integrated gradients at the patch embeddings, [N, rows * columns, C] or [N, rows, ..., C]."""

    method = INTEGRATED

    def __init__(self, network: PneumoniaNetwork, grid: tuple[int, int]) -> None:
        self._network, self._grid = network, grid

    def __call__(self, images: Tensor, sign: int) -> Tensor:
        from captum.attr import LayerIntegratedGradients  # noqa: PLC0415  an extra

        backbone: Any = self._network.backbone
        integrated = LayerIntegratedGradients(
            lambda x: sign * self._network(x), backbone.patch_embed
        )
        flat = torch.full_like(images, float(images.mean()))
        shares: Tensor = integrated.attribute(
            images, flat, n_steps=_STEPS, internal_batch_size=_AT_ONCE
        )
        return shares.sum(-1).reshape(1, 1, *self._grid)


def _places(network: PneumoniaNetwork, image_size: int) -> _Maps | _Patches:
    """Find out, by a blank image, where the architecture keeps its places."""
    backbone: Any = network.backbone
    blank = torch.zeros(1, 1, image_size, image_size, device=network.scale.device)
    embed, embedded = getattr(backbone, "patch_embed", None), []
    hook = None
    if isinstance(embed, nn.Module):
        hook = embed.register_forward_hook(lambda module, inputs, out: embedded.append(out))
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            features = backbone.forward_features(network.normalise(blank))
    finally:
        network.train(was_training)
        if hook is not None:
            hook.remove()
    if isinstance(features, Tensor) and features.ndim == _MAP:
        channels_last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")
        if features.shape[3 if channels_last else 1] == backbone.num_features:
            return _Maps(network, channels_last)
    elif len(embedded) == 1 and (grid := _grid(backbone, embedded[0])) is not None:
        return _Patches(network, grid)
    name = backbone.pretrained_cfg.get("architecture") or type(backbone).__name__
    raise ModelError(
        f"The architecture {name} hands no map of places to its head and embeds no grid of"
        " patches, so that a heat map of it could lie anywhere; explain a convolutional network or"
        " a vision transformer."
    )


def _grid(backbone: Any, tokens: object) -> tuple[int, int] | None:
    """The rows and columns of embedded patches; None if they do not lie in a known grid."""
    if not isinstance(tokens, Tensor) or tokens.shape[-1] != getattr(backbone, "embed_dim", None):
        return None
    if tokens.ndim == _MAP:
        return tokens.shape[1], tokens.shape[2]
    rows, columns = getattr(backbone.patch_embed, "grid_size", None) or (0, 0)
    return (rows, columns) if tokens.shape[1] == rows * columns else None
