"""Moments from a model's samples: the published shrinkage by its definition, and what it is for."""

from __future__ import annotations

import pytest
import torch

from langevin import Noise, samplers

F64 = torch.float64


def covariance(moments):
    directions = moments.basis.to(torch.eye(len(moments.mean), dtype=F64))
    return directions @ torch.diag(moments.variances) @ directions.T


@pytest.mark.parametrize(("n", "dim"), [(12, 8), (40, 5), (9, 2)])
def test_shrinkage_is_ledoit_and_wolf_s(n, dim):
    """Their lemma 3.2–3.5, term by term: Σ* = (b²/d²) m I + (1 − b²/d²) S with S of the centred samples, m = tr S/D,
    d² = |S − m I|², b² = min(d², n⁻² Σ_i |x_i x_iᵀ − S|²). To rounding: 1e-12."""
    scales = torch.linspace(0.5, 1.5, dim, dtype=F64)
    x = 0.3 + Noise(4, n).normal((dim,)) * scales
    centred = x - x.mean(0)
    s = centred.T @ centred / n
    m = s.trace() / dim
    away = (s - m * torch.eye(dim)).square().sum()
    error = torch.stack([(row[:, None] * row - s).square().sum() for row in centred]).sum() / n**2
    share = float(torch.minimum(error, away) / away)
    found = samplers.moments_from(x, (dim,))
    assert share > 0.05
    torch.testing.assert_close(found.mean, x.mean(0))
    expected = share * m * torch.eye(dim, dtype=F64) + (1 - share) * s
    torch.testing.assert_close(covariance(found), expected, rtol=1e-12, atol=1e-12)


def test_one_coordinate_is_not_shrunk():
    x = Noise(1, 30).normal((1,))
    assert samplers.moments_from(x, (1,)).variances == pytest.approx(float(x.var(unbiased=False)), rel=1e-12)


def test_the_variance_that_is_left_is_shared_by_the_other_directions():
    """Of 600 coordinates and 80 samples: ten principal directions, and the trace of all is that of the samples."""
    x = Noise(2, 80).normal((600,)) * torch.linspace(2.0, 0.5, 600, dtype=F64)
    found = samplers.moments_from(x, (2, 300))
    sizes = torch.linalg.svdvals(x - x.mean(0)).square() / 80
    torch.testing.assert_close(found.variances[:10], sizes[:10])
    assert float(found.variances.sum()) == pytest.approx(float(sizes.sum()), rel=1e-12)
    assert bool((found.variances[10:] == found.variances[10]).all())
