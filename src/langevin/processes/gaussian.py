"""Scalar-Gaussian processes: x_t = α(t) x_0 + σ(t) ε."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ..distributions import Distribution, Normal
from .base import Observation, Process, as_time, check_eta, check_times, expand, one_of


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
        return Normal(torch.zeros(one_of(shape), dtype=torch.float64), self.sigma(one) ** 2)

    def marginal(self, x0: Tensor, t: Tensor | float) -> Normal:
        """q(x_t | x_0) = N(α_t x_0, σ_t² I)."""
        (t,) = check_times(t=t)
        return Normal(expand(self.alpha(t), x0) * x0, expand(self.sigma(t) ** 2, x0))

    def transition(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Normal:
        r""":math:`q(x_t | x_s) = N(\frac{α_t}{α_s} x_s, σ_t^2 (1 - e^{λ_t - λ_s}))`, s ≤ t."""
        s, t = check_times(s=s, t=t)
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
        check_eta(eta)
        ratio = torch.where(s == t, 1.0, self.sigma(s) / self.sigma(t))
        fall = self._fall(t, s) if eta else torch.zeros_like(ratio)
        b = ratio * torch.sqrt(1 - eta**2 + eta**2 * torch.exp(fall))
        return self.alpha(s) - b * self.alpha(t), b, -(eta**2) * self.sigma2(s) * torch.expm1(fall)

    def bridge(self, x_t: Tensor, x0: Tensor, t: Tensor | float, s: Tensor | float, eta: float = 1.0) -> Normal:
        t, s = check_times(t=t, s=s)
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
        return Normal(torch.zeros(one_of(shape), dtype=torch.float64), 1.0)
