"""Samplers of the reverse-time equations: Euler–Maruyama, probability-flow Euler and Heun, predictor–corrector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Noise
from ..processes import ProbabilityFlow, Process, ScalarGaussian, expand, power
from .correctors import Langevin
from .loop import Sampler, State


@register(
    "samplers",
    "euler-maruyama",
    title="Reverse SDE, Euler–Maruyama",
    arxiv="2011.13456",
    catalogue="A7",
    proof="exact: tests/laws",
)
@dataclass(frozen=True)
class EulerMaruyama(Sampler):
    r"""The reverse SDE by Euler–Maruyama (Song et al. 2021, arXiv:2011.13456 eq. 6; η as in 2206.00364 eq. 6).

    .. math:: x_s = x_t + \left[f x_t - \tfrac{1+η^2}{2} g^2 ∇\log p_t(x_t)\right](s - t) + η g \sqrt{t - s}\, z

    It needs a finite drift at every time it starts a step from: where α(1) = 0, start below 1.

    Args:
        eta: η ≥ 0; 1 is the reverse SDE, 0 the probability flow.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta < float("inf"):
            raise UserError(f"eta must be >= 0, got {self.eta}")

    def check(self, process: Process) -> None:
        power(process, ScalarGaussian, "Euler–Maruyama")

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        process: ScalarGaussian = denoiser.process  # type: ignore[assignment]
        x, t = state.x, state.t
        drift, g2 = process.drift(t), process.diffusion2(t)
        if not bool((drift.isfinite() & g2.isfinite() & (process.alpha(t) > 1e-9)).all()):
            raise UserError(f"grid must start where the reverse SDE has a drift: it is infinite at t = {float(t):g}")
        if bool((s > t).any()):
            raise UserError("grid must decrease for the reverse SDE")
        belief = denoiser(x, t)
        slope = expand(drift, x) * x - expand((1 + self.eta**2) / 2 * g2, x) * process.score(x, belief, t)
        moved = x + expand(s - t, x) * slope
        if self.eta:
            # The Brownian motion of the equation itself runs at the clock t.
            moved = moved + expand(self.eta * torch.sqrt(g2), x) * noise.increment(tuple(x.shape[1:]), t, s, _time).to(
                x
            )
        return state.move(moved, s, belief=belief)


def _time(t: Tensor) -> Tensor:
    return t


@register(
    "samplers",
    "euler",
    title="Probability flow, Euler",
    arxiv="2011.13456",
    catalogue="A7",
    proof="exact: tests/laws",
)
@dataclass(frozen=True)
class Euler(Sampler):
    r"""The probability flow by Euler's method: :math:`x_s = x_t + (s - t)\, v(x_t, t)` (arXiv:2011.13456 eq. 13)."""

    def check(self, process: Process) -> None:
        power(process, ProbabilityFlow, "Euler")

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        belief = denoiser(state.x, state.t)
        slope = power(denoiser.process, ProbabilityFlow, "Euler").velocity(state.x, belief, state.t)
        return state.move(state.x + expand(s - state.t, state.x) * slope, s, belief=belief)


@register(
    "samplers",
    "heun",
    title="Probability flow, Heun (EDM)",
    arxiv="2206.00364",
    catalogue="C7",
    proof="exact: tests/laws; parity: tests/samplers/test_parity.py",
)
@dataclass(frozen=True)
class Heun(Sampler):
    r"""The probability flow by Heun's method, two evaluations a step (Karras et al. 2022, arXiv:2206.00364 alg. 1).

    .. math:: \tilde x = x_t + (s - t) v_t(x_t), \quad x_s = x_t + \tfrac12 (s - t) [v_t(x_t) + v_s(\tilde x)]

    The step to t = 0 is Euler's: the velocity there divides by σ = 0.
    """

    def check(self, process: Process) -> None:
        power(process, ProbabilityFlow, "Heun")

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        process = power(denoiser.process, ProbabilityFlow, "Heun")
        x, t = state.x, state.t
        h = expand(s - t, x)
        belief = denoiser(x, t)
        first = process.velocity(x, belief, t)
        ahead = x + h * first
        if bool((s == 0).any()):
            return state.move(ahead, s, belief=belief)
        second = process.velocity(ahead, denoiser(ahead, s), s)
        return state.move(x + h * (first + second) / 2, s, belief=belief)


@register(
    "samplers",
    "pc",
    title="Predictor–corrector",
    arxiv="2011.13456",
    catalogue="A7",
    proof="exact: tests/laws",
)
def PredictorCorrector(steps: int = 1, step_size: float = 0.1) -> Sampler:
    """Euler–Maruyama, then Langevin steps at the new time (arXiv:2011.13456 alg. 1–2)."""
    return EulerMaruyama().then(Langevin(steps, step_size))
