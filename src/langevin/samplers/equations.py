"""Samplers of the reverse-time equations: Euler–Maruyama, probability-flow Euler and Heun, predictor–corrector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Noise
from ..processes import ProbabilityFlow, Process, ScalarGaussian, expand, power
from .correctors import Langevin
from .linear import Linear, Row, Rule
from .loop import Sampler, State
from .singlestep import Settled, Stage


@register(
    "samplers",
    "euler-maruyama",
    title="Reverse SDE, Euler–Maruyama",
    arxiv="2011.13456",
    proof="exact: tests/laws",
)
@dataclass(frozen=True)
class EulerMaruyama(Linear):
    r"""The reverse SDE by Euler–Maruyama (Song et al. 2021, arXiv:2011.13456 eq. 6; η as in 2206.00364 eq. 6).

    .. math:: x_s = x_t + \left[f x_t - \tfrac{1+η^2}{2} g^2 ∇\log p_t(x_t)\right](s - t) + η g \sqrt{t - s}\, z

    It needs a finite drift at every time it starts a step from: where α(1) = 0, start below 1.

    Args:
        eta: η ≥ 0; 1 is the reverse SDE, 0 the probability flow.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(eta=self.eta)
        if not 0.0 <= self.eta < float("inf"):
            raise UserError(f"eta must be >= 0, got {self.eta}")

    def check(self, process: Process) -> None:
        power(process, ScalarGaussian, "Euler–Maruyama")

    def row(self, process: Process, times: tuple[float, ...], s: float) -> Row:
        gaussian: ScalarGaussian = process  # type: ignore[assignment]
        t = times[0]
        at = torch.tensor(t, dtype=torch.float64)
        alpha, sigma2 = float(gaussian.alpha(at)), float(gaussian.sigma2(at))
        drift, g2 = float(gaussian.drift(at)), float(gaussian.diffusion2(at))
        if not (math.isfinite(drift) and math.isfinite(g2) and alpha > 1e-9):
            raise UserError(f"grid must start where the reverse SDE has a drift: it is infinite at t = {t:g}")
        if s > t:
            raise UserError("grid must decrease for the reverse SDE")
        # ∇ log p_t = (α x̂_0 − x)/σ²; the Brownian motion of the equation itself runs at the clock t.
        pull = (1 + self.eta**2) / 2 * g2 / sigma2 * (t - s)
        step = Rule(1 - drift * (t - s) - pull, (pull * alpha,))
        return Row(None, step, self.eta * math.sqrt(g2 * (t - s)))


@register(
    "samplers",
    "euler",
    title="Probability flow, Euler",
    arxiv="2011.13456",
    proof="exact: tests/laws",
)
@dataclass(frozen=True)
class Euler(Sampler):
    r"""The probability flow by Euler's method: :math:`x_s = x_t + (s - t)\, v(x_t, t)` (arXiv:2011.13456 eq. 13)."""

    def check(self, process: Process) -> None:
        power(process, ProbabilityFlow, "Euler")

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return ScalarEuler().plan(process, grid) if isinstance(process, ScalarGaussian) else self

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        belief = denoiser(state.x, state.t)
        slope = power(denoiser.process, ProbabilityFlow, "Euler").velocity(state.x, belief, state.t)
        return state.move(state.x + expand(s - state.t, state.x) * slope, s, belief=belief)


@dataclass(frozen=True)
class ScalarEuler(Linear):
    r"""Euler's method where the velocity is :math:`\dot α \hat x_0 + \dot σ \hat ε`: two numbers a step."""

    def check(self, process: Process) -> None:
        power(process, ScalarGaussian, "Euler")

    def row(self, process: Process, times: tuple[float, ...], s: float) -> Row:
        of_x, of_mean = _velocity(process, times[0])  # type: ignore[arg-type]
        h = s - times[0]
        return Row(None, Rule(1 + h * of_x, (h * of_mean,)))


def _velocity(process: ScalarGaussian, t: float) -> tuple[float, float]:
    """(a, b) of the velocity a·x_t + b·x̂_0."""
    at = torch.tensor(t, dtype=torch.float64)
    ratio = process.rate(process.sigma, at) / process.sigma(at)
    return float(ratio), float(process.rate(process.alpha, at) - ratio * process.alpha(at))


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

    def check(self, process: Process) -> None:
        power(process, ProbabilityFlow, "Heun")

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        if not isinstance(process, ScalarGaussian):
            return self
        try:
            return Settled(self, _heun(process, tuple(grid.tolist())))
        except TypeError:  # a process that cannot be hashed
            return Settled(self, _heun.__wrapped__(process, tuple(grid.tolist())))

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


@lru_cache(maxsize=64)
def _heun(process: ScalarGaussian, grid: tuple[float, ...]) -> dict[tuple[float, float], tuple[Stage, ...]]:
    """Heun's steps as rows of numbers."""
    made = {}
    for t, s in pairwise(grid):
        h, (a, b) = s - t, _velocity(process, t)
        stages = [Stage(torch.tensor(t, dtype=torch.float64), (1 + h * a,), (h * b,))]
        if s > 0:
            c, d = _velocity(process, s)
            stages.append(
                Stage(torch.tensor(s, dtype=torch.float64), (1 + h / 2 * a, h / 2 * c), (h / 2 * b, h / 2 * d))
            )
        made[t, s] = tuple(stages)
    return made


@register(
    "samplers",
    "pc",
    title="Predictor–corrector",
    arxiv="2011.13456",
    proof="exact: tests/laws",
)
def PredictorCorrector(steps: int = 1, step_size: float = 0.1) -> Sampler:
    """Euler–Maruyama, then Langevin steps at the new time (arXiv:2011.13456 alg. 1–2)."""
    return EulerMaruyama().then(Langevin(steps, step_size))
