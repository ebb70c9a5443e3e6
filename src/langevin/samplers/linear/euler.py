"""Euler's method on the reverse-time equations: the probability flow, the reverse SDE, predictor–corrector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError, check_numbers
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise
from ...processes import ProbabilityFlow, Process, ScalarGaussian, expand, require
from ..loop import Sampler, State
from ..mcmc.langevin import Langevin
from .step import Linear, StepCoefficients


@register(
    "samplers", "euler-maruyama", title="Reverse SDE, Euler–Maruyama", arxiv="2011.13456", proof="exact: tests/laws"
)
@dataclass(frozen=True)
class EulerMaruyama(Linear[ScalarGaussian]):
    r"""The reverse SDE by Euler–Maruyama (Song et al. 2021, arXiv:2011.13456 eq. 6; η as in 2206.00364 eq. 6).

    .. math:: x_s = x_t + \left[f x_t - \tfrac{1+η^2}{2} g^2 ∇\log p_t(x_t)\right](s - t) + η g \sqrt{t - s}\, z

    It needs a finite drift at every time it starts a step from: where α(1) = 0, start below 1.

    Args:
        eta: η ≥ 0; 1 is the reverse SDE, 0 the probability flow.
    """

    eta: float = 1.0
    needs = ScalarGaussian, "Euler–Maruyama"

    def __post_init__(self) -> None:
        check_numbers(eta=self.eta)
        if not 0.0 <= self.eta < float("inf"):
            raise UserError(f"eta must be >= 0, got {self.eta}")

    def coefficients(self, process: ScalarGaussian, times: tuple[float, ...], s: float) -> StepCoefficients:
        t = times[0]
        at = torch.tensor(t, dtype=torch.float64)
        alpha, sigma2 = float(process.alpha(at)), float(process.sigma2(at))
        drift, g2 = float(process.drift(at)), float(process.diffusion2(at))
        if not (math.isfinite(drift) and math.isfinite(g2) and alpha > 1e-9):
            raise UserError(f"grid must start where the reverse SDE has a drift: it is infinite at t = {t:g}")
        if s > t:
            raise UserError("grid must decrease for the reverse SDE")
        # ∇ log p_t = (α x̂_0 − x)/σ²; the Brownian time of the equation is t itself.
        pull = (1 + self.eta**2) / 2 * g2 / sigma2 * (t - s)
        return StepCoefficients(1 - drift * (t - s) - pull, (pull * alpha,), self.eta * math.sqrt(g2 * (t - s)))


@register("samplers", "euler", title="Probability flow, Euler", arxiv="2011.13456", proof="exact: tests/laws")
@dataclass(frozen=True)
class Euler(Sampler):
    r"""The probability flow by Euler's method: :math:`x_s = x_t + (s - t)\, v(x_t, t)` (arXiv:2011.13456 eq. 13)."""

    needs = ProbabilityFlow, "Euler"

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return ScalarEuler().plan(process, grid) if isinstance(process, ScalarGaussian) else self

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        belief = denoiser(state.x, state.t)
        slope = require(denoiser.process, ProbabilityFlow, "Euler").velocity(state.x, belief, state.t)
        return state.move(state.x + expand(s - state.t, state.x) * slope, s, belief=belief)


@dataclass(frozen=True)
class ScalarEuler(Linear[ScalarGaussian]):
    r"""Euler's method where the velocity is :math:`\dot α \hat x_0 + \dot σ \hat ε`: two numbers a step."""

    needs = ScalarGaussian, "Euler"

    def coefficients(self, process: ScalarGaussian, times: tuple[float, ...], s: float) -> StepCoefficients:
        of_x, of_mean = velocity_coefficients(process, times[0])
        h = s - times[0]
        return StepCoefficients(1 + h * of_x, (h * of_mean,))


def velocity_coefficients(process: ScalarGaussian, t: float) -> tuple[float, float]:
    """(a, b) of the velocity a·x_t + b·x̂_0."""
    at = torch.tensor(t, dtype=torch.float64)
    ratio = process.rate(process.sigma, at) / process.sigma(at)
    return float(ratio), float(process.rate(process.alpha, at) - ratio * process.alpha(at))


@register("samplers", "pc", title="Predictor–corrector", arxiv="2011.13456", proof="exact: tests/laws")
def PredictorCorrector(steps: int = 1, step_size: float = 0.1) -> Sampler:
    """Euler–Maruyama, then Langevin steps at the new time (arXiv:2011.13456 alg. 1–2)."""
    return EulerMaruyama().then(Langevin(steps, step_size))
