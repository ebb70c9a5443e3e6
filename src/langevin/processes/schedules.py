"""The published α(t) and σ(t) in continuous time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .._errors import UserError, check_numbers
from .._registry import register
from ..distributions import Normal
from .base import one_of
from .gaussian import ScalarGaussian, VariancePreserving

_PROOF = "exact: tests/processes/test_gaussian.py, tests/laws"

SIGMAS = (1e-12, 1e12)
"""Noise levels at least and at most, in units of the data: in float32 their squares are still numbers."""


def _check_sigmas(low: float, high: float, ratio: float = 1.0) -> None:
    if not SIGMAS[0] <= low < high <= SIGMAS[1] or high <= ratio * low:
        above = "<" if ratio == 1 else f"and {ratio:.3g} sigma_min <"
        raise UserError(
            f"sigma_min, sigma_max must satisfy {SIGMAS[0]:g} <= sigma_min {above} sigma_max <= {SIGMAS[1]:g}, "
            f"got {low}, {high}"
        )


@register("processes", "vp", title="Variance-preserving SDE, linear β(t)", arxiv="2011.13456", proof=_PROOF)
@dataclass(frozen=True)
class VP(VariancePreserving):
    r"""Variance-preserving diffusion with linear β(t) (Song et al. 2021, arXiv:2011.13456, eq. 11, 33).

    .. math:: \log α_t = -\tfrac14 t^2 (β_1 - β_0) - \tfrac12 t β_0, \quad σ_t^2 = 1 - α_t^2

    Args:
        beta_min: β(0) per unit of time, > 0.
        beta_max: β(1) per unit of time, ≥ beta_min.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        check_numbers(False, beta_min=self.beta_min, beta_max=self.beta_max)
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise UserError(
                f"beta_min, beta_max must satisfy 0 < beta_min <= beta_max, got {self.beta_min}, {self.beta_max}"
            )

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def time(self, log_snr: Tensor | float) -> Tensor:
        r"""The inverse of ``log_snr``: the root of :math:`\tfrac12 t^2 (β_1 - β_0) + t β_0 = \log(1 + e^{-λ})`."""
        whole = softplus(-torch.as_tensor(log_snr, dtype=torch.float64)).clamp_max((self.beta_min + self.beta_max) / 2)
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * whole)
        return (2 * whole / (self.beta_min + root)).clamp(0, 1)


@register("processes", "sub-vp", title="Sub-VP SDE", arxiv="2011.13456", proof=_PROOF)
@dataclass(frozen=True)
class SubVP(ScalarGaussian):
    r"""Sub-variance-preserving diffusion (arXiv:2011.13456, eq. 14, 29): VP's α with the smaller noise σ = 1 − α².

    Args:
        beta_min: β(0) per unit of time, > 0.
        beta_max: β(1) per unit of time, ≥ beta_min.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        VP(self.beta_min, self.beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        return VP(self.beta_min, self.beta_max).alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * VP(self.beta_min, self.beta_max).log_alpha(t))


@register("processes", "ve", title="Variance-exploding SDE", arxiv="2011.13456", proof=_PROOF)
@dataclass(frozen=True)
class VE(ScalarGaussian):
    r"""Variance-exploding diffusion with a geometric σ (arXiv:2011.13456, eq. 9, 29).

    .. math:: x_t = x_0 + σ_t ε, \quad σ_t^2 = σ_{\min}^2 \left[ (σ_{\max}/σ_{\min})^{2t} - 1 \right]

    This is the variance of the paper's SDE started at clean data (its eq. 29), so σ(0) = 0, and
    σ(1) differs from σ_max by less than σ_min²/2σ_max.

    Args:
        sigma_min: ≥ 1e-12, in units of the data.
        sigma_max: > √2 sigma_min, ≤ 1e12.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        check_numbers(False, sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        _check_sigmas(self.sigma_min, self.sigma_max, math.sqrt(2))  # so that t_min < 1

    @property
    def t_min(self) -> float:
        """The time at which σ(t) = σ_min."""
        return math.log(2) / (2 * math.log(self.sigma_max / self.sigma_min))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma2(self, t: Tensor) -> Tensor:
        return self.sigma_min**2 * torch.expm1(2 * t * math.log(self.sigma_max / self.sigma_min))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.sigma2(t))

    def time(self, log_snr: Tensor | float) -> Tensor:
        """The inverse of ``log_snr``, from σ² = e^{−λ}."""
        sigma2 = torch.exp(-torch.as_tensor(log_snr, dtype=torch.float64))
        return (torch.log1p(sigma2 / self.sigma_min**2) / (2 * math.log(self.sigma_max / self.sigma_min))).clamp(0, 1)


