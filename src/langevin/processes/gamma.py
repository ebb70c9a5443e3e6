"""Gamma noise: increments that are skewed, with a bridge that is a Beta split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from ..distributions import ScaledBeta, ShiftedGamma
from .base import as_time, check_times, expand
from .levy import LevyNoise


@register("processes", "gamma", title="Gamma noise", arxiv="2106.07582", proof="exact: tests/processes/test_gamma.py")
@dataclass(frozen=True)
class GammaNoise(LevyNoise):
    r"""Cumulated Gamma noise with the α and σ of a scalar-Gaussian process (Nachmani et al. 2021, arXiv:2106.07582).

    .. math:: x_t = α_t \left[ x_0 + θ (G_t - k_t) \right], \quad G_t \sim Γ(k_t, 1), \quad k_t = σ_t^2 / (θ α_t)^2

    so that x_t has the mean α_t x_0 and the variance σ_t² of the Gaussian process. G has independent Gamma increments,
    hence :math:`G_s | G_t = G_t \cdot \mathrm{Beta}(k_s, k_t - k_s)` exactly.

    Args:
        base: the process whose α (> 0 everywhere) and σ are taken.
        theta: scale of one increment in units of the data, > 0; 0.001 in the paper, which is near to Gaussian.
            Skewness is 2θα/σ.
    """

    theta: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(False, theta=self.theta)
        if not 0 < self.theta < math.inf:
            raise UserError(f"theta must be > 0, got {self.theta}")
        super().__post_init__()

    def concentration(self, t: Tensor | float) -> Tensor:
        """k_t."""
        return self.clock(as_time(t)) / self.theta**2

    def increment(self, loc: Tensor, scale: Tensor, start: Tensor, end: Tensor) -> ShiftedGamma:
        return ShiftedGamma(loc, scale * self.theta, expand((end - start) / self.theta**2, loc))

    def bridge(self, x_t: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, eta: float = 1.0) -> ScaledBeta:
        """α_s [x_0 + θ(G_t·Beta(k_s, k_t − k_s) − k_s)]; a plug-in x_0 that makes G_t < 0 is clamped to G_t = 0."""
        self.check_eta(eta)
        t, s = check_times(t=t, s=s)
        k_t, k_s = self.concentration(t), self.concentration(s)
        share = expand(torch.where(s == t, 1.0, k_s / k_t), x_t)
        split, k_t = (expand(k, x_t) for k in (k_t - k_s, k_t))
        # The cumulated noise θ(G_t − k_t) ≥ −θ k_t, of which x_s keeps the share k_s/k_t in the mean.
        noise = torch.maximum(x_t / expand(self.alpha(t), x_t) - x0, -self.theta * k_t)
        a = expand(self.alpha(s), x_t)
        return ScaledBeta(a * (x0 + share * noise), a * (noise + self.theta * k_t), expand(k_s, x_t), split)
