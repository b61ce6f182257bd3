"""Random augmentation of training images, and the fixed changes of shifted validation sets."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import grid_sample

from pneumonia.errors import check_setting

Pixels = NDArray[np.uint8]

_MAX = {"degrees": 180.0, "shear": 45.0, "scale": 4.0, "ratio": 4.0}  # of the others it is 1

_NO_ALIASING = 0.9  # fraction of the pixels a side that bilinear sampling may leave out

# Normal noise is slow to draw: a window of this is taken instead.
_NOISE = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


@dataclass(frozen=True)
class Augmentation:
    """Random geometry, intensity and sharpness of a grey image, the same for the same seed.

    Values are drawn uniformly from their range; zoom, ratio, stretch, gamma and resolution
    log-uniformly. All geometry is one bilinear resampling, without aliasing; what lies outside of
    the image is black.

    Attributes:
        degrees: Largest rotation to either side, 0 to 180.
        translate: Largest shift, as a fraction of the side, 0 to 1.
        scale: Smallest and largest zoom, above 0.
        stretch: Largest absolute logarithm of the change in aspect ratio, 0 to 1.
        shear: Largest horizontal shear to either side, 0 to 45 degrees.
        area: Smallest and largest area of a random crop, as a fraction of the image, to 1.
        ratio: Smallest and largest width over height of the crop.
        horizontal_flip: Probability of a mirror image, 0 to 1. It mirrors the heart.
        brightness: Largest relative change of brightness, 0 to 1.
        contrast: Largest relative change of contrast, 0 to 1.
        gamma: Largest absolute logarithm of the exponent of the grey levels, 0 to 1.
        resolution: Smallest and largest resolution of the result, relative to that of its pixels,
            above 0, to 1.
        noise: Largest standard deviation of added noise, as a fraction of white, 0 to 1.
        jpeg: Probability of JPEG compression at a quality of 20 to 90, 0 to 1.

    Raises:
        ConfigError: If a value is out of range.
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: Sequence[float] = (1.0, 1.0)
    stretch: float = 0.0
    shear: float = 0.0
    area: Sequence[float] = (1.0, 1.0)
    ratio: Sequence[float] = (1.0, 1.0)
    horizontal_flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    resolution: Sequence[float] = (1.0, 1.0)
    noise: float = 0.0
    jpeg: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, bound = getattr(self, field.name), _MAX.get(field.name, 1.0)
            valid, expected = True, f"0 to {bound:g}"
            if isinstance(field.default, tuple):
                value = list(value)
                valid = len(value) == 2 and 0 < value[0] <= value[1] <= bound  # noqa: PLR2004
                expected = f"the smallest and the largest, above 0 and at most {bound:g}"
            else:
                valid = 0 <= value <= bound
            check_setting(valid, f"data.augmentation.{field.name}", value, expected)

    def __call__(self, image: Pixels, seed: int, size: int | None = None) -> Pixels:
        """Change one image.

        Args:
            image: uint8 [C, C], 0 black to 255 white; not changed.
            seed: 0 or more; the global random state is neither read nor changed.
            size: S, side of the result in pixels; None: that of the image.

        Returns:
            uint8 [S, S].
        """
        random = np.random.default_rng(seed)
        # Geometry and grey levels are drawn first, whatever the settings; one draw is spare.
        u = random.uniform(-1, 1, 17)
        source = Image.fromarray(image).point(_levels(image, u, self))
        matrix, offset = _geometry(u, self)
        size = size or source.width
        # How many source pixels lie between two pixels of the result.
        step = math.sqrt(abs(np.linalg.det(matrix))) * source.width / size
        kept = _between(u[10], self.resolution) / step
        if kept < _NO_ALIASING:
            side = max(8, round(kept * source.width))
            source = source.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=1.0)
        result = _warp(np.array(source), matrix, offset, size)
        if self.noise:
            result = _add_noise(result, self.noise * abs(u[11]), random)
        if random.random() < self.jpeg:
            result = _compress(result, int(random.integers(20, 91)))
        return result


def _between(u: float, bounds: Sequence[float]) -> float:
    """A number between two bounds, uniform in its logarithm, from one in [-1, 1]."""
    low, high = bounds
    return float(low * (high / low) ** ((u + 1) / 2))


def _levels(image: Pixels, u: NDArray[np.float64], a: Augmentation) -> list[int]:
    """The new grey level of each of the 256, by brightness, contrast and gamma."""
    levels: NDArray[np.float64] = np.arange(256) / 255
    if a.gamma:
        levels = levels ** math.exp(a.gamma * u[0])
    levels = levels * (1 + a.brightness * u[1])
    if a.contrast:
        mean = float(image[::4, ::4].mean()) / 255
        levels = mean + (levels - mean) * (1 + a.contrast * u[2])
    table: list[int] = np.rint(255 * levels.clip(0, 1)).astype(int).tolist()
    return table


