"""Heun's method on the probability flow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise
from ...processes import ProbabilityFlow, Process, ScalarGaussian, expand, require
from ..linear.euler import velocity_coefficients
from ..loop import Sampler, State
from .singlestep import Stage, Staged


@register(
    "samplers",
    "heun",
    title="Probability flow, Heun (EDM)",
    arxiv="2206.00364",
    proof="exact: tests/laws; parity: tests/samplers/test_parity.py",
)
@dataclass(frozen=True)
class Heun(Sampler):
    r"""The probability flow by Heun's method, two evaluations a step (Karras et al. 2022, arXiv:2206.00364 alg. 1).

    .. math:: \tilde x = x_t + (s - t) v_t(x_t), \quad x_s = x_t + \tfrac12 (s - t) [v_t(x_t) + v_s(\tilde x)]

    The step to t = 0 is Euler's: the velocity there divides by σ = 0.
    """

    needs = ProbabilityFlow, "Heun"

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return ScalarHeun().plan(process, grid) if isinstance(process, ScalarGaussian) else self

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        process = require(denoiser.process, ProbabilityFlow, "Heun")
        x, t = state.x, state.t
        h = expand(s - t, x)
        belief = denoiser(x, t)
        first = process.velocity(x, belief, t)
        ahead = x + h * first
        if bool((s == 0).any()):
            return state.move(ahead, s, belief=belief)
        second = process.velocity(ahead, denoiser(ahead, s), s)
        return state.move(x + h * (first + second) / 2, s, belief=belief)


@dataclass(frozen=True)
class ScalarHeun(Staged):
    r"""Heun's method where the velocity is :math:`\dot α \hat x_0 + \dot σ \hat ε`: numbers alone a step."""

    def stages(self, process: ScalarGaussian, t: Tensor, s: Tensor) -> tuple[Stage, ...]:
        h, (a, b) = float(s - t), velocity_coefficients(process, float(t))
        first = Stage(t, (1 + h * a,), (h * b,))
        if s == 0:
            return (first,)
        c, d = velocity_coefficients(process, float(s))
        return first, Stage(s, (1 + h / 2 * a, h / 2 * c), (h / 2 * b, h / 2 * d))
