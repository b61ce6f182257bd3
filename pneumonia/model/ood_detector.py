"""Out-of-distribution (OOD) detector: is an image like those the model was validated on?

A Gaussian is fitted to each view of the validation images: layout, texture and the direction of
the network's embedding. The score of a view is the log Mahalanobis distance, minus its median and
divided by its spread on the validation set; the score of an image is the greatest of the three. 1%
of validation images exceed the threshold.

On Kaggle's `test/` it flagged 0.9% of X-rays, and all photographs, pages of text, noise, blank
images, and X-rays inverted or rotated by 90 degrees (`tests/benchmarks/test_benchmark_detector.py`
prints the table). Three quarters of X-rays upside down and nearly all mirrored ones pass; adult
chest X-rays, lateral views and other parts of the body are not measured.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, normalize

from pneumonia.errors import DAMAGED, CheckpointError, EvaluationError

VIEWS = ("layout", "texture", "embedding")

_FRACTION = 0.01  # of validation images exceed the threshold
_FEWEST_IMAGES = 20
_FEWEST_PATIENTS = 5
_SIDE = 64  # finer detail depends on scanner and JPEG more than on the patient
_LAYOUT_SIDE = 8
_FAINT = 8.0  # grey levels of contrast that count as none: a blank image must not become noise
_MAX_DEGREES, _MAX_SHIFT, _MAX_ZOOM = 5.0, 0.03, 1.06
_COPIES = 2  # layouts are fitted to moved copies as well: positioning differs between hospitals
_RANKS = (16, 8, 8)
_FOLDS = 10
_BATCH = 256
_MIN_VARIANCE = 1e-6  # below it a direction is constant: rounding must not look like distance
_MIN_DISTANCE = 1e-3  # added to a distance per feature before its logarithm
_MIN_SPREAD = 0.05  # where all images are equal, only a difference beyond rounding counts
_MAX_IMAGE_SIZE = 4096


class Gaussian(nn.Module):
    """Probabilistic PCA: k directions with a variance each, and one variance for all others.

    Maximum likelihood (Tipping and Bishop, J. R. Statist. Soc. B 61, 1999, section 3.2): hundreds
    of images are too few for a full covariance of thousands of features.

    Args:
        mean: float32 [D].
        directions: float32 [k, D], orthonormal rows.
        variances: float32 [k], along the directions, above 0.
        rest: float32 scalar, the variance along every other direction, above 0.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    rest: Tensor

    def __init__(self, mean: Tensor, directions: Tensor, variances: Tensor, rest: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)
        self.register_buffer("variances", variances)
        self.register_buffer("rest", rest)

    @classmethod
    def fit(cls, features: Tensor, rank: int) -> "Gaussian":
        """Fit to finite float64 [n, D], n at least 2; k is `rank`, or less if n or D is small."""
        n, size = features.shape
        rank = min(rank, size - 1, n - 1)
        mean = features.mean(0)
        centred = features - mean
        # The smaller of the two matrices with the same eigenvalues.
        if size <= n:
            eigenvalues, vectors = torch.linalg.eigh(centred.T @ centred / n)
            directions = vectors.flip(1)[:, :rank].T
        else:
            eigenvalues, vectors = torch.linalg.eigh(centred @ centred.T / n)
            directions = normalize(vectors.flip(1)[:, :rank].T @ centred)
        variances = eigenvalues.flip(0)[:rank].clamp(min=_MIN_VARIANCE)
        total = centred.square().sum() / n
        rest = ((total - variances.sum()) / max(1, size - rank)).clamp(min=_MIN_VARIANCE)
        values = (mean, directions, variances.maximum(rest), rest)
        return cls(*(value.float().contiguous() for value in values))

    def forward(self, features: Tensor) -> Tensor:
        """Return the squared Mahalanobis distances [N] of vectors [N, D], in their dtype."""
        directions = self.directions.to(features.dtype)
        centred = features - self.mean
        along = centred @ directions.T
        beside = centred - along @ directions  # subtracting squares would cancel
        return (along.square() / self.variances).sum(1) + beside.square().sum(1) / self.rest


