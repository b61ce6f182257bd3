"""What of an image can show that it is no chest X-ray: its layout, and its texture."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

SIDE = 64
"""Every image is averaged to this side first: finer detail is more of the scanner and the JPEG
than of the patient."""

_LAYOUT = 8
LAYOUT_SIZE = _LAYOUT**2
TEXTURE_SIZE = 9
"""Numbers in each of the two vectors."""

_FAINT = 8.0
"""Grey levels of contrast that count as none, so that a blank image does not become noise."""

_DEGREES = 5.0
_SHIFT = 0.03
_ZOOM = 1.06

_BATCH = 256


class Appearance(nn.Module):
    """Square grey pixels -> two short vectors.

    *Layout* is an 8 x 8 thumbnail less its mean over its contrast: where it is bright and where
    dark. It keeps the places, which features pooled over the image lose, so that an image on
    its side is another image; and it does not change with brightness and contrast, so that
    exposure is none.

    *Texture* is how rough the image is, at four scales (64, 32, 16 and 8 pixels a side) and
    across as well as down: the mean square root of the steps between neighbours, which a few
    hard edges (a black border, a marker) hardly move; and its contrast.

    In double precision: what is left of a faint image when its mean is taken away would hold
    rounding, and another library would round otherwise.

    Args:
        image_size: S, side of the images in pixels.
    """

    averaging: Tensor

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.register_buffer("averaging", _averaging(image_size, SIDE), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both vectors of each image.

        Args:
            images: uint8 [N, 1, S, S].

        Returns:
            The layout, float64 [N, 64], and the texture, float64 [N, 9].
        """
        small = self.shrink(images)
        return layout(small), texture(small)

    def shrink(self, images: Tensor) -> Tensor:
        """Average images to 64 pixels a side.

        Args:
            images: uint8 [N, 1, S, S].

        Returns:
            float64 [N, 1, 64, 64], 0 to 255.
        """
        # Two products, since adaptive pooling exports for whole ratios only.
        return self.averaging @ images.to(self.averaging.dtype) @ self.averaging.T


def layout(small: Tensor) -> Tensor:
    """Where an image is bright and where dark, float [N, 64].

    Args:
        small: float [N, 1, 64, 64], 0 to 255.
    """
    thumbnail = _pooled(small, SIDE // _LAYOUT).flatten(1)
    centred = thumbnail - thumbnail.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + _FAINT**2).sqrt()


def texture(small: Tensor) -> Tensor:
    """How rough an image is at each scale, and its contrast; logarithms, float [N, 9].

    Args:
        small: float [N, 1, 64, 64], 0 to 255.
    """
    centred = small - small.mean((1, 2, 3), keepdim=True)
    deviation = centred.square().mean((1, 2, 3)).sqrt()
    found = [(deviation + 2).log()]
    while small.shape[-1] >= _LAYOUT:
        for steps in (small.diff(dim=2), small.diff(dim=3)):
            found.append((steps.abs().sqrt().mean((1, 2, 3)) + 0.3).log())  # noqa: PERF401  reads as what it is
        small = _pooled(small, 2)
    return torch.stack(found, 1)


def move(small: Tensor, random: Tensor) -> Tensor:
    """Turn, shift and zoom images a little, as patients lie before the plate.

    Up to 5 degrees, 3% of the side and 6% in size; black where the image was moved away.

    Args:
        small: float [N, 1, H, W].
        random: float [N, 4], uniform in [-1, 1].

    Returns:
        Of the same type and shape.
    """
    angle = random[:, 0] * math.radians(_DEGREES)
    zoom = (random[:, 1] * math.log(_ZOOM)).exp()
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift = random[:, 2:] * 2 * _SHIFT  # affine_grid counts from -1 to 1
    pose = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).view(-1, 2, 3)
    grid = affine_grid(pose.to(small.dtype), list(small.shape), align_corners=False)
    return grid_sample(small, grid, align_corners=False)


def look(
    images: Tensor | Iterable[Tensor], copies: int
) -> tuple[int, tuple[Tensor, Tensor], list[Tensor]]:
    """Describe a whole set of images, a batch at a time; of its pixels nothing is kept.

    Args:
        images: uint8 [n, 1, S, S]; or batches of it, in order.
        copies: How many moved copies to make of each image.

    Returns:
        S, 0 if there are none; their layouts and textures, float64 [n, D]; and the layouts of
        their copies, likewise, the same however the images are batched.
    """
    random = torch.Generator().manual_seed(0)
    side = 0
    found: list[tuple[Tensor, ...]] = []
    for batch in torch.split(images, _BATCH) if isinstance(images, Tensor) else images:
        side = batch.shape[-1]
        small = Appearance(side).shrink(batch.cpu())
        draws = torch.rand(len(small), copies, 4, generator=random) * 2 - 1
        moved = (layout(move(small, draws[:, copy])) for copy in range(copies))
        found.append((layout(small), texture(small), *moved))
    if not found:
        return 0, (torch.empty(0, LAYOUT_SIZE), torch.empty(0, TEXTURE_SIZE)), []
    layouts, textures, *others = (torch.cat(column) for column in zip(*found, strict=True))
    return side, (layouts, textures), others


def _averaging(source: int, target: int) -> Tensor:
    # [target, source]: the share of each source pixel in each target pixel, by overlap.
    edges = torch.arange(target + 1, dtype=torch.float64) * source / target
    pixels = torch.arange(source, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return overlap.clamp(min=0) * target / source


def _pooled(images: Tensor, side: int) -> Tensor:
    # Not avg_pool2d, which onnxruntime has for float32 alone.
    height, width = (length // side for length in images.shape[-2:])
    return images.reshape(-1, 1, height, side, width, side).mean((3, 5))
