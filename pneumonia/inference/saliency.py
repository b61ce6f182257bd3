"""Where in an image a network's answer comes from: Grad-CAM.

Selvaraju et al., ICCV 2017, section 3: the maps of one layer, weighted by their mean gradients,
summed, and what is below 0 cut off. A heat map is no evidence of reasoning: classifiers of chest
X-rays keep their figures with the lungs blacked out, and maps of an untrained network can look as
sensible (Adebayo et al., NeurIPS 2018).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pneumonia.errors import ExtraError, ModelError
from pneumonia.labels import PNEUMONIA
from pneumonia.model.network import PneumoniaNetwork

_MAP, _TOKENS = 4, 3
"""Dimensions of a batch of maps, and of a batch of tokens."""


class Saliency:
    """Draws heat maps of a network, which it leaves as it is.

    Taken where the last stage of a convolutional network (or of one whose stages keep their
    places, as Swin's do) hands its maps to the head. Of a vision transformer of timm that is
    where the last block's attention begins: behind it, a head that reads the class token leaves
    the patches without a gradient.

    Args:
        network: In evaluation mode whenever it is asked.
        image_size: S, side of its input in pixels.

    Raises:
        ExtraError: If captum is not installed.
        ModelError: If the architecture keeps no places up to its head.
    """

    def __init__(self, network: PneumoniaNetwork, image_size: int) -> None:
        try:
            from captum.attr import LayerGradCam  # noqa: PLC0415  an extra
        except ImportError as error:
            raise ExtraError("A heat map", "explain") from error
        self._network, self._size = network, image_size
        self._probed = _probed(network, image_size)
        self._grad_cam = LayerGradCam(self._probed, self._probed.probe)

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
            images = torch.from_numpy(pixels.copy())[None, None].to(device)
            self._probed.sign = 1 if label == PNEUMONIA else -1
            raw = self._grad_cam.attribute(images, target=0, relu_attributions=True)
            side = (self._size, self._size)
            smooth = nn.functional.interpolate(raw.float(), side, mode="bilinear")
        heat: NDArray[np.float32] = smooth[0, 0].detach().cpu().numpy().astype(np.float32)
        most = float(heat.max())
        return heat / most if np.isfinite(most) and most > 0 else np.zeros_like(heat)


class _Probed(nn.Module):
    """The network, with a place where captum can look: [N, C, H, W] pass through `probe`."""

    def __init__(self, network: PneumoniaNetwork) -> None:
        super().__init__()
        self.network = [network]  # not a submodule: nothing of it is to be moved or switched
        self.probe = nn.Identity()
        self.sign = 1


class _Maps(_Probed):
    def __init__(self, network: PneumoniaNetwork, channels_last: bool) -> None:
        super().__init__(network)
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        backbone: Any = self.network[0].backbone
        maps = backbone.forward_features(self.network[0].normalise(images))
        maps = self.probe(maps.permute(0, 3, 1, 2) if self.channels_last else maps)
        logits: Tensor = backbone.forward_head(
            maps.permute(0, 2, 3, 1) if self.channels_last else maps
        )
        signed: Tensor = self.sign * logits
        return signed


class _Patches(_Probed):
    def forward(self, images: Tensor) -> Tensor:
        backbone: Any = self.network[0].backbone
        norm = backbone.blocks[-1].norm1
        handle = norm.register_forward_hook(self._look)
        try:
            logits: Tensor = self.network[0](images)
            return self.sign * logits.unsqueeze(1)
        finally:
            handle.remove()

    def _look(self, module: nn.Module, inputs: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
        backbone: Any = self.network[0].backbone
        first = int(backbone.num_prefix_tokens)
        rows, columns = backbone.patch_embed.grid_size
        prefix, patches = tokens[:, :first], tokens[:, first:]
        maps = self.probe(patches.transpose(1, 2).reshape(len(patches), -1, rows, columns))
        return torch.cat([prefix, maps.flatten(2).transpose(1, 2)], 1)


def _probed(network: PneumoniaNetwork, image_size: int) -> _Maps | _Patches:
    backbone: Any = network.backbone
    blank = torch.zeros(1, 1, image_size, image_size, device=network.scale.device)
    was_training = network.training
    network.eval()
    with torch.no_grad():
        features = backbone.forward_features(network.normalise(blank))
    network.train(was_training)
    if isinstance(features, Tensor) and features.ndim == _MAP:
        channels = getattr(backbone, "num_features", None)
        channels_last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")
        if features.shape[3 if channels_last else 1] == channels:
            return _Maps(network, channels_last)
    elif isinstance(backbone, VisionTransformer):
        patches = features.shape[1] - backbone.num_prefix_tokens
        if features.ndim == _TOKENS and patches == backbone.patch_embed.num_patches:
            return _Patches(network)
    name = backbone.pretrained_cfg.get("architecture") or type(backbone).__name__
    raise ModelError(
        f"The architecture {name} hands no map of places to its head, so that a heat map of it"
        " would mean nothing; explain a convolutional network or a vision transformer."
    )
