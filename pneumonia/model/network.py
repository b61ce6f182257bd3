"""Grey pixels -> one logit: a timm backbone with its pixel normalisation inside."""

import difflib
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from pneumonia.errors import ModelError
from pneumonia.model.pretrained import hub_overlay, load_weights, no_download


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
            options["pretrained_cfg_overlay"] = hub_overlay(backbone)
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
