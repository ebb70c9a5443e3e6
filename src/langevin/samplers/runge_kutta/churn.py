"""EDM's stochastic sampler: noise put in before a deterministic step takes it out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise, Stream
from ...processes import Process, ScalarGaussian, expand
from ..loop import Sampler, State
from .dpm_solver import DPMSolver
from .tableau import Tableau


@dataclass(frozen=True)
class Churn(Sampler[ScalarGaussian]):
    r"""Noise up to a higher time, then ``sampler`` from there (Karras et al. 2022, arXiv:2206.00364 algorithm 2).

    In y = x/α with σ the ratio σ_t/α_t, which is the paper's x and σ on any scalar-Gaussian process,

    .. math:: γ = \min(S_{churn}/N, \sqrt2 - 1) \text{ for } S_{min} \le σ \le S_{max}, \text{ else } 0,
              \quad \hatσ = (1 + γ) σ, \quad \hat y = y + \sqrt{\hatσ^2 - σ^2}\, S_{noise} z

    N is the number of steps of the grid. σ̂ is at most the ratio at ``t_max``, so that the first step of a grid that
    starts there adds nothing.

    Args:
        sampler: takes the step from σ̂ to s; one without a memory.
        churn: S_churn ≥ 0; 0 adds nothing and leaves times as they are.
        s_tmin, s_tmax: noise is added between them, in units of σ/α.
        s_noise: > 0.
        steps: N; that of the grid if not given, and 1 for a step on its own.
    """

    sampler: Sampler
    churn: float = 40.0
    s_tmin: float = 0.05
    s_tmax: float = 50.0
    s_noise: float = 1.003
    steps: int | None = None
    needs = ScalarGaussian, "churn"

    def __post_init__(self) -> None:
        if not 0 <= self.churn < math.inf:
            raise UserError(f"churn must be a finite number >= 0, got {self.churn}")
        if not 0 <= self.s_tmin <= self.s_tmax:
            raise UserError(f"s_tmin, s_tmax must satisfy 0 <= s_tmin <= s_tmax, got {self.s_tmin}, {self.s_tmax}")
        if not 0 < self.s_noise < math.inf:
            raise UserError(f"s_noise must be a finite number > 0, got {self.s_noise}")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps must be at least 1, got {self.steps}")

    def check(self, process: Process) -> None:
        super().check(process)
        self.sampler.check(process)

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        return self.sampler.default_grid(process, steps)

    def for_model(self, denoiser: Denoiser) -> Sampler:
        return replace(self, sampler=self.sampler.for_model(denoiser))

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return replace(self, steps=len(grid) - 1 if self.steps is None else self.steps)

    def raised(self, process: ScalarGaussian, t: Tensor) -> Tensor:
        """The time of σ̂, t itself where nothing is added."""
        gamma = min(self.churn / (self.steps or 1), math.sqrt(2) - 1)
        ratio = torch.exp(-process.log_snr(t) / 2)
        within = (ratio >= self.s_tmin) & (ratio <= self.s_tmax)
        if not gamma or not bool(within.any()):
            return t
        above = process.time(process.log_snr(t) - 2 * math.log1p(gamma)).clamp_max(process.t_max)
        return torch.where(within, torch.maximum(t, above), t)

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process = denoiser.process
        if bool((s > state.t).any()) and self.churn:
            raise UserError(f"churn must be 0 for a grid that goes up, got {self.churn}")
        t = self.raised(process, state.t)
        x = state.x
        if bool((t != state.t).any()):
            kept = torch.where(t == state.t, 1.0, process.alpha(t) / process.alpha(state.t))
            # α̂² (σ̂² − σ²) = the variance of q(x_t̂ | x_t)
            fall = torch.where(t == state.t, 0.0, process.log_snr(t) - process.log_snr(state.t))
            std = self.s_noise * process.sigma(t) * torch.sqrt(-torch.expm1(fall))
            x = expand(kept, x) * x + expand(std, x) * noise.normal(tuple(x.shape[1:])).to(x)
        return self.sampler.step(replace(state, x=x, t=t), s, denoiser, noise.fold_in(Stream.CHURNED))


_PROOF = "exact: tests/laws; parity: tests/samplers/test_churn.py"


@register("samplers", "edm-euler", title="EDM Euler with churn", arxiv="2206.00364", proof=_PROOF)
def EDMEuler(churn: float = 40.0, s_tmin: float = 0.05, s_tmax: float = 50.0, s_noise: float = 1.003) -> Churn:
    """Churn, then Euler's step in σ/α, which is DDIM's (arXiv:2206.00364 algorithm 2 without its lines 6–8).

    The four settings are the paper's for ImageNet at 64 × 64 (its Table 5).
    """
    return Churn(DPMSolver(1), churn, s_tmin, s_tmax, s_noise)


@register("samplers", "edm-heun", title="EDM Heun with churn", arxiv="2206.00364", proof=_PROOF)
def EDMHeun(churn: float = 40.0, s_tmin: float = 0.05, s_tmax: float = 50.0, s_noise: float = 1.003) -> Churn:
    """Churn, then Heun's step in σ/α on the noise prediction (arXiv:2206.00364 algorithm 2); Euler's to t = 0."""
    return Churn(Tableau("heun"), churn, s_tmin, s_tmax, s_noise)
