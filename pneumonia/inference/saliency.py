"""Heat maps of what a model answered, laid over the images they belong to."""

import hashlib
import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pneumonia.data.image_io import Preprocessing
from pneumonia.errors import ConfigError, ExtraError, ModelError
from pneumonia.inference.image_loading import Source, decode, display_name, preprocess_image
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.torch_backend import TorchBackend
from pneumonia.inference.types import FailedPrediction, Prediction
from pneumonia.labels import CLASSES, PNEUMONIA
from pneumonia.model.network import PneumoniaNetwork

CAVEAT = (
    "A heat map is no evidence of reasoning: with the lungs blacked out, models of these X-rays"
    " still tell the classes apart far better than chance."
)
"""DenseNets trained on this data set have kept an AUROC of 0.95 to 0.97 so, and an
EfficientNet-Lite0 of this package 0.87 of 0.997; `pneumonia evaluate --probe` measures any other.
"""


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


_OVERLAY_MAP = "inferno"  # rises in lightness, so that it reads without colours too
_OPACITY = 0.6
_WIDTH = 12.0
_LINE, _ROOM = 0.22, 0.7
"""Inches for each line of words above and below, and for the titles and the space between."""
_ABOVE, _BELOW = 110, 150
"""Characters that fit beside each other there."""


