"""Scalar-Gaussian processes: x_t = α(t) x_0 + σ(t) ε."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .._errors import UserError, check_integer, check_numbers, shown
from .._registry import register
from ..distributions import Distribution, Normal
from .base import Observation, Process, as_time, expand
from .cubic import MonotoneCubic

SIGMAS = (1e-12, 1e12)
"""Noise levels at least and at most, in units of the data: in float32 their squares are still numbers."""


def _check_sigmas(low: float, high: float, ratio: float = 1.0) -> None:
    if not SIGMAS[0] <= low < high <= SIGMAS[1] or high <= ratio * low:
        above = "<" if ratio == 1 else f"and {ratio:.3g} sigma_min <"
        raise UserError(
            f"sigma_min, sigma_max must satisfy {SIGMAS[0]:g} <= sigma_min {above} sigma_max <= {SIGMAS[1]:g}, "
            f"got {low}, {high}"
        )


class ScalarGaussian(Process):
    r"""x_t = α(t) x_0 + σ(t) ε with ε ~ N(0, I): the subclass writes α and σ, the rest follows.

    α(0) = 1, σ(0) = 0, and the signal-to-noise ratio α²/σ² decreases. Derivatives are taken by automatic
    differentiation of α and σ, never typed in.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """α(t) ≥ 0, the scale of the data; float64 like t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """σ(t) ≥ 0, the standard deviation of the noise; float64 like t."""

    def sigma2(self, t: Tensor) -> Tensor:
        """σ²(t); where σ is a root, this is what stands under it, which has a derivative at t = 0."""
        return self.sigma(t) ** 2

    @property
    def t_min(self) -> float:
        return 1e-3

    def log_snr(self, t: Tensor | float) -> Tensor:
        r""":math:`λ(t) = \log α_t^2 / σ_t^2`; +∞ at t = 0 (and −∞ where α = 0)."""
        t = as_time(t)
        return 2 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def time(self, log_snr: Tensor | float) -> Tensor:
        """The inverse of ``log_snr``, by bisection to 2⁻⁶⁴; values outside its range give 0 or 1."""
        target = torch.as_tensor(log_snr, dtype=torch.float64)
        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(64):
            middle = (low + high) / 2
            above = self.log_snr(middle) > target
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return torch.where(self.log_snr(high) >= target, high, low)

    def rate(self, f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
        """df/dt at t, for a function of time alone; differentiable again if t is."""
        # Reverse mode: each f(t_i) depends on its own t_i, and a jvp of these small functions costs ten times as much.
        again = torch.is_grad_enabled() and t.requires_grad
        with torch.enable_grad():
            u = t if t.requires_grad else t.detach().requires_grad_()
            value = f(u).sum()
            constant = not value.requires_grad
            return torch.zeros_like(t) if constant else torch.autograd.grad(value, u, create_graph=again)[0]

    def drift(self, t: Tensor | float) -> Tensor:
        r"""f(t) of :math:`dx = f x\,dt + g\,dw`: :math:`f = \dot α / α`."""
        t = as_time(t)
        return self.rate(self.alpha, t) / self.alpha(t)

    def diffusion2(self, t: Tensor | float) -> Tensor:
        r"""g²(t): :math:`g^2 = \frac{dσ^2}{dt} - 2 f σ^2 = 2σ(\dot σ - \frac{\dot α}{α} σ)`."""
        t = as_time(t)
        return self.rate(self.sigma2, t) - 2 * self.drift(t) * self.sigma2(t)

    def prior(self, shape: tuple[int, ...]) -> Normal:
        """N(0, σ(1)² I)."""
        one = torch.ones((), dtype=torch.float64)
        return Normal(torch.zeros(1, *shape, dtype=torch.float64), self.sigma(one) ** 2)

    def marginal(self, x0: Tensor, t: Tensor | float) -> Normal:
        """q(x_t | x_0) = N(α_t x_0, σ_t² I)."""
        t = as_time(t)
        return Normal(expand(self.alpha(t), x0) * x0, expand(self.sigma(t) ** 2, x0))

    def transition(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Normal:
        r""":math:`q(x_t | x_s) = N(\frac{α_t}{α_s} x_s, σ_t^2 (1 - e^{λ_t - λ_s}))`, s ≤ t."""
        s, t = as_time(s), as_time(t)
        ratio = torch.where(s == t, 1.0, self.alpha(t) / self.alpha(s))
        variance = -self.sigma2(t) * torch.expm1(self._fall(t, s))
        return Normal(expand(ratio, x_s) * x_s, expand(variance, x_s))

    def _fall(self, t: Tensor, s: Tensor) -> Tensor:
        """λ_t − λ_s, which is 0 for a sample that stands still at infinite λ too."""
        return torch.where(s == t, 0.0, self.log_snr(t) - self.log_snr(s))

    def bridge_coefficients(
        self, t: Tensor | float, s: Tensor | float, eta: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""(a, b, v) of :math:`q_η(x_s | x_t, x_0) = N(a x_0 + b x_t, v)` (arXiv:2010.02502 eq. 7, 16).

        .. math::
            v = η^2 σ_s^2 (1 - e^{λ_t - λ_s}), \quad b = \sqrt{σ_s^2 - v} / σ_t, \quad a = α_s - b α_t
        """
        t, s = as_time(t), as_time(s)
        if not 0.0 <= eta <= 1.0:
            raise UserError(f"eta must lie in [0, 1], got {eta}")
        ratio = torch.where(s == t, 1.0, self.sigma(s) / self.sigma(t))
        fall = self._fall(t, s) if eta else torch.zeros_like(ratio)
        b = ratio * torch.sqrt(1 - eta**2 + eta**2 * torch.exp(fall))
        return self.alpha(s) - b * self.alpha(t), b, -(eta**2) * self.sigma2(s) * torch.expm1(fall)

    def bridge(self, x_t: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, eta: float = 1.0) -> Normal:
        a, b, v = self.bridge_coefficients(t, s, eta)
        return Normal(expand(a, x0) * x0 + expand(b, x_t) * x_t, expand(v, x_t))

    def reverse(
        self, x_t: Tensor, belief: Distribution, t: Tensor | float, s: Tensor | float, eta: float = 1.0
    ) -> Distribution:
        """The belief's law of a·x_0 + b·x_t + N(0, v): exact for every law that is closed under affine maps."""
        a, b, v = self.bridge_coefficients(t, s, eta)
        return belief.affine(expand(a, x_t), expand(b, x_t) * x_t, expand(v, x_t))

    def observe(self, x_t: Tensor, t: Tensor | float) -> Observation:
        t = as_time(t)
        return Observation(x_t, self.alpha(t), self.sigma(t), torch.zeros((), dtype=torch.float64))

    def noise(self, x_t: Tensor, belief: Distribution, t: Tensor | float) -> Tensor:
        r""":math:`\hat ε = (x_t - α_t \hat x_0) / σ_t`."""
        t = as_time(t)
        return (x_t - expand(self.alpha(t), x_t) * belief.mean) / expand(self.sigma(t), x_t)

    def score(self, x_t: Tensor, belief: Distribution, t: Tensor | float) -> Tensor:
        r""":math:`∇ \log p_t(x_t) = (α_t \hat x_0 - x_t) / σ_t^2`."""
        t = as_time(t)
        return (expand(self.alpha(t), x_t) * belief.mean - x_t) / expand(self.sigma(t) ** 2, x_t)

    def velocity(self, x_t: Tensor, belief: Distribution, t: Tensor | float) -> Tensor:
        r""":math:`\dot x = \dot α_t \hat x_0 + \dot σ_t \hat ε` (arXiv:2011.13456 eq. 13, written in x_0 and ε)."""
        t = as_time(t)
        d_alpha, d_sigma = self.rate(self.alpha, t), self.rate(self.sigma, t)
        ratio = d_sigma / self.sigma(t)
        return expand(d_alpha - ratio * self.alpha(t), x_t) * belief.mean + expand(ratio, x_t) * x_t


