"""Gamma noise: increments that are skewed, with a bridge that is a Beta split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from ..distributions import ScaledBeta, ShiftedGamma
from .base import Process, as_time, check_times, expand, one_of
from .gaussian import ScalarGaussian
from .schedules import VP


@register("processes", "gamma", title="Gamma noise", arxiv="2106.07582", proof="exact: tests/processes/test_gamma.py")
@dataclass(frozen=True)
class GammaNoise(Process):
    r"""Cumulated Gamma noise with the α and σ of a scalar-Gaussian process (Nachmani et al. 2021, arXiv:2106.07582).

    .. math:: x_t = α_t \left[ x_0 + θ (G_t - k_t) \right], \quad G_t \sim Γ(k_t, 1), \quad k_t = σ_t^2 / (θ α_t)^2

    so that x_t has the mean α_t x_0 and the variance σ_t² of the Gaussian process. G has independent Gamma increments,
    hence :math:`G_s | G_t = G_t \cdot \mathrm{Beta}(k_s, k_t - k_s)` exactly.

    Args:
        base: the process whose α (> 0 everywhere) and σ are taken.
        theta: scale of one increment in units of the data, > 0; 0.001 in the paper, which is near to Gaussian.
            Skewness is 2θα/σ.
    """

    base: ScalarGaussian = VP()  # noqa: RUF009 (frozen)
    theta: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(False, theta=self.theta)
        if not 0 < self.theta < math.inf:
            raise UserError(f"theta must be > 0, got {self.theta}")
        if not isinstance(self.base, ScalarGaussian):
            raise UserError(f"base must be a scalar-Gaussian process, got {self.base}")
        if not float(self.base.alpha(torch.ones((), dtype=torch.float64))) > 1e-6:
            raise UserError(f"base must keep alpha(1) > 0 for Gamma noise, got {self.base}")

    @property
    def t_min(self) -> float:
        return self.base.t_min

    def alpha(self, t: Tensor | float) -> Tensor:
        """α(t) of the base."""
        return self.base.alpha(as_time(t))

    def sigma(self, t: Tensor | float) -> Tensor:
        """Standard deviation of x_t given x_0."""
        return self.base.sigma(as_time(t))

    def concentration(self, t: Tensor | float) -> Tensor:
        """k_t."""
        return (self.sigma(t) / (self.theta * self.alpha(t))) ** 2

    def prior(self, shape: tuple[int, ...]) -> ShiftedGamma:
        """The law of x_1 for x_0 = 0."""
        return self.marginal(torch.zeros(one_of(shape), dtype=torch.float64), 1.0)

    def marginal(self, x0: Tensor, t: Tensor | float) -> ShiftedGamma:
        (t,) = check_times(t=t)
        a, k = expand(self.alpha(t), x0), expand(self.concentration(t), x0)
        return ShiftedGamma(a * (x0 - self.theta * k), a * self.theta, k)

    def transition(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> ShiftedGamma:
        s, t = check_times(s=s, t=t)
        a = expand(self.alpha(t), x_s)
        k = expand(self.concentration(t) - self.concentration(s), x_s)
        return ShiftedGamma(a * (x_s / expand(self.alpha(s), x_s) - self.theta * k), a * self.theta, k)

    def bridge(self, x_t: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, eta: float = 1.0) -> ScaledBeta:
        """α_s [x_0 + θ(G_t·Beta(k_s, k_t − k_s) − k_s)]; a plug-in x_0 that makes G_t < 0 is clamped to G_t = 0."""
        if eta != 1.0:
            raise UserError(f"eta must be 1 for GammaNoise (no other bridge is defined), got {eta}")
        t, s = check_times(t=t, s=s)
        k_t, k_s = expand(self.concentration(t), x_t), expand(self.concentration(s), x_t)
        g_t = ((x_t / expand(self.alpha(t), x_t) - x0) / self.theta + k_t).clamp_min(0)
        a = expand(self.alpha(s), x_t)
        return ScaledBeta(a * (x0 - self.theta * k_s), a * self.theta * g_t, k_s, k_t - k_s)

    def to_dict(self) -> dict[str, Any]:
        return {"name": "gamma", "base": self.base.to_dict(), "theta": self.theta}
