"""How far a vector is from a cloud of others: a Gaussian with a few directions of its own."""

import torch
from torch import Tensor, nn

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