class VariancePreserving(ScalarGaussian):
    """α² + σ² = 1: the subclass writes log α, and σ follows without cancellation near t = 0."""

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log α(t) ≤ 0."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self.log_alpha(t))

    def sigma2(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self.log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.sigma2(t))

    def prior(self, shape: tuple[int, ...]) -> Normal:
        """N(0, I), the marginal of standardised data at every t."""
        return Normal(torch.zeros(1, *shape, dtype=torch.float64), 1.0)


@register(
    "processes",
    "vp",
    title="Variance-preserving SDE, linear β(t)",
    arxiv="2011.13456",
    proof="exact: tests/processes/test_gaussian.py, tests/laws",
)
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


@register(
    "processes",
    "sub-vp",
    title="Sub-VP SDE",
    arxiv="2011.13456",
    proof="exact: tests/processes/test_gaussian.py, tests/laws",
)
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


@register(
    "processes",
    "ve",
    title="Variance-exploding SDE",
    arxiv="2011.13456",
    proof="exact: tests/processes/test_gaussian.py, tests/laws",
)
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


@register(
    "processes",
    "edm",
    title="EDM, σ(t) linear in t",
    arxiv="2206.00364",
    proof="exact: tests/processes/test_gaussian.py, tests/laws",
)
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


@register(
    "processes",
    "flow",
    title="Rectified flow",
    arxiv="2209.03003",
    proof="exact: tests/processes/test_gaussian.py, tests/laws",
)
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


