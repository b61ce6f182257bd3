"""Whether an image is like any that the model was trained for: photographs are not.

A classifier answers whatever it is shown; this says when the answer means nothing. It is fitted
after training on the hold-out, whose embeddings the network did not learn by heart, and its
threshold is the score that 1% of hold-out images exceed.

How it works
------------
Three views of an image each have a Gaussian (`pneumonia.model.gaussian`): its layout and its
texture (`pneumonia.model.appearance`), and the direction of the network's embedding. A view's
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

from pneumonia.errors import DAMAGED, CheckpointError, EvaluationError
from pneumonia.model.appearance import LAYOUT_SIZE, TEXTURE_SIZE, Appearance, look
from pneumonia.model.gaussian import Gaussian

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


class Detector(nn.Module):
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
    ) -> "Detector":
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
    def from_dict(cls, values: Mapping[str, Any]) -> "Detector":
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
