"""Mixture noise: a Brownian part and normal jumps, so that every law is a Poisson mixture of normals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from ..distributions import PoissonBridge, PoissonMixture
from ..distributions.levy import counts
from .base import check_times, expand
from .levy import LevyNoise

MOST = 1000.0
"""Jumps at most: a step tells their counts apart, one by one."""


@register(
    "processes",
    "mixture",
    title="Gaussian-mixture noise",
    arxiv="2106.07582",
    proof="exact: tests/processes/test_mixture_noise.py",
)
@dataclass(frozen=True)
class MixtureNoise(LevyNoise):
    r"""Gaussian-mixture noise with the α and σ of a scalar-Gaussian process, exact at every pair of times.

    .. math::
        x_t = α_t \Big[ x_0 + B_{w_t} + \sum_{i \le N_t} ξ_i \Big], \quad ξ_i \sim N(0, h^2), \quad
        N_t \sim \mathrm{Poisson}(λ_t), \quad λ_t = \min(ρ σ_t^2 / (h α_t)^2, J), \quad w_t = σ_t^2/α_t^2 - h^2 λ_t

    in each coordinate, with B a Brownian motion and N a Poisson process. So x_t has the mean α_t x_0 and the variance
    σ_t² of the base, its increments are independent Poisson mixtures of normals, and its bridge is one over the counts:
    ``PoissonBridge``. The excess kurtosis of the noise is :math:`3 h^4 λ_t (α_t/σ_t)^4`: large at small times, where
    most coordinates have not jumped, it falls to that of a normal law as jumps add up, which is why the rest of the
    noise, beyond J jumps, is Brownian alone.

    It is noise of the kind of Nachmani et al. (2021, arXiv:2106.07582), a mixture of normal laws, but not theirs. A sum
    of n draws from a mixture of two normal laws is a mixture of up to 2^n. Here the components are told apart by one
    number alone, how many jumps there were, whose law is closed under sums, so that marginal, transition and bridge
    are exact between any two times.

    Args:
        base: the process whose α (> 0 everywhere) and σ are taken.
        share: ρ in (0, 1), the share of the variance that jumps have up to J of them.
        size: h > 0, standard deviation of one jump, in units of the data.
        jumps: J > 0, how many jumps a coordinate has in the mean by t = 1, 1000 at most.
    """

    share: float = 0.5
    size: float = 0.5
    jumps: float = 8.0

    def __post_init__(self) -> None:
        check_numbers(False, share=self.share, size=self.size, jumps=self.jumps)
        if not 0 < self.share < 1:
            raise UserError(f"share must lie in (0, 1), got {self.share}")
        if not 0 < self.size < math.inf:
            raise UserError(f"size must be > 0, got {self.size}")
        if not 0 < self.jumps <= MOST:
            raise UserError(f"jumps must lie in (0, {MOST:g}], got {self.jumps}")
        super().__post_init__()

    def rate(self, v: Tensor) -> Tensor:
        """λ at v = σ²/α²."""
        return (self.share / self.size**2 * v).clamp_max(self.jumps)

    def brownian(self, v: Tensor) -> Tensor:
        """w at v = σ²/α²."""
        return torch.maximum((1 - self.share) * v, v - self.size**2 * self.jumps)

    def increment(self, loc: Tensor, scale: Tensor, start: Tensor, end: Tensor) -> PoissonMixture:
        rate, variance = (expand(f(end) - f(start), loc) for f in (self.rate, self.brownian))
        return PoissonMixture(loc, scale**2 * variance, (scale * self.size) ** 2, rate, counts(self.jumps))

    def bridge(self, x_t: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, eta: float = 1.0) -> PoissonBridge:
        self.check_eta(eta)
        t, s = check_times(t=t, s=s)
        a, early, late = expand(self.alpha(s), x_t), self.clock(s), self.clock(t)
        end = a * (x_t / expand(self.alpha(t), x_t) - x0)
        late_rate, early_rate = (expand(self.rate(v), x_t) for v in (late, early))
        late_variance, early_variance = (a**2 * expand(self.brownian(v), x_t) for v in (late, early))
        jump = (a * self.size) ** 2
        return PoissonBridge(
            a * x0, end, early_variance, late_variance, jump, early_rate, late_rate, counts(self.jumps)
        )
