"""Saliency maps of a network (Grad-CAM, integrated gradients), drawn over the image."""

import hashlib
import io
import os
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pneumonia.data.image_io import Preprocessing
from pneumonia.errors import ExtraError, ModelError, printable
from pneumonia.files import atomic_replace
from pneumonia.inference.torch_backend import TorchBackend
from pneumonia.inference.types import Backend, Prediction
from pneumonia.labels import CLASSES, PNEUMONIA
from pneumonia.model.network import Ensemble, PneumoniaNetwork

CAVEAT = (
    "A heat map is not evidence of reasoning: with the lungs masked, models trained on these X-rays"
    " still separate the classes far better than chance."
)
"""`pneumonia evaluate --probe` measures it for any checkpoint."""

GRAD_CAM, INTEGRATED_GRADIENTS = "Grad-CAM", "integrated gradients"

_FEATURE_MAP_NDIM = 4
_STEPS, _STEPS_AT_ONCE = 16, 4


class Saliency:
    """Computes heat maps of a network, which it does not change.

    Args:
        network: In evaluation mode; of an ensemble, the mean of its members' maps is computed.
        image_size: S, side of its input in pixels.

    Attributes:
        method: `GRAD_CAM` for networks with a feature map before the head,
            `INTEGRATED_GRADIENTS` (at the patch embeddings) for vision transformers.

    Raises:
        ExtraError: If captum is not installed.
        ModelError: If the architecture is neither of the two.
    """

    def __init__(self, network: PneumoniaNetwork | Ensemble, image_size: int) -> None:
        try:
            import captum.attr  # noqa: F401, PLC0415  an extra
        except ImportError as error:
            raise ExtraError("A heat map", "explain") from error
        self._image_size = image_size
        found = network.members if isinstance(network, Ensemble) else [network]
        members = cast(list[PneumoniaNetwork], list(found))
        self._networks = [(member, _patch_grid(member, image_size)) for member in members]
        methods = [INTEGRATED_GRADIENTS if grid else GRAD_CAM for _, grid in self._networks]
        self.method = " and ".join(dict.fromkeys(methods))

    def __call__(self, pixels: NDArray[np.uint8], label: int) -> NDArray[np.float32]:
        """Compute the heat map of one image.

        Args:
            pixels: uint8 [S, S], preprocessed.
            label: PNEUMONIA for what raises the logit, NORMAL for what lowers it.

        Returns:
            float32 [S, S], 0 to 1, relative to the maximum of this image; all 0 if nothing in it
            supports the label.
        """
        maps = [self._heat(*pair, pixels, label) for pair in self._networks]
        return _relative(np.mean(maps, 0))

    def _heat(
        self,
        network: PneumoniaNetwork,
        grid: tuple[int, int] | None,
        pixels: NDArray[np.uint8],
        label: int,
    ) -> NDArray[np.float32]:
        device, sign = network.device, 1 if label == PNEUMONIA else -1
        # Lightning validates in inference mode, where nothing can have a gradient.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            images = torch.from_numpy(pixels.copy())[None, None].to(device).float()
            if grid is None:
                evidence = _grad_cam(network, images, sign)
            else:
                evidence = _integrated_gradients(network, images, sign).reshape(1, 1, *grid)
            resized = nn.functional.interpolate(
                evidence.relu().float(), (self._image_size,) * 2, mode="bilinear"
            )
        return _relative(resized[0, 0].detach().cpu().numpy())


