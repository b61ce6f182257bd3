"""Whether an image is like any that the model was trained for: photographs are not.

A classifier answers whatever it is shown; this says when the answer means nothing. It is fitted
after training on the hold-out, whose embeddings the network did not learn by heart, and its
threshold is the score that 1% of hold-out images exceed.

How it works
------------
Three views of an image each have a Gaussian (`pneumonia.model.ood_detector`): its layout and its
texture (`pneumonia.model.ood_detector`), and the direction of the network's embedding. A view's
score is the logarithm of the distance, less its median over its spread on the hold-out; the
image's is the greatest, so that a view which sees nothing takes nothing away.

It was chosen on hold-outs of two networks, out of fold by patient, and on half of the
non-radiographs. Plain embeddings, which is the usual choice, depend on the network; with nearest
neighbours, residuals alone, Ledoit-Wolf shrinkage, sums of scores or features from the middle of
the network it was no better. Those trials are not kept, and so their figures are not given.

What it flags
-------------
`tests/benchmarks/test_benchmark_detector.py` prints, for any checkpoint, how many of each kind of
image are flagged, and the AUROC of the score against the 763 X-rays of `test/`, of which 0.9% are
flagged. Of EfficientNet-Lite0 at 160 and ResNetV2-50 at 128 pixels, trained on the Kaggle images,
each time the lower; the last three columns are of the views alone, at the threshold of the three:

==========================  ======  =========  ======  ======  =======  =========
kind                        images  % flagged   AUROC  layout  texture  embedding
==========================  ======  =========  ======  ======  =======  =========
photographs and textures       145      100.0  0.9999    96.6     95.2        8.3
pages of text                   60      100.0  1.0000    95.0    100.0        1.7
noise                           60      100.0  1.0000   100.0    100.0        3.3
smooth and pink noise           40      100.0  1.0000   100.0    100.0       17.5
blank                           50      100.0  1.0000   100.0    100.0        6.0
gradients                       54      100.0  1.0000    94.4    100.0        0.0
X-rays inverted                763      100.0  1.0000   100.0      0.8        0.3
X-rays turned by 90            763      100.0  1.0000   100.0     99.9        1.7
X-rays turned by 270           763      100.0  1.0000   100.0     99.9        1.7
X-rays turned by 180           763       26.2  0.9128    26.2      0.8        0.0
X-rays mirrored                763        1.0  0.6793     0.4      0.8        0.0
==========================  ======  =========  ======  ======  =======  =========

So layout and texture do the work; with these networks the embedding adds next to nothing. Of X-rays
that were still right, the greater of the two: turned by 5 degrees 1.4%, by 10 degrees 3.4%; a tenth
cropped away 3.0%, a fifth 15.9%; shifted by 6% behind a black border 1.7%.

What it cannot say
------------------
Adult chest X-rays, lateral views and other parts of the body were never at hand: how many it flags
of them is not measured, and many may pass. What is known of adults is that a model of these
children's X-rays with an AUROC of 0.98 in its own test scored 0.47 on adult ones. Most X-rays
upside down pass, and nearly all mirrored ones. What passes is not thereby fit for the model.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from pneumonia.errors import DAMAGED, CheckpointError, EvaluationError

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


_LEAST = 1e-6
"""Variance below which a direction counts as constant: rounding must not look like distance."""


class Gaussian(nn.Module):
    """Probabilistic principal components: k directions with variances, one variance elsewhere.

    A full covariance of thousands of features cannot be had from hundreds of images; this is
    the covariance of greatest likelihood among those of k free directions (Tipping and Bishop,
    J. R. Statist. Soc. B 61, 1999, section 3.2).

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
        """Fit to vectors.

        Args:
            features: float64 [n, D], finite, n at least 2.
            rank: k, directions with a variance of their own; fewer where n or D has no more.
        """
        n, size = features.shape
        rank = min(rank, size - 1, n - 1)
        mean = features.mean(0)
        centred = features - mean
        # Of the two matrices with the same eigenvalues, the smaller.
        if size <= n:
            found, vectors = torch.linalg.eigh(centred.T @ centred / n)
            directions = vectors.flip(1)[:, :rank].T
        else:
            found, vectors = torch.linalg.eigh(centred @ centred.T / n)
            directions = nn.functional.normalize(vectors.flip(1)[:, :rank].T @ centred)
        variances = found.flip(0)[:rank].clamp(min=_LEAST)
        total = centred.square().sum() / n
        rest = ((total - variances.sum()) / max(1, size - rank)).clamp(min=_LEAST)
        # None may be narrower than the rest: numerical rank is not knowledge.
        values = (mean, directions, variances.maximum(rest), rest)
        return cls(*(value.float().contiguous() for value in values))

    def forward(self, features: Tensor) -> Tensor:
        """Squared Mahalanobis distances.

        Args:
            features: float [N, D].

        Returns:
            Of the same type, [N], 0 or more; about D for a vector of the cloud.
        """
        directions = self.directions.to(features.dtype)
        centred = features - self.mean
        along = centred @ directions.T
        beside = centred - along @ directions  # squares first would cancel
        return (along.square() / self.variances).sum(1) + beside.square().sum(1) / self.rest