@register("processes", "edm", title="EDM, σ(t) linear in t", arxiv="2206.00364", proof=_PROOF)
@dataclass(frozen=True)
class EDM(ScalarGaussian):
    r"""The process of Karras et al. (arXiv:2206.00364, Table 1): x_t = x_0 + σ ε with σ = σ_max·t.

    The paper's time is σ itself; here it is divided by σ_max, so that 1 is noise.

    Args:
        sigma_min: the smallest noise a denoiser is asked at, ≥ 1e-12, in units of the data.
        sigma_max: > sigma_min, ≤ 1e12.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        check_numbers(False, sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        _check_sigmas(self.sigma_min, self.sigma_max)

    @property
    def t_min(self) -> float:
        """The time at which σ(t) = σ_min."""
        return self.sigma_min / self.sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def time(self, log_snr: Tensor | float) -> Tensor:
        """The inverse of ``log_snr``, from σ = e^{−λ/2}."""
        return (torch.exp(-torch.as_tensor(log_snr, dtype=torch.float64) / 2) / self.sigma_max).clamp(0, 1)


@register("processes", "flow", title="Rectified flow", arxiv="2209.03003", proof=_PROOF)
@dataclass(frozen=True)
class RectifiedFlow(ScalarGaussian):
    """Straight lines from data to noise, α = 1 − t, σ = t (Liu et al. 2022, arXiv:2209.03003; also 2210.02747)."""

    @property
    def t_max(self) -> float:
        return 1 - 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 * t

    def time(self, log_snr: Tensor | float) -> Tensor:
        """The inverse of ``log_snr``, from t/(1 − t) = e^{−λ/2}."""
        return torch.sigmoid(-torch.as_tensor(log_snr, dtype=torch.float64) / 2)


@register("processes", "cosine", title="Continuous cosine schedule", arxiv="2102.09672", proof=_PROOF)
@dataclass(frozen=True)
class Cosine(ScalarGaussian):
    r"""The cosine schedule in continuous time (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17).

    .. math:: α_t = \cos a / \cos b, \quad σ_t^2 = \sin(a - b) \sin(a + b) / \cos^2 b,
              \quad a = \tfrac{π}{2} \tfrac{t + o}{1 + o}, \; b = \tfrac{π}{2} \tfrac{o}{1 + o}

    Args:
        offset: o ≥ 0; 0.008 in the paper, 0 gives α = cos(πt/2), σ = sin(πt/2).
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        check_numbers(False, offset=self.offset)
        if not 0 <= self.offset < 1:
            raise UserError(f"offset must lie in [0, 1), got {self.offset}")

    @property
    def t_max(self) -> float:
        return 1 - 1e-3

    @property
    def _b(self) -> float:
        return math.pi / 2 * self.offset / (1 + self.offset)

    def _a(self, t: Tensor) -> Tensor:
        return math.pi / 2 * (t + self.offset) / (1 + self.offset)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self._a(t)) / math.cos(self._b)

    def sigma2(self, t: Tensor) -> Tensor:
        apart = math.pi / 2 * t / (1 + self.offset)
        return torch.sin(apart) * torch.sin(self._a(t) + self._b) / math.cos(self._b) ** 2

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.sigma2(t))

    def prior(self, shape: tuple[int, ...]) -> Normal:
        """N(0, I)."""
        return Normal(torch.zeros(one_of(shape), dtype=torch.float64), 1.0)
