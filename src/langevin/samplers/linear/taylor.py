"""Quasi-Taylor samplers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError, check_numbers
from ..._registry import register
from ...processes import ScalarGaussian
from .ddim import check_upwards
from .step import Linear, StepCoefficients


@register(
    "samplers",
    "quasi-taylor",
    title="Quasi-Taylor, ideal derivatives",
    arxiv="2112.13339",
    proof="exact: tests/laws, tests/samplers/test_taylor.py",
)
@dataclass(frozen=True)
class QuasiTaylor(Linear[ScalarGaussian]):
    r"""Taylor's expansion of the reverse equations in the time step, with ideal derivatives (arXiv:2112.13339).

    The derivatives that a Taylor method needs are replaced by those of data at a single point, the denoiser's x̂_0. On
    such data the reverse SDE with a share η of its noise is linear and has a closed solution, of mean

    .. math:: α_s \hat x_0 + κ_s (x_t - α_t \hat x_0),
              \quad κ_s = \left(\frac{σ_s}{σ_t}\right)^{1+η^2} \left(\frac{α_t}{α_s}\right)^{η^2}

    and the expansion replaces α and κ by their Taylor polynomials about t,
    :math:`\sum_{k=0}^{p} α^{(k)}_t (s - t)^k / k!`. With noise this is the Itô–Taylor expansion: noise of the rate
    :math:`G = η^2 g^2`, :math:`g^2 = 2σ^2\,\tfrac{d}{dt}\log\tfrac{σ}{α}`, is carried to s by a kernel that is
    expanded to the degree p − 1, which with h = t − s, :math:`a = -\dotκ_t` and :math:`c = -\dot G/2G` leaves the
    variance

    .. math:: G h \text{ at } p = 1, \quad G h \left[1 + (a + c) h + (a^2 + a c + c^2) h^2 / 3\right] \text{ at } p = 2.

    p = 1 is Euler's method on the probability flow (η = 0), or Euler–Maruyama; p → ∞ at η = 0 is DDIM. On other data
    the derivatives are not true ones, and every p is of order 1. Derivatives are taken by automatic differentiation. A
    time at which σ has none (σ²(t) at t = 0 is its start) begins no step.

    Args:
        order: p, 1 to 3; with noise 1 or 2.
        eta: share of the reverse SDE's noise, ≥ 0.
    """

    order: int = 2
    eta: float = 0.0
    needs = ScalarGaussian, "quasi-Taylor"

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (1, 2, 3):
            raise UserError(f"order must be 1, 2 or 3, got {self.order!r}")
        check_numbers(eta=self.eta)
        if not 0.0 <= self.eta < math.inf:
            raise UserError(f"eta must be a finite number >= 0, got {self.eta}")
        if self.eta and self.order == 3:
            raise UserError("order must be 1 or 2 with eta > 0, got 3")

    def coefficients(self, process: ScalarGaussian, times: tuple[float, ...], s: float) -> StepCoefficients:
        t, end = (torch.tensor(v, dtype=torch.float64) for v in (times[0], s))
        check_upwards(times[0], s, self.eta)
        if self.eta and float(process.alpha(t)) < 1e-9:
            raise UserError(f"grid must start where the reverse SDE has a drift: it is infinite at t = {times[0]:g}")
        kappa = lambda u: process.sigma(u) ** (1 + self.eta**2) / process.alpha(u) ** self.eta**2
        first = kappa(t)
        alpha = float(polynomial(process.alpha, t, end, self.order))
        kept = float(polynomial(kappa, t, end, self.order) / first)
        weight = alpha - kept * float(process.alpha(t))
        if not self.eta:
            return StepCoefficients(kept, (weight,))
        h = float(t - end)
        apart = _derivative(lambda u: torch.log(process.sigma(u)) - torch.log(process.alpha(u)))
        rate, slope = _slope(lambda u: 2 * process.sigma2(u) * apart(u), t)
        variance = self.eta**2 * rate * h
        if self.order == 2:
            a, c = -_slope(kappa, t)[1] / float(first), -slope / (2 * rate)
            variance *= 1 + (a + c) * h + (a * a + a * c + c * c) * h * h / 3
        return StepCoefficients(kept, (weight,), math.sqrt(variance))


def polynomial(f: Callable[[Tensor], Tensor], t: Tensor, s: Tensor, order: int) -> Tensor:
    """Taylor's polynomial of f about t, at s."""
    total, g = f(t), f
    for k in range(1, order + 1):
        g = _derivative(g)
        total = total + g(t) * (s - t) ** k / math.factorial(k)
    return total


def _derivative(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """df/dt of a function of time alone, itself such a function; zero where f does not depend on t."""

    def slope(t: Tensor) -> Tensor:
        again = torch.is_grad_enabled() and t.requires_grad
        with torch.enable_grad():
            u = t if t.requires_grad else t.detach().requires_grad_()
            value = f(u).sum()
            if not value.requires_grad:
                return torch.zeros_like(t)
            (made,) = torch.autograd.grad(value, u, create_graph=again, allow_unused=True)
            return torch.zeros_like(t) if made is None else made

    return slope


def _slope(f: Callable[[Tensor], Tensor], t: Tensor) -> tuple[float, float]:
    """f and its derivative."""
    return float(f(t)), float(_derivative(f)(t))
