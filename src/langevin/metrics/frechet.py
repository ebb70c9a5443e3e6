"""Fréchet distance between Gaussian fits."""

from __future__ import annotations

import torch
from torch import Tensor

from .._registry import register
from ._inputs import pair


@register(
    "metrics",
    "frechet",
    title="Fréchet distance (FID with Inception features)",
    arxiv="1706.08500",
    catalogue="J1",
    proof="exact: tests/metrics/test_frechet.py::test_commuting_gaussians",
)
def frechet_distance(samples: Tensor, real: Tensor) -> float:
    r"""The squared Fréchet distance between Gaussians fitted to two sets of features (arXiv:1706.08500, eq. 6).

    .. math:: d^2 = |μ_1 - μ_2|^2 + \mathrm{tr}\,(Σ_1 + Σ_2 - 2 (Σ_1 Σ_2)^{1/2})

    Covariances are unbiased (1/(N − 1)), as in published FID. The value is biased upwards by about tr Σ · D/N: compare
    only values of equal N, and with the value of real data in the samples' place.

    Args:
        samples: ``(N, ...)`` features of the samples, N ≥ 2.
        real: ``(M, ...)`` features of real data, M ≥ 2.

    Returns:
        d² ≥ 0, in squared units of the features.

    Raises:
        UserError: shapes differ, fewer than two rows, non-finite values.
    """
    one, two = pair(samples, real)
    return gaussian_frechet(one.mean(0), torch.cov(one.T), two.mean(0), torch.cov(two.T))


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
