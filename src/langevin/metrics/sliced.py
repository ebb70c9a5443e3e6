"""Sliced Wasserstein distance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ._inputs import pair, rows
from .kernel import Estimate
from .parts import Parts

Projected = Callable[[Tensor], Tensor]
"""Directions ``(P, D)`` to the projections of a set on them, ``(P, N)``."""


@register(
    "metrics",
    "sliced-wasserstein",
    title="Sliced Wasserstein-2 distance",
    proof="exact: tests/metrics/test_sliced.py::test_shifted_gaussians",
)
def sliced_wasserstein(samples: Tensor, real: Tensor, *, projections: int = 256, seed: int = 0) -> float:
    r"""Sliced 2-Wasserstein distance between two empirical laws (Bonneel et al. 2015).

    .. math:: SW_2^2 = E_{θ \sim S^{D-1}} \int_0^1 (F_θ^{-1}(q) - G_θ^{-1}(q))^2 \, dq

    The inner integral is exact for any two counts: both quantile functions are steps, and the integral is a sum over
    the merged steps. The outer mean is over random directions. A shift by a vector a gives |a|/√D.

    Args:
        samples: ``(N, ...)``, N ≥ 2.
        real: ``(M, ...)``, M ≥ 2.
        projections: number of directions.
        seed: of the directions; the same directions for the same D.

    Returns:
        SW_2 ≥ 0, in units of the data. Two finite samples of one law are not at 0: see :func:`sliced_floor`.

    Raises:
        UserError: shapes differ, fewer than two rows, non-finite values, projections < 1.
    """
    one, two = pair(samples, real)
    return float(_squared(_along(one), _along(two), _directions(one.shape[1], projections, seed)).sqrt())


def sliced_between(samples: Parts, real: Tensor, *, projections: int = 256, seed: int = 0) -> float:
    """The same of samples that need not fit into memory: 64 projections of them are held at a time."""
    two = rows("real", real)
    along = lambda part: samples.through(lambda x: part @ rows("samples", x, least=1).T, dim=1)
    return float(_squared(along, _along(two), _directions(two.shape[1], projections, seed)).sqrt())


def sliced_floor(real: Tensor, *, projections: int = 256, seed: int = 0, halvings: int = 8) -> Estimate:
    """SW_2 between two random halves of real data: what no sampler can be expected to beat at that count.

    Args:
        real: ``(M, ...)``, M ≥ 4; the halves have M/2 rows each.
        projections: number of directions, as for the value to compare with.
        seed: of directions and halves.
        halvings: number of random halvings, ≥ 2.

    Returns:
        The mean over halvings, and the standard deviation of one halving (in the place of the standard error: a
        sampler's own value is one draw).
    """
    if halvings < 2:
        raise UserError(f"halvings must be at least 2; got {halvings}.")
    x = rows("real", real, least=4)
    directions = _directions(x.shape[1], projections, seed)
    generator = torch.Generator().manual_seed(seed)
    half = len(x) // 2
    values = []
    for _ in range(halvings):
        order = torch.randperm(len(x), generator=generator)
        values.append(_squared(_along(x[order[:half]]), _along(x[order[half : 2 * half]]), directions).sqrt())
    found = torch.stack(values)
    return Estimate(float(found.mean()), float(found.std()))


def _directions(dim: int, projections: int, seed: int) -> Tensor:
    """Unit vectors ``(P, D)``, uniform on the sphere."""
    if projections < 1:
        raise UserError(f"projections must be at least 1; got {projections}.")
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(projections, dim, generator=generator, dtype=torch.float64)
    return draws / draws.norm(dim=1, keepdim=True)


def _along(x: Tensor) -> Projected:
    """Projections of all rows."""
    return lambda directions: directions @ x.T


def _squared(a: Projected, b: Projected, directions: Tensor) -> Tensor:
    """The mean over directions of the squared 1-D distance."""
    total = torch.zeros((), dtype=torch.float64)
    for part in directions.split(64):
        x, y = a(part).sort(dim=1).values, b(part).sort(dim=1).values
        n, m = x.shape[1], y.shape[1]
        # Quantile levels i/n and j/m as integers over n·m, merged: between two levels both quantiles are constant.
        levels = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
        width = torch.diff(levels, prepend=levels.new_zeros(1)).double() / (n * m)
        total += ((x[:, (levels - 1) // m] - y[:, (levels - 1) // n]).square() @ width).sum()
    return total / len(directions)
