"""Quasi-Taylor samplers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Noise
from ..processes import Process, ScalarGaussian, expand, power
from .loop import Sampler, State
from .singlestep import check_start


@register(
    "samplers",
    "quasi-taylor",
    title="Quasi-Taylor, ideal derivatives",
    arxiv="2112.13339",
    catalogue="C19",
    proof="exact: tests/laws, tests/samplers/test_taylor.py",
)
@dataclass(frozen=True)
class QuasiTaylor(Sampler):
    r"""Taylor's expansion of the probability flow in the time step, with ideal derivatives (arXiv:2112.13339).

    The derivatives along the flow that a Taylor method needs are replaced by those of data at a single point, the
    denoiser's x̂_0. On such data x̂_0 and ε̂ are constant on a trajectory, so the solution is α_s x̂_0 + σ_s ε̂, and the
    expansion replaces α and σ by their Taylor polynomials about t:

    .. math:: x_s = \hat x_0 \sum_{k=0}^{p} α^{(k)}_t \frac{(s - t)^k}{k!}
                  + \hat ε \sum_{k=0}^{p} σ^{(k)}_t \frac{(s - t)^k}{k!}

    p = 1 is Euler's method on the probability flow, p → ∞ is DDIM. On other data the derivatives are not true ones, and
    every p is of order 1. Derivatives are taken by automatic differentiation. A time at which σ has none (σ²(t) at
    t = 0 is its start) begins no step.

    Args:
        order: p, 1 to 3.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (1, 2, 3):
            raise UserError(f"order must be 1, 2 or 3, got {self.order!r}")

    def check(self, process: Process) -> None:
        power(process, ScalarGaussian, "quasi-Taylor")

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        check_start(state.t, s)
        process: ScalarGaussian = denoiser.process  # type: ignore[assignment]
        x, t = state.x, state.t
        alpha, sigma = (polynomial(process, f, t, s, self.order) for f in (process.alpha, process.sigma))
        belief = denoiser(x, t)
        kept = sigma / process.sigma(t)
        moved = expand(alpha - kept * process.alpha(t), x) * belief.mean + expand(kept, x) * x
        return state.move(moved, s, belief=belief)


def polynomial(process: ScalarGaussian, f: Callable[[Tensor], Tensor], t: Tensor, s: Tensor, order: int) -> Tensor:
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