def overlay_heat_map(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay a heat map over a grey image: the hotter, the more opaque.

    Args:
        image: uint8 [H, W].
        heat: float [H, W], 0 to 1, or NaN for none.

    Returns:
        uint8 [H, W, 3], red, green, blue.
    """
    strength = np.nan_to_num(heat)[..., None]
    colours = colormaps[_OVERLAY_MAP](np.nan_to_num(heat))[..., :3] * 255
    opacity = _OPACITY * strength
    return np.asarray(image[..., None] * (1 - opacity) + colours * opacity).astype(np.uint8)


def draw(
    prediction: Prediction, image: NDArray[np.uint8], heat: NDArray[np.float32], method: str
) -> Figure:
    """Draw an explanation.

    Args:
        prediction: What the model says.
        image: uint8 [H, W].
        heat: float [H, W], 0 to 1, or NaN where the model saw nothing.
        method: How the heat was found, in words.
    """
    above, below = _headline(prediction), _notes(heat)
    height = float(np.clip(_WIDTH / 2.3 * image.shape[0] / image.shape[1], 2.5, 9.0))
    words = _ROOM + _LINE * (len(above) + len(below))
    figure = Figure((_WIDTH, height + words), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.set_axis_off()
    left.imshow(image, cmap="gray", vmin=0, vmax=255)
    left.set_title("As read", fontsize=10)
    right.imshow(overlay_heat_map(image, heat))
    right.set_title(f"Evidence for {prediction.decision} ({method})", fontsize=10)
    _scale(right)
    figure.suptitle("\n".join(above), fontsize=12, parse_math=False)
    figure.supxlabel("\n".join(below), fontsize=9)
    return figure


def _scale(beside: Axes) -> None:
    """Show what a value looks like in the picture, where that is black to where it is white."""
    bar = beside.inset_axes((1.03, 0.0, 0.06, 1.0))
    grey = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    value = np.linspace(0, 1, 256, dtype=np.float32)[:, None].repeat(256, 1)
    bar.imshow(overlay_heat_map(grey, value), origin="lower", extent=(0, 1, 0, 1), aspect="auto")
    bar.set_xticks([0, 1], ["over\nblack", "over\nwhite"], fontsize=7)
    bar.set_yticks([0, 0.5, 1])
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    bar.set_ylabel("share of the strongest place in this image", fontsize=9)


def _headline(prediction: Prediction) -> list[str]:
    name = PurePath(prediction.path).name.encode(errors="replace").decode()
    shown = "".join(c if c.isprintable() else "?" for c in name)
    shown = shown if len(shown) <= 70 else f"{shown[:34]}…{shown[-34:]}"  # noqa: PLR2004 - fits
    doubts = [*(["uncertain"] if prediction.uncertain else []), *prediction.warnings]
    return [
        shown,
        f"probability of PNEUMONIA {prediction.probability:.3f}, called {prediction.decision}",
        *(["UNLIKE THE TRAINING DATA: do not use"] if prediction.unlike else []),
        *textwrap.wrap("; ".join(doubts), _ABOVE),
    ]


def _notes(heat: NDArray[np.float32]) -> list[str]:
    notes = []
    if np.isnan(heat).any():
        notes.append("The model crops: it saw nothing of what lies beyond the middle square.")
    if not np.nan_to_num(heat).any():
        notes.append("No place in the image speaks for this decision, so nothing is marked.")
    notes += [CAVEAT, "Not a medical device."]
    return [line for note in notes for line in textwrap.wrap(note, _BELOW)]


_SIDE = 1024
"""Pixels of the longer side of an explanation; more would show nothing more of the map."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in an image the evidence for the model's decision lies.

    Attributes:
        prediction: What the model says.
        image: The original, grey uint8 [H, W] in its own shape, at most 1024 a side.
        heat: float32 [H, W], 0 to 1: evidence for the decision made, as a share of the strongest
            place in this very image. All 0 if no place speaks for it; NaN where the model saw
            nothing, as it crops.
        method: How the heat was found, in words.
    """

    prediction: Prediction
    image: NDArray[np.uint8]
    heat: NDArray[np.float32]
    method: str

    def save(self, path: str | Path) -> None:
        """Draw the original beside the heat map, whole or not at all.

        Args:
            path: The picture, `.png`.

        Raises:
            ConfigError: If it cannot be written.
        """
        target = Path(path)
        partial = target.with_name(f".{os.getpid()}.partial")  # the name itself may be at its limit
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            figure = draw(self.prediction, self.image, self.heat, self.method)
            figure.savefig(partial, format="png", dpi=100)
            partial.replace(target)
        except OSError as error:
            raise ConfigError(
                f"{target} cannot be written ({error.strerror or error}); choose another folder."
            ) from error
        finally:
            partial.unlink(missing_ok=True)


def explain(
    predictor: Predictor, source: Source, prediction: Prediction | None = None
) -> Explanation:
    """Draw the heat map of one image; see `Predictor.explain`.

    Args:
        predictor: The model.
        source: The image.
        prediction: What the model says of it, if it was asked already.

    Raises:
        DataError: If the image cannot be read.
        ExtraError: If captum is not installed.
        ModelError: If the model cannot be explained.
    """
    saliency = _saliency(predictor)
    preprocessing = predictor.classifier.preprocessing
    whole = decode(source, display_name(source))
    seen = preprocess_image(whole, preprocessing, display_name(source))
    if prediction is None:
        (prediction,) = predictor.judge([seen])
    heat = saliency(seen.pixels, CLASSES.index(prediction.decision))
    whole.thumbnail((_SIDE, _SIDE))
    back = lay_back(heat, whole.size, preprocessing)
    return Explanation(prediction, np.asarray(whole), back, saliency.method)


def lay_back(
    heat: NDArray[np.float32], size: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """Lay a map of the network's square over the original: undo the fit.

    Args:
        heat: float32 [S, S].
        size: Width and height of the original.
        preprocessing: Of the model.

    Returns:
        float32 [H, W]; NaN where the square does not reach.
    """
    width, height = size
    side = heat.shape[0]
    square = Image.fromarray(heat)
    box: tuple[float, float, float, float] = (0, 0, side, side)
    if preprocessing.resize_mode == "pad":
        inner = side * min(width / height, height / width)
        edge = (side - inner) / 2
        box = (0, edge, side, side - edge) if width > height else (edge, 0, side - edge, side)
    if preprocessing.resize_mode != "crop":
        return np.asarray(square.resize(size, Image.Resampling.BILINEAR, box=box))
    least = min(width, height)
    left, top = (width - least) // 2, (height - least) // 2
    whole = np.full((height, width), np.nan, np.float32)
    inside = square.resize((least, least), Image.Resampling.BILINEAR)
    whole[top : top + least, left : left + least] = np.asarray(inside)
    return whole


class HeatMaps:
    """A folder of explanations, one picture for each answer.

    Args:
        predictor: The model.
        folder: Where the pictures go; made if missing.
        paths: All files, those of other jobs that draw into this folder too: their stems name the
            pictures, with a digest of the path where two files share one.

    Raises:
        ModelError: If the model cannot be explained.
        ExtraError: If captum is not installed.
        ConfigError: If the folder cannot be written to.
    """

    def __init__(self, predictor: Predictor, folder: str | Path, paths: Sequence[str]) -> None:
        _saliency(predictor)
        self._predictor, self._folder = predictor, Path(folder)
        self._stems = Counter(_stem(path).lower() for path in paths)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            probe = self._folder / f".{os.getpid()}.probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be written to ({error.strerror}); name another folder."
            ) from error

    def write(self, results: Sequence[Prediction | FailedPrediction]) -> None:
        """Draw what was answered.

        Args:
            results: Of the files; a failure has no picture.

        Raises:
            ConfigError: If a picture cannot be written.
        """
        for result in results:
            if isinstance(result, Prediction):
                explanation = explain(self._predictor, result.path, result)
                explanation.save(self.picture(result.path))

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Name the files that have no picture.

        Args:
            paths: Some of the files.
        """
        return [path for path in paths if not self.picture(path).exists()]

    def picture(self, path: str) -> Path:
        """Say where the picture of a file goes.

        Args:
            path: One of the files.
        """
        return self._folder / self._name(path)

    def _name(self, path: str) -> str:
        stem = _stem(path)
        if self._stems[stem.lower()] > 1:  # some disks know no case
            digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
            stem = f"{stem}-{digest}"
        return f"{stem}.png"


def _stem(path: str) -> str:
    """A file's name without its suffix, as a name that any disk takes."""
    stem = Path(path).stem
    safe = "".join(c if c.isalnum() or c in "-_.() " else "_" for c in stem).lstrip(".") or "image"
    return safe.encode("utf-8", "replace").decode()[:80]


@lru_cache(maxsize=1)
def _saliency(predictor: Predictor) -> Saliency:
    engine = predictor.classifier.engine
    if not isinstance(engine, TorchBackend):
        raise ModelError("An exported model gives no heat maps; they need its checkpoint.")
    return Saliency(engine.network, predictor.classifier.preprocessing.image_size)