class OODDetector(nn.Module):
    """Scores how far an image is from the validation set. Made by `fit` or `from_dict`.

    Args:
        image_size: S, side of the images in pixels.
        gaussians: One for each of `VIEWS`.
        centre: float32 [3], median log distance of each view on the validation set.
        spread: float32 [3], from there to the 90% quantile, above 0.
        threshold: Images with a higher score are flagged.
    """

    averaging: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        image_size: int,
        gaussians: Iterable[Gaussian],
        centre: Tensor,
        spread: Tensor,
        threshold: float,
    ) -> None:
        super().__init__()
        self.register_buffer("averaging", _averaging_matrix(image_size), persistent=False)
        self.gaussians = nn.ModuleList(gaussians)
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)
        self.image_size = image_size
        self.threshold = threshold

    @property
    def embedding_size(self) -> int:
        """D, length of the embeddings."""
        return len(self.gaussians[-1].get_buffer("mean"))

    def forward(self, images: Tensor, embedding: Tensor) -> Tensor:
        """Return the OOD score of each image.

        Args:
            images: uint8 [N, 1, S, S], 0 black to 255 white, as the network gets them.
            embedding: float32 [N, D], from `PneumoniaNetwork.embed`.

        Returns:
            float64 [N]: about 0 for a typical image, 1 for one of the most unusual tenth.
        """
        return self.by_view(images, embedding).amax(1)

    def by_view(self, images: Tensor, embedding: Tensor) -> Tensor:
        """Return the score of each view, float64 [N, 3] in the order of `VIEWS`; see `forward`."""
        small = _shrink(images, self.averaging)
        features = (_layout(small), _texture(small), _direction(embedding.double()))
        scores = [
            _log_distance(gaussian, feature)
            for gaussian, feature in zip(self.gaussians, features, strict=True)
        ]
        return (torch.stack(scores, 1) - self.centre) / self.spread

    @classmethod
    def fit(
        cls,
        images: Tensor | Iterable[Tensor],
        embeddings: Tensor,
        patients: ArrayLike,
    ) -> "OODDetector":
        """Fit to the validation set; deterministic.

        The Gaussians are fitted to all images; centre, spread and threshold come from distances
        out of fold (10 folds by patient). The threshold is the ceil(0.99 (n + 1))-th smallest
        score, as in split conformal prediction (Papadopoulos and others, ECML 2002).

        Args:
            images: uint8 [n, 1, S, S], or batches of it in order; not kept in memory.
            embeddings: float32 [n, D], of the same images in the same order.
            patients: Shape (n,), text or numbers.

        Raises:
            EvaluationError: If there are fewer than 20 images or 5 patients, the arguments differ
                in length, or an embedding is not finite.
        """
        _, groups = np.unique(np.asarray(patients), return_inverse=True)
        n, n_patients = len(groups), int(groups.max(initial=-1)) + 1
        if embeddings.shape[:-1] != groups.shape or not embeddings.isfinite().all():
            raise EvaluationError(
                f"embeddings has shape {tuple(embeddings.shape)} for {n} images, expected ({n}, D)"
                " finite numbers; check that training did not diverge."
            )
        image_size, features, moved = _extract_features(images)
        if len(features[0]) != n:
            raise EvaluationError(f"images has {len(features[0])} images for {n} patients.")
        if n < _FEWEST_IMAGES or n_patients < _FEWEST_PATIENTS:
            raise EvaluationError(
                f"The validation set has {n} images of {n_patients} patients; fitting the OOD"
                f" detector takes at least {_FEWEST_IMAGES} of {_FEWEST_PATIENTS}: enlarge it."
            )
        features = (*features, _direction(embeddings.detach().cpu().double()))
        # Random folds of whole patients, since patient numbers reflect hospital and year.
        folds = np.random.default_rng(0).permutation(n_patients)[groups] % _FOLDS
        distances = torch.empty(n, len(VIEWS), dtype=torch.float64)
        for fold in range(int(folds.max()) + 1):
            inside = torch.from_numpy(folds == fold)
            for view, gaussian in enumerate(_fit_views(features, moved, ~inside)):
                distances[inside, view] = _log_distance(gaussian.double(), features[view][inside])
        centre = distances.quantile(0.5, 0)
        spread = (distances.quantile(0.9, 0) - centre).clamp(min=_MIN_SPREAD)
        scores = ((distances - centre) / spread).amax(1).sort().values
        rank = min(n, math.ceil((n + 1) * (1 - _FRACTION)))
        return cls(
            image_size,
            _fit_views(features, moved, torch.ones(n, dtype=torch.bool)),
            centre.float(),
            spread.float(),
            float(scores[rank - 1]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, for a checkpoint loadable with `weights_only=True`."""
        return {
            "image_size": self.image_size,
            "threshold": self.threshold,
            "centre": self.centre.cpu(),
            "spread": self.spread.cpu(),
            "views": {
                name: {key: value.cpu() for key, value in gaussian.state_dict().items()}
                for name, gaussian in zip(VIEWS, self.gaussians, strict=True)
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OODDetector":
        """Undo `to_dict`.

        Raises:
            CheckpointError: If a value is missing, not finite, out of range or of a wrong shape.
        """
        try:
            image_size = int(values["image_size"])
            if not 0 < image_size <= _MAX_IMAGE_SIZE:
                raise ValueError(f"image_size is {image_size}")
            gaussians = [Gaussian(**values["views"][name]) for name in VIEWS]
            threshold = float(values["threshold"])
            detector = cls(image_size, gaussians, values["centre"], values["spread"], threshold)
            blank = torch.zeros(1, 1, image_size, image_size, dtype=torch.uint8)
            scores = detector.by_view(blank, torch.zeros(1, detector.embedding_size))
            numbers = (scores, torch.tensor(threshold), *detector.buffers())
            if scores.shape != (1, len(VIEWS)) or not all(x.isfinite().all() for x in numbers):
                raise ValueError("a blank image has no finite scores")
        except DAMAGED as error:
            raise CheckpointError(
                f"The checkpoint's ood_detector is damaged ({str(error)[:100]}); name the"
                " best.ckpt of a run."
            ) from error
        return detector


def _averaging_matrix(source: int) -> Tensor:
    """[64, source]: the weight of each source pixel in each target pixel, by overlap."""
    edges = torch.arange(_SIDE + 1, dtype=torch.float64) * source / _SIDE
    pixels = torch.arange(source, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return overlap.clamp(min=0) * _SIDE / source


def _shrink(images: Tensor, averaging: Tensor) -> Tensor:
    """uint8 [N, 1, S, S] -> float64 [N, 1, 64, 64]."""
    # Two products, since adaptive pooling exports for whole ratios only. In double precision:
    # rounding of faint images would differ between PyTorch and ONNX Runtime.
    return averaging @ images.to(averaging.dtype) @ averaging.T


def _average_pool(images: Tensor, side: int) -> Tensor:
    # Not avg_pool2d, which onnxruntime has for float32 alone.
    height, width = (length // side for length in images.shape[-2:])
    return images.reshape(-1, 1, height, side, width, side).mean((3, 5))


def _layout(small: Tensor) -> Tensor:
    """An 8 x 8 thumbnail minus its mean, over its contrast: [N, 1, 64, 64] -> [N, 64]."""
    thumbnail = _average_pool(small, _SIDE // _LAYOUT_SIDE).flatten(1)
    centred = thumbnail - thumbnail.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + _FAINT**2).sqrt()


def _texture(small: Tensor) -> Tensor:
    """Contrast, and root steps between neighbours at 4 scales: [N, 1, 64, 64] -> [N, 9], logs."""
    centred = small - small.mean((1, 2, 3), keepdim=True)
    deviation = centred.square().mean((1, 2, 3)).sqrt()
    features = [(deviation + 2).log()]
    while small.shape[-1] >= _LAYOUT_SIDE:
        for steps in (small.diff(dim=2), small.diff(dim=3)):
            roughness = steps.abs().sqrt().mean((1, 2, 3))
            features.append((roughness + 0.3).log())
        small = _average_pool(small, 2)
    return torch.stack(features, 1)


def _move(small: Tensor, random: Tensor) -> Tensor:
    """Rotate, shift and zoom images [N, 1, H, W] slightly, by [N, 4] numbers in [-1, 1]."""
    angle = random[:, 0] * math.radians(_MAX_DEGREES)
    zoom = (random[:, 1] * math.log(_MAX_ZOOM)).exp()
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift = random[:, 2:] * 2 * _MAX_SHIFT  # affine_grid counts from -1 to 1
    pose = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).view(-1, 2, 3)
    grid = affine_grid(pose.to(small.dtype), list(small.shape), align_corners=False)
    return grid_sample(small, grid, align_corners=False)


def _extract_features(
    images: Tensor | Iterable[Tensor],
) -> tuple[int, tuple[Tensor, ...], list[Tensor]]:
    """Image size, (layouts, textures), and the layouts of moved copies, batch by batch."""
    random = torch.Generator().manual_seed(0)
    size = 0
    batches: list[tuple[Tensor, ...]] = []
    for batch in torch.split(images, _BATCH) if isinstance(images, Tensor) else images:
        size = batch.shape[-1]
        small = _shrink(batch.cpu(), _averaging_matrix(size))
        draws = torch.rand(len(small), _COPIES, 4, generator=random) * 2 - 1
        moved = (_layout(_move(small, draws[:, copy])) for copy in range(_COPIES))
        batches.append((_layout(small), _texture(small), *moved))
    if not batches:
        return 0, (torch.empty(0), torch.empty(0)), []
    layouts, textures, *others = (torch.cat(column) for column in zip(*batches, strict=True))
    return size, (layouts, textures), others


def _direction(embedding: Tensor) -> Tensor:
    # Of length sqrt(D), so that a component is of the order of 1 with any backbone.
    return normalize(embedding) * math.sqrt(embedding.shape[1])


def _log_distance(gaussian: nn.Module, features: Tensor) -> Tensor:
    distances: Tensor = gaussian(features)
    return (distances / features.shape[1] + _MIN_DISTANCE).log()


def _fit_views(features: tuple[Tensor, ...], moved: list[Tensor], rows: Tensor) -> list[Gaussian]:
    layouts, *others = (feature[rows] for feature in features)
    layouts = torch.cat([layouts, *(copy[rows] for copy in moved)])
    return [
        Gaussian.fit(feature, rank)
        for feature, rank in zip((layouts, *others), _RANKS, strict=True)
    ]