@register(
    "processes",
    "cosine",
    title="Continuous cosine schedule",
    arxiv="2102.09672",
    proof="exact: tests/processes/test_gaussian.py, tests/laws",
)
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
        return Normal(torch.zeros(1, *shape, dtype=torch.float64), 1.0)


def _check_betas(n: int, **values: float) -> None:
    check_integer("n", n, 1)
    check_numbers(False, **values)
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} must lie in [0, 1), got {value}")


def linear_betas(n: int = 1000, start: float = 1e-4, end: float = 0.02) -> tuple[float, ...]:
    """β_1…β_N linear from start to end (Ho et al. 2020, arXiv:2006.11239 §4)."""
    _check_betas(n, start=start, end=end)
    return tuple(torch.linspace(start, end, n, dtype=torch.float64).tolist())


def scaled_linear_betas(n: int = 1000, start: float = 0.00085, end: float = 0.012) -> tuple[float, ...]:
    """√β linear from √start to √end (latent diffusion, arXiv:2112.10752)."""
    _check_betas(n, start=start, end=end)
    return tuple((torch.linspace(start**0.5, end**0.5, n, dtype=torch.float64) ** 2).tolist())


def cosine_betas(n: int = 1000, offset: float = 0.008, ceiling: float = 0.999) -> tuple[float, ...]:
    """β_n = 1 − ᾱ_n/ᾱ_{n−1} of the cosine schedule, at most ``ceiling`` (arXiv:2102.09672 eq. 17)."""
    _check_betas(n, offset=offset, ceiling=ceiling)
    t = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    alpha_bar = Cosine(offset).alpha(t) ** 2
    return tuple((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(ceiling).tolist())


@register(
    "processes",
    "ddpm",
    title="DDPM, a table of β",
    arxiv="2006.11239",
    proof="exact: tests/processes/test_gaussian.py, tests/laws; parity: tests/samplers/test_parity.py",
)
@dataclass(frozen=True)
class DDPM(VariancePreserving):
    r"""A table β_1…β_N (arXiv:2006.11239, eq. 2, 4): :math:`α^2(n/N) = \barα_n = \prod_{i \le n} (1 - β_i)`, ᾱ_0 = 1.

    Knot n stands at t = n/N. Between knots log ᾱ is a monotone cubic (Fritsch & Carlson 1980), so a network trained on
    the table can be asked at any log-SNR, and the drift has one value at a knot; at the knots the table is exact.

    Args:
        betas: N numbers in (0, 1); ``linear_betas()`` if not given, or ``cosine_betas``, ``scaled_linear_betas``, or
            your own.
    """

    betas: Sequence[float] = linear_betas()

    def __post_init__(self) -> None:
        try:
            betas = tuple(float(b) for b in self.betas)
        except (TypeError, ValueError):
            raise UserError(
                "betas must be a sequence of numbers in (0, 1), such as langevin.processes.cosine_betas(1000), got "
                f"{shown(self.betas)}"
            ) from None
        if not betas or not all(0 < b < 1 for b in betas):
            raise UserError("betas must be one or more numbers in (0, 1)")
        object.__setattr__(self, "betas", betas)

    def __repr__(self) -> str:
        return f"DDPM(betas={self.betas[0]:.3g}…{self.betas[-1]:.3g}, N={self.steps})"

    @property
    def steps(self) -> int:
        """N."""
        return len(self.betas)

    def __hash__(self) -> int:  # of a thousand numbers, every time that steps on a grid are looked up
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.betas)

    @property
    def t_min(self) -> float:
        """The first knot, 1/N."""
        return 1 / self.steps

    @cached_property
    def _curve(self) -> MonotoneCubic:
        return MonotoneCubic(0.0, torch.log1p(-torch.tensor(self.betas, dtype=torch.float64)) / 2)

    def log_alpha(self, t: Tensor) -> Tensor:
        return self._curve(t * self.steps)

    def time(self, log_snr: Tensor | float) -> Tensor:
        """The inverse of ``log_snr``, from log α = −½ log(1 + e^{−λ})."""
        target = -softplus(-torch.as_tensor(log_snr, dtype=torch.float64)) / 2
        return self._curve.inverse(target) / self.steps

    def knot(self, t: Tensor | float) -> Tensor:
        """n of t = n/N, int64; a time between the knots is a ``ValueError``."""
        scaled = as_time(t) * self.steps
        n = torch.round(scaled)
        if ((scaled - n).abs() > 1e-6).any():
            raise UserError(f"t must be a knot n/{self.steps} of the table, got {t}")
        return n.long()