def _relative(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    maximum = float(heat.max())
    return heat / maximum if np.isfinite(maximum) and maximum > 0 else np.zeros_like(heat)


def _grad_cam(network: PneumoniaNetwork, images: Tensor, sign: int) -> Tensor:
    from captum.attr import LayerGradCam  # noqa: PLC0415  an extra

    backbone: Any = network.backbone
    channels_last = _is_channels_last(backbone)
    layer = nn.Identity()  # holds the feature map, channels first, for captum

    def score(images: Tensor) -> Tensor:
        features = backbone.forward_features(network.normalise(images))
        features = layer(features.permute(0, 3, 1, 2) if channels_last else features)
        features = features.permute(0, 2, 3, 1) if channels_last else features
        logits: Tensor = backbone.forward_head(features).squeeze(1)
        return sign * logits

    evidence: Tensor = LayerGradCam(score, layer).attribute(images)
    return evidence


def _integrated_gradients(network: PneumoniaNetwork, images: Tensor, sign: int) -> Tensor:
    from captum.attr import LayerIntegratedGradients  # noqa: PLC0415  an extra

    backbone: Any = network.backbone
    method = LayerIntegratedGradients(
        lambda images: sign * network.single_view(images), backbone.patch_embed
    )
    baseline = torch.full_like(images, float(images.mean()))
    evidence: Tensor = method.attribute(
        images, baseline, n_steps=_STEPS, internal_batch_size=_STEPS_AT_ONCE
    )
    return evidence.sum(-1)


def _is_channels_last(backbone: Any) -> bool:
    return str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")


def _patch_grid(network: PneumoniaNetwork, image_size: int) -> tuple[int, int] | None:
    """Rows and columns of the patches; None for an architecture with a feature map instead."""
    backbone: Any = network.backbone
    with torch.no_grad():
        images = network.normalise(torch.zeros(1, 1, image_size, image_size, device=network.device))
        features = backbone.forward_features(images)
        embed = getattr(backbone, "patch_embed", None)
        tokens = embed(images) if isinstance(embed, nn.Module) else None
    if isinstance(features, Tensor) and features.ndim == _FEATURE_MAP_NDIM:
        if features.shape[3 if _is_channels_last(backbone) else 1] == backbone.num_features:
            return None
    elif isinstance(tokens, Tensor) and tokens.shape[-1] == getattr(backbone, "embed_dim", None):
        if tokens.ndim == _FEATURE_MAP_NDIM:
            return tokens.shape[1], tokens.shape[2]
        rows, columns = getattr(embed, "grid_size", None) or (0, 0)
        if tokens.shape[1] == rows * columns:
            return rows, columns
    name = backbone.pretrained_cfg.get("architecture") or type(backbone).__name__
    raise ModelError(
        f"The architecture {name} has neither a feature map before its head nor a grid of patch"
        " embeddings, so no heat map can be computed; use a convolutional network or a vision"
        " transformer."
    )


_INFERNO = colormaps["inferno"](np.linspace(0, 1, 256))
_INFERNO[:, 3] = np.linspace(0, 0.6, 256)
_HEAT_COLORS = ListedColormap(_INFERNO)  # the hotter, the more opaque; NaN is transparent


def overlay_heat_map(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blend a heat map, float [H, W], 0 to 1 or NaN, over a grey image, uint8 [H, W].

    Returns:
        RGB, uint8 [H, W, 3].
    """
    colors = _HEAT_COLORS(heat)
    opacity = colors[..., 3:]
    blended = image[..., None] * (1 - opacity) + 255 * colors[..., :3] * opacity
    return np.asarray(blended.astype(np.uint8))


_MAX_SIDE = 1024
"""Pixels of the longer side of an explanation; the map holds no finer detail."""
_WIDTH, _LINE_HEIGHT, _MARGIN = 12.0, 0.22, 0.7  # inches
_HEADER_CHARACTERS, _FOOTER_CHARACTERS, _NAME_CHARACTERS = 110, 150, 70


@dataclass(frozen=True, eq=False)
class Explanation:
    """An image, its prediction and the heat map of the evidence for the predicted class.

    Attributes:
        prediction: Of the image.
        image: The original, grey uint8 [H, W] in its own aspect ratio, at most 1024 a side.
        heat: float32 [H, W], as of `Saliency`; NaN where the network saw nothing, as it crops.
        method: `Saliency.method`.
    """

    prediction: Prediction
    image: NDArray[np.uint8]
    heat: NDArray[np.float32]
    method: str

    def overlay(self) -> NDArray[np.uint8]:
        """The image under its heat map: RGB, uint8 [H, W, 3]."""
        return overlay_heat_map(self.image, self.heat)

    def draw(self) -> Figure:
        """Draw the original beside the heat map, with colour bar, prediction and caveat."""
        header, footer = _header(self.prediction), _footer(self.heat)
        height, width = self.image.shape
        inches = float(np.clip(_WIDTH / 2.5 * height / width, 2.5, 9.0))
        inches += _MARGIN + _LINE_HEIGHT * (len(header) + len(footer))
        figure = Figure((_WIDTH, inches), layout="constrained")
        original, overlay = figure.subplots(1, 2)
        original.imshow(self.image, cmap="gray", vmin=0, vmax=255)
        original.set_title("Image", fontsize=10)
        overlay.imshow(self.overlay())
        title = f"Evidence for {self.prediction.predicted_class} ({self.method})"
        overlay.set_title(title, fontsize=10)
        for axes in (original, overlay):
            axes.set_axis_off()
        scale = ScalarMappable(Normalize(0, 1), _HEAT_COLORS)
        label = "relative to this image's maximum"
        bar = figure.colorbar(scale, ax=[original, overlay], label=label)
        bar.ax.set_facecolor("gray")  # as the map looks over a grey image
        figure.suptitle("\n".join(header), fontsize=12, parse_math=False)
        figure.supxlabel("\n".join(footer), fontsize=9)
        return figure

    def to_png(self) -> bytes:
        """The drawing, as the content of a PNG file."""
        buffer = io.BytesIO()
        self.draw().savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the drawing to a `.png` file, completely or not at all; missing folders are made.

        Raises:
            OSError: If it cannot be written.
        """
        with atomic_replace(path) as partial:
            partial.write_bytes(self.to_png())


def _header(prediction: Prediction) -> list[str]:
    warnings = [*(["uncertain"] if prediction.uncertain else []), *prediction.warnings]
    return [
        printable(PurePath(prediction.path).name)[-_NAME_CHARACTERS:],
        f"predicted as {prediction.predicted_class}, probability {prediction.probability:.3f}",
        *(["OUT OF DISTRIBUTION: do not use this prediction"] if prediction.is_ood else []),
        *textwrap.wrap("; ".join(warnings), _HEADER_CHARACTERS),
    ]


def _footer(heat: NDArray[np.float32]) -> list[str]:
    notes = []
    if np.isnan(heat).any():
        notes.append("The preprocessing crops: the network saw only the central square.")
    if not np.nan_to_num(heat).any():
        notes.append("Nothing in the image supports the predicted class, so nothing is marked.")
    notes += [CAVEAT, "Not a medical device."]
    return [line for note in notes for line in textwrap.wrap(note, _FOOTER_CHARACTERS)]


def explain(
    backend: Backend, preprocessing: Preprocessing, image: Image.Image, prediction: Prediction
) -> Explanation:
    """Compute the heat map of one decoded image; see `Predictor.explain`."""
    saliency = load_saliency(backend, preprocessing.image_size)
    heat = saliency(preprocessing(image), CLASSES.index(prediction.predicted_class))
    small = image.copy()
    small.thumbnail((_MAX_SIDE, _MAX_SIDE))
    heat = undo_resize(heat, small.size, preprocessing)
    return Explanation(prediction, np.asarray(small), heat, saliency.method)


_cached = lru_cache(maxsize=1)(Saliency)


def load_saliency(backend: Backend, image_size: int) -> Saliency:
    """Make the `Saliency` of a model, once.

    Raises:
        ExtraError: If captum is not installed.
        ModelError: If the model is an exported one, or its architecture has no heat maps.
    """
    if not isinstance(backend, TorchBackend):
        raise ModelError("An exported model has no gradients for heat maps; use its checkpoint.")
    return _cached(backend.network, image_size)


def undo_resize(
    heat: NDArray[np.float32], size: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """Map a heat map of the network's input back onto the original image of this width and height.

    float32 [S, S] -> float32 [H, W], NaN where the network saw nothing.
    """
    width, height = size
    shorter, longer = min(size), max(size)
    square = Image.fromarray(heat)
    if preprocessing.resize_mode == "crop":
        left, top = (width - shorter) // 2, (height - shorter) // 2
        whole = np.full((height, width), np.nan, np.float32)
        inside = square.resize((shorter, shorter), Image.Resampling.BILINEAR)
        whole[top : top + shorter, left : left + shorter] = np.asarray(inside)
        return whole
    side = heat.shape[0]
    box: tuple[float, float, float, float] = (0, 0, side, side)
    if preprocessing.resize_mode == "pad":
        edge = side * (1 - shorter / longer) / 2
        box = (0, edge, side, side - edge) if width > height else (edge, 0, side - edge, side)
    return np.asarray(square.resize(size, Image.Resampling.BILINEAR, box=box))


def picture_name(path: str) -> str:
    """Name the picture of a file: its stem, and a digest of its path as stems may repeat."""
    stem = "".join(c if c.isalnum() or c in "-_.() " else "_" for c in Path(path).stem)
    stem = (stem.lstrip(".") or "image").encode("utf-8", "replace").decode()[:48]
    return f"{stem}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}.png"