def _geometry(
    u: NDArray[np.float64], a: Augmentation
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where a point of the result lies in the image, both from -1 to 1: matrix and offset."""
    angle, shear = math.radians(a.degrees) * u[3], math.tan(math.radians(a.shear) * u[4])
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    stretch = math.exp(a.stretch * u[5] / 2)
    zoom = _between(u[6], a.scale)
    flip = -1.0 if (u[7] + 1) / 2 < a.horizontal_flip else 1.0
    inner = np.array([[flip * stretch / zoom, shear], [0.0, 1 / (stretch * zoom)]])
    area = a.area[0] + (a.area[1] - a.area[0]) * (u[8] + 1) / 2
    ratio = _between(u[9], a.ratio)
    crop = np.array([math.sqrt(area * ratio), math.sqrt(area / ratio)]).clip(max=1)
    offset = 2 * a.translate * u[12:14] + (1 - crop) * u[14:16]
    return crop[:, None] * (rotation @ inner), offset


def _warp(
    image: Pixels, matrix: NDArray[np.float64], offset: NDArray[np.float64], side: int
) -> Pixels:
    """Resample an image bilinearly: 1.5 times as fast as Pillow's transform."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1
    grid = np.empty((1, side, side, 2), np.float32)
    for k in range(2):
        x, y = (matrix[k] * axis[:, None]).astype(np.float32).T
        np.add(x[None, :] + np.float32(offset[k]), y[:, None], out=grid[0, :, :, k])
    source = torch.from_numpy(image).float()[None, None]
    sampled = grid_sample(source, torch.from_numpy(grid), align_corners=False)
    pixels: Pixels = (sampled[0, 0] + 0.5).to(torch.uint8).numpy()
    return pixels


def _add_noise(pixels: Pixels, deviation: float, random: np.random.Generator) -> Pixels:
    if pixels.size < _NOISE.size:
        start = random.integers(_NOISE.size - pixels.size)
        noise = _NOISE[start : start + pixels.size].reshape(pixels.shape)
    else:
        noise = random.standard_normal(pixels.shape, dtype=np.float32)
    noisy: Pixels = (
        np.rint(pixels + np.float32(255 * deviation) * noise).clip(0, 255).astype(np.uint8)
    )
    return noisy


def _compress(pixels: Pixels, quality: int) -> Pixels:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality)
    return np.array(Image.open(content))


STRONG = Augmentation(
    degrees=15.0,
    translate=0.05,
    scale=(0.85, 1.15),
    stretch=0.2,
    shear=5.0,
    area=(0.4, 1.0),
    ratio=(0.8, 1.25),
    horizontal_flip=0.5,
    brightness=0.2,
    contrast=0.3,
    gamma=0.4,
    resolution=(0.4, 1.0),
    noise=0.02,
    jpeg=0.3,
)
"""The default in training, `conf/data/augmentation/strong.yaml`."""

VAL_SHIFT = Augmentation(
    degrees=15.0,
    translate=0.1,
    scale=(0.78, 1.28),
    stretch=0.25,
    resolution=(0.35, 1.0),
    noise=0.02,
)
"""First shifted validation set: pose, zoom, aspect ratio, sharpness, noise of another hospital."""


def scanner_shift(image: Pixels, seed: int) -> Pixels:
    """Second shifted validation set: kinds of change that the augmentation does not include.

    Perspective, a collimated border or a tighter crop, the tone curve of another scanner, and the
    black bars of a letterbox; each applied at random.

    Args:
        image: uint8 [S, S]; not changed.
        seed: 0 or more.

    Returns:
        uint8 [S, S].
    """
    random = np.random.default_rng(seed)
    side = image.shape[0]
    levels = _tone_curve(random) if random.random() < 0.7 else np.arange(256, dtype=np.uint8)  # noqa: PLR2004
    result = Image.fromarray(levels[image])
    if random.random() < 0.5:  # noqa: PLR2004
        corners = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
        corners = side * (corners + random.uniform(-0.1, 0.1, (4, 2)))
        quad = [float(value) for value in corners.ravel()]
        result = result.transform(
            (side, side), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR, fillcolor=0
        )
    kind = random.integers(4)
    left, top, right, bottom = (side * random.uniform(0, 0.1, 4)).round().astype(int)
    box = (left, top, side - right, side - bottom)
    if kind == 0:  # a collimated border
        framed = Image.new("L", (side, side))
        framed.paste(result.crop(box), (int(left), int(top)))
        result = framed
    elif kind == 1:  # a tighter crop
        result = result.resize((side, side), Image.Resampling.BILINEAR, box)
    elif kind == 2:  # noqa: PLR2004  a letterbox, wide or narrow
        inner = round(side * random.uniform(0.7, 0.95))
        wide = random.random() < 0.7  # noqa: PLR2004
        size = (side, inner) if wide else (inner, side)
        small = result.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        result = Image.new("L", (side, side))
        result.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.array(result, dtype=np.uint8)


def _tone_curve(random: np.random.Generator) -> NDArray[np.uint8]:
    """A monotone curve of grey levels: a blend of an S-shape, a shoulder and the identity."""
    x = np.arange(256) / 255
    middle, slope = random.uniform(0.35, 0.65), random.uniform(3, 8)
    s = 1 / (1 + np.exp(-slope * (x - middle)))
    s = (s - s[0]) / (s[-1] - s[0])
    shoulder = np.log1p(random.uniform(0.5, 6) * x)
    shoulder /= shoulder[-1]
    weights = random.dirichlet([1, 1, 1])
    curve = weights[0] * s + weights[1] * shoulder + weights[2] * x
    table: Pixels = np.rint(255 * curve).astype(np.uint8)
    return table
