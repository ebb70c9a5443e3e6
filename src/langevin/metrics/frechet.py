"""Fréchet distance between Gaussian fits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ._inputs import pair, rows


@dataclass(frozen=True, eq=False)
class FeatureSums:
    """What the Fréchet distance needs of a set of features: parts of a set, on any machines, add up to the whole.

    Args:
        count: N.
        mean: ``(D,)``, float64.
        scatter: Σ (x − mean)(x − mean)ᵀ, ``(D, D)``.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> FeatureSums:
        """The sums of ``(N, ...)``, N ≥ 1."""
        x = rows("features", features, least=1)
        mean = x.mean(0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    def __add__(self, other: FeatureSums) -> FeatureSums:
        """The moments of two parts of a set together, around their common mean: nothing cancels (Chan et al. 1979)."""
        if self.mean.shape != other.mean.shape:
            raise UserError(f"features must be equally wide; got {len(self.mean)} and {len(other.mean)}.")
        count = self.count + other.count
        apart = other.mean - self.mean
        between = torch.outer(apart, apart) * (self.count * other.count / count)
        return FeatureSums(count, self.mean + apart * (other.count / count), self.scatter + other.scatter + between)

    @property
    def cov(self) -> Tensor:
        """The unbiased covariance, ``(D, D)``."""
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 examples; got {self.count}.")
        return self.scatter / (self.count - 1)


@register(
    "metrics",
    "frechet",
    title="Fréchet distance (FID with Inception features)",
    arxiv="1706.08500",
    proof="exact: tests/metrics/test_frechet.py::test_commuting_gaussians",
)
def frechet_distance(samples: Tensor | FeatureSums, real: Tensor | FeatureSums) -> float:
    r"""The squared Fréchet distance between Gaussians fitted to two sets of features (arXiv:1706.08500, eq. 6).

    .. math:: d^2 = |μ_1 - μ_2|^2 + \mathrm{tr}\,(Σ_1 + Σ_2 - 2 (Σ_1 Σ_2)^{1/2})

    Covariances are unbiased (1/(N − 1)), as in published FID. The value is biased upwards by about tr Σ · D/N: compare
    only values of equal N, and with the value of real data in the samples' place.

    Args:
        samples: ``(N, ...)`` features of the samples, N ≥ 2, or their sums.
        real: ``(M, ...)`` features of real data, M ≥ 2, or their sums.

    Returns:
        d² ≥ 0, in squared units of the features.

    Raises:
        UserError: shapes differ, fewer than two rows, non-finite values.
    """
    if isinstance(samples, Tensor) and isinstance(real, Tensor):
        samples, real = pair(samples, real)
    one, two = (x if isinstance(x, FeatureSums) else FeatureSums.of(x) for x in (samples, real))
    if one.mean.shape != two.mean.shape:
        raise UserError(f"samples and real must have one width; got {len(one.mean)} and {len(two.mean)}.")
    return gaussian_frechet(one.mean, one.cov, two.mean, two.cov)


def gaussian_frechet(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    r"""d² of two Gaussians from their moments: ``(D,)`` and symmetric ``(D, D)``.

    With Σ = L Lᵀ from the symmetric eigendecomposition, tr (Σ_1 Σ_2)^{1/2} is the sum of the singular values of
    L_1ᵀ L_2: real and non-negative by construction, where a matrix square root of Σ_1 Σ_2 returns complex noise for
    covariances without full rank.
    """
    root_a, root_b = _root(cov_a), _root(cov_b)
    cross = torch.linalg.svdvals(root_a.T @ root_b).sum()
    # |L_1|² + |L_2|² in place of the traces: equal, and from the same numbers as the cross term.
    total = root_a.square().sum() + root_b.square().sum() - 2 * cross
    return max(0.0, float((mean_a.double() - mean_b.double()).square().sum() + total))


def _root(cov: Tensor) -> Tensor:
    """L with Σ = L Lᵀ; directions below rounding are dropped (their square roots would not be below it)."""
    cov = cov.double().reshape(cov.shape[-1] if cov.ndim else 1, -1)
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    floor = len(values) * torch.finfo(torch.float64).eps * values.abs().max()
    return vectors * torch.where(values > floor, values, 0.0).sqrt()
