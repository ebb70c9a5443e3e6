"""Momentum on the probability flow: heavy balls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Dirac, Noise
from ...processes import ScalarGaussian, expand
from ..loop import Sampler, State


@register(
    "samplers",
    "heavy-ball",
    title="Generalised heavy ball",
    arxiv="2307.11118",
    proof="exact: tests/laws, tests/samplers/test_momentum.py",
)
@dataclass(frozen=True)
class HeavyBall(Sampler[ScalarGaussian]):
    r"""DDIM with momentum on ε̂ (Wizadwongsa et al. 2023, arXiv:2307.11118: HB at order 1, GHVB at order 2).

    In ρ = σ/α and y = x/α, where the flow is dy/dρ = ε̂, the direction is an average of what was seen, which widens the
    region of stability at few steps and strong guidance:

    .. math:: v_n = (1 - β) v_{n-1} + β \hat ε(x_n), \quad y_{n+1} = y_n + (ρ_{n+1} - ρ_n) \bar v_n

    Order 1 (heavy ball) takes v̄ = v_n. An average is late: with the same weights, v_n belongs to
    :math:`τ_n = (1 - β) τ_{n-1} + β ρ_n`. Order 2 (GHVB) takes the line through (τ_{n−1}, v_{n−1}) and (τ_n, v_n) to
    the middle of the step, which for uniform steps is the paper's

    .. math:: \bar v_n = \frac{(2 + β) v_n - (2 - β) v_{n-1}}{2β}

    and keeps its order on any grid. β = 1 is DDIM at order 1, Adams–Bashforth at order 2. One evaluation a step.

    Args:
        beta: β in (0, 1], the weight of the newest direction.
        order: 1 or 2.
    """

    beta: float = 0.8
    order: int = 2
    needs = ScalarGaussian, "the heavy ball"

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 1:
            raise UserError(f"beta must lie in (0, 1], got {self.beta}")
        if isinstance(self.order, bool) or self.order not in (1, 2):
            raise UserError(f"order must be 1 or 2, got {self.order!r}")

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process = denoiser.process
        x, t = state.x, state.t
        belief = denoiser(x, t)
        alpha = process.alpha(t)
        x_s = process.reverse(x, Dirac(belief.mean), t, s, 0.0).mean
        if bool((alpha == 0).any()) or bool((t == 0).any()):
            return state.move(x_s, s, belief=belief)  # no ρ there: DDIM, and a fresh start
        eps = process.noise(x, belief, t)
        rho, rho_s = process.sigma(t) / alpha, process.sigma(s) / process.alpha(s)
        if state.memory is None:
            return state.move(x_s, s, memory=(eps, rho), belief=belief)
        before, tau_before = state.memory
        v, tau = torch.lerp(before, eps, self.beta), torch.lerp(tau_before, rho, self.beta)
        ahead = v
        if self.order == 2:
            apart = tau - tau_before
            weight = torch.where(apart != 0, ((rho + rho_s) / 2 - tau) / apart, 0.0)
            ahead = v + expand(weight, x) * (v - before)
        # What the direction is beyond ε̂, on top of DDIM's step, which is right at both ends.
        moved = x_s + expand(process.alpha(s) * (rho_s - rho), x) * (ahead - eps)
        return state.move(moved, s, memory=(v, tau), belief=belief)
