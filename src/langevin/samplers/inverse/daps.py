"""DAPS: clean data drawn given the measurement, then noised to the next level, each level on its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError, check_integer
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise, Stream
from ...guidance.measurement.pigdm import believed_variance
from ...processes import ScalarGaussian, expand
from ...processes.grids import between
from ..linear.ddim import DDIM
from ..loop import Sampler, State
from .base import MeasuredSampler, check_share, given_measurement, is_linear_gaussian, level, walk


def to_clean(
    process: ScalarGaussian, state: State, denoiser: Denoiser[ScalarGaussian], noise: Noise, steps: int, rule: Sampler
) -> State:
    """A state taken to t = 0 by ``steps`` steps of a sampler, uniform in log-SNR down to ``t_min``, then 0."""
    zero = torch.zeros((), dtype=torch.float64)
    inside = steps - 1 if bool((state.t > process.t_min).all()) else 0
    floor = torch.full_like(state.t, process.t_min)
    shares = torch.arange(1, inside + 1, dtype=torch.float64) / max(1, inside)
    times = [*(between(process, state.t.clamp_max(process.t_max), floor, shares) if inside else ()), zero]
    for i, s in enumerate(times):
        state = rule.step(state, s, denoiser, noise.fold_in(Stream.SUBSTEP + i))
    return state


@register(
    "samplers",
    "daps",
    title="Decoupled annealing posterior sampling",
    arxiv="2407.01521",
    proof="exact: tests/samplers/test_inverse.py",
)
@dataclass(frozen=True, eq=False)
class DAPS(MeasuredSampler):
    r"""DAPS (Zhang et al. 2024, arXiv:2407.01521 alg. 1): no state follows from the one before but through x_0.

    .. math::
        \hat x_0 &= \text{the probability flow from } x_t \text{ to } 0 \\
        x_0 &\sim N(x_0; \hat x_0, r_t^2 I)\, p(y | x_0) \quad \text{by Langevin dynamics} \\
        x_s &\sim q(x_s | x_0)

    Args:
        measurement: by any operator that is differentiable, with noise that has a density.
        flow: steps of the probability flow (evaluations a step of the grid), ≥ 1; 5 in the paper.
        langevin: steps of Langevin dynamics on x_0, which need no evaluation; 0 draws exactly, where A is linear and
            the noise Gaussian.
        step_size: of that dynamics, a share of the inverse of the largest curvature.
        sigma_data: δ; r_t² is then δ²σ²/(δ²α² + σ²). None is the published r_t = σ_t/α_t.
    """

    flow: int = 5
    langevin: int = 100
    step_size: float = 0.5
    sigma_data: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("flow", self.flow, 1)
        check_integer("langevin", self.langevin, 0)
        check_share(1e-6, 1.0, step_size=self.step_size)
        if self.sigma_data is not None:
            check_share(1e-12, sigma_data=self.sigma_data)
        if self.langevin == 0 and not is_linear_gaussian(self.measurement):
            raise UserError(
                f"langevin must be at least 1 for {self.measurement.operator!r}: exact draws (0) need a linear "
                "operator and Gaussian noise"
            )

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process = denoiser.process
        clean = to_clean(process, state, denoiser, noise, self.flow, DDIM())
        measurement = self.rows(clean.x)
        if self.sigma_data is None:
            variance = level(process, state.t) ** 2
        else:
            variance = believed_variance(process, state.t, self.sigma_data)
        own = noise.fold_in(Stream.COUPLED)
        if self.langevin == 0:
            x0 = given_measurement(measurement, clean.x, variance, own)
        else:
            x0 = walk(
                measurement, clean.x, variance, own, steps=self.langevin, step_size=self.step_size, adjusted=False
            )
        z = noise.fold_in(Stream.RENOISED).normal(tuple(x0.shape[1:])).to(x0)
        x = expand(process.alpha(s), x0) * x0 + expand(process.sigma(s), x0) * z
        return state.move(x, s, belief=clean.belief)