VIEWS = ("layout", "texture", "embedding")
SHARE = 0.01
"""Of the hold-out's images that are to be flagged."""

VERSION = 1
"""Of the scores. It grows whenever the code gives an image another score than before, by more than
rounding: a stored threshold is then of other scores, and the detector it belongs to is not used."""

FEWEST_IMAGES = 20
FEWEST_PATIENTS = 5

_RANKS = (16, 8, 8)
_COPIES = 2
"""Layouts are also learnt from this many slightly moved copies of each image: radiographs from
elsewhere lie differently."""

_LARGEST = 4096
_FOLDS = 10
_NEARLY_NOTHING = 1e-3
_LEAST_SPREAD = 0.05
"""Added to a distance, per feature, before its logarithm, and the least spread of these: so that
a view in which all images are equal tells difference from rounding."""


class OODDetector(nn.Module):
    """Scores how unlike the hold-out an image is. Made by `fit` or `from_dict`.

    Args:
        image_size: S, side of the images in pixels.
        gaussians: One for each of `VIEWS`.
        centre: float32 [3], the views' median logarithms of distance on the hold-out.
        spread: float32 [3], from there to the 90% quantile, above 0.
        threshold: A score above it is flagged.
        share: Of images like the hold-out's, those expected to be flagged, 0 to 1.
        images: How many it was fitted on.
        patients: Of how many patients.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        image_size: int,
        gaussians: Iterable[Gaussian],
        centre: Tensor,
        spread: Tensor,
        *,
        threshold: float,
        share: float,
        images: int,
        patients: int,
    ) -> None:
        super().__init__()
        self.appearance = Appearance(image_size)
        self.gaussians = nn.ModuleList(gaussians)
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)
        self.image_size = image_size
        self.threshold = threshold
        self.share = share
        self.images = images
        self.patients = patients

    @property
    def embedding_size(self) -> int:
        """D, length of the embeddings it was fitted on."""
        return int(cast(Gaussian, self.gaussians[-1]).mean.shape[0])

    def forward(self, images: Tensor, embedding: Tensor) -> Tensor:
        """How unlike the hold-out images are; `> threshold` is to be flagged.

        Args:
            images: uint8 [N, 1, S, S], 0 black to 255 white, as the network sees them.
            embedding: float32 [N, D], what the network's `embed` gave for them.

        Returns:
            float64 [N], about 0 for a usual image and 1 for one of the most unusual tenth.
        """
        return self.by_view(images, embedding).amax(1)

    def by_view(self, images: Tensor, embedding: Tensor) -> Tensor:
        """The score of each view, to tell in which an image is unlike.

        Args:
            images: As for `forward`.
            embedding: As for `forward`.

        Returns:
            float64 [N, 3], in the order of `VIEWS`.
        """
        features = (*self.appearance(images), _direction(embedding.double()))
        scores = [
            _log(gaussian(feature), feature.shape[1])
            for gaussian, feature in zip(self.gaussians, features, strict=True)
        ]
        return (torch.stack(scores, 1) - self.centre) / self.spread

    @classmethod
    def fit(
        cls,
        images: Tensor | Iterable[Tensor],
        embeddings: Tensor,
        patients: ArrayLike,
        share: float = SHARE,
    ) -> "OODDetector":
        """Learn what the hold-out looks like, the same for the same input.

        The Gaussians are fitted to all images. Their distances to the very images would be too
        small, so centre, spread and threshold come from distances to Gaussians fitted without
        the image's patient, in 10 folds. The threshold is the ceil((n + 1) * (1 - share))-th
        smallest of the n scores, as in split conformal prediction (Papadopoulos and others, ECML
        2002); of scores out of fold, and of images rather than patients, it promises no bound.
        Fewer than 99 images cannot show 1%: the threshold is then the greatest of their scores,
        and `share` is 1 / (n + 1).

        Of each image a few hundred numbers are kept, never the pixels.

        Args:
            images: uint8 [n, 1, S, S], the hold-out; or batches of it, in order.
            embeddings: float32 [n, D], of the same images in the same order.
            patients: Shape (n,), text or numbers.
            share: Of hold-out images that are to be flagged, above 0 and below 1.

        Raises:
            EvaluationError: If there are fewer than 20 images or 5 patients, the arguments are
                not of the same images, or an embedding is not finite.
        """
        if not 0 < share < 1:
            raise EvaluationError(
                f"Found the share {share} of images to flag, expected above 0 and below 1."
            )
        _, groups = np.unique(np.asarray(patients), return_inverse=True)
        if embeddings.shape[:-1] != groups.shape or not embeddings.isfinite().all():
            raise EvaluationError(
                f"Found embeddings of shape {tuple(embeddings.shape)} for {len(groups)} images,"
                f" expected ({len(groups)}, D) finite numbers; look for a diverged training."
            )
        size, seen, copies = look(images, _COPIES)
        if len(seen[0]) != len(groups):
            raise EvaluationError(
                f"Found {len(seen[0])} images for {len(groups)} patients, expected one each."
            )
        features = (*seen, _direction(embeddings.detach().cpu().double()))
        n, n_patients = len(groups), int(groups.max(initial=-1)) + 1
        if n < FEWEST_IMAGES or n_patients < FEWEST_PATIENTS:
            raise EvaluationError(
                f"The hold-out has {n} images of {n_patients} patients; to tell what is unlike it,"
                f" at least {FEWEST_IMAGES} of {FEWEST_PATIENTS} are needed: enlarge the hold-out."
            )
        folds = _folds(groups)
        logs = torch.empty(n, len(VIEWS), dtype=torch.float64)
        for fold in range(int(folds.max()) + 1):
            inside = torch.from_numpy(folds == fold)
            for view, gaussian in enumerate(_fit(features, copies, ~inside)):
                feature = features[view][inside]
                logs[inside, view] = _log(gaussian.double()(feature), feature.shape[1])
        centre = logs.quantile(0.5, 0)
        spread = (logs.quantile(0.9, 0) - centre).clamp(min=_LEAST_SPREAD)
        scores = ((logs - centre) / spread).amax(1).sort().values
        rank = min(n, math.ceil((n + 1) * (1 - share)))
        return cls(
            size,
            _fit(features, copies, torch.ones(n, dtype=torch.bool)),
            centre.float(),
            spread.float(),
            threshold=float(scores[rank - 1]),
            share=max(share, 1 / (n + 1)),
            images=n,
            patients=n_patients,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give plain values and tensors, for a checkpoint loadable with `weights_only=True`."""
        return {
            "version": VERSION,
            "image_size": self.image_size,
            "threshold": self.threshold,
            "share": self.share,
            "images": self.images,
            "patients": self.patients,
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

        Args:
            values: What `to_dict` gave.

        Raises:
            CheckpointError: If it is of another version, or a value is missing, not finite, out
                of its range or of a wrong shape.
        """
        if (found := version(values)) != VERSION:
            raise CheckpointError(
                f"The checkpoint's detector is of version {found}, expected {VERSION}; train again."
            )
        try:
            numbers: dict[str, Any] = {key: float(values[key]) for key in ("threshold", "share")}
            counts: dict[str, Any] = {
                key: int(values[key]) for key in ("image_size", "images", "patients")
            }
            centre, spread = values["centre"], values["spread"]
            gaussians = [Gaussian(**values["views"][name]) for name in VIEWS]
            tensors = [centre, spread, *(b for g in gaussians for b in g.buffers())]
            whole = all(bool(t.isfinite().all()) and t.dtype == torch.float32 for t in tensors)
            shapes = [(g.mean.shape, g.directions.shape, g.variances.shape) for g in gaussians]
            sound = (
                whole
                and math.isfinite(numbers["threshold"])
                and 0 < numbers["share"] < 1
                and min(counts.values()) > 0
                and counts["image_size"] <= _LARGEST
                and centre.shape == spread.shape == (len(VIEWS),)
                and bool((spread > 0).all())
                and all(
                    g.rest.ndim == 0 and g.rest > 0 and (g.variances > 0).all() for g in gaussians
                )
                and all(d == (*v, *m) and len(m) == len(v) == 1 for m, d, v in shapes)
                and [g.mean.shape[0] for g in gaussians[:2]] == [LAYOUT_SIZE, TEXTURE_SIZE]
            )
        except DAMAGED as error:
            raise CheckpointError(
                f"The checkpoint's detector lacks what one has ({error}); name the best.ckpt of a"
                " run."
            ) from error
        if not sound:
            raise CheckpointError(
                "The checkpoint's detector is damaged: a value is not finite, out of its range or"
                " of a wrong shape; name the best.ckpt of a run."
            )
        size = counts.pop("image_size")
        return cls(size, gaussians, centre, spread, **numbers, **counts)


def version(values: Any) -> object:
    """Tell of which `VERSION` a stored detector is.

    Args:
        values: What a checkpoint holds of it.

    Returns:
        None for one that is older than versions.
    """
    return values.get("version") if isinstance(values, Mapping) else None


def _direction(embedding: Tensor) -> Tensor:
    # Of length sqrt(D), so that a component is of the order of 1 with any backbone.
    length = math.sqrt(embedding.shape[1])
    return nn.functional.normalize(embedding) * length


def _log(distances: Tensor, size: int) -> Tensor:
    return (distances / size + _NEARLY_NOTHING).log()


def _fit(features: tuple[Tensor, ...], copies: list[Tensor], rows: Tensor) -> list[Gaussian]:
    first, *others = (feature[rows] for feature in features)
    first = torch.cat([first, *(copy[rows] for copy in copies)])
    return [
        Gaussian.fit(feature, rank) for feature, rank in zip((first, *others), _RANKS, strict=True)
    ]


def _folds(groups: NDArray[np.intp]) -> NDArray[np.intp]:
    # Whole patients, drawn, since their numbers stand for hospitals and years.
    order = np.random.default_rng(0).permutation(groups.max() + 1)
    return np.asarray(order[groups] % _FOLDS)
