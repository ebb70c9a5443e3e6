"""Denoising MCMC: a chain over data and noise level, then denoising from where it stands."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..._errors import UserError, check_integer
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise, Stream
from ...processes import Process, ScalarGaussian, expand
from ...processes.grids import between
from ..linear.ddim import DDIM
from ..loop import Sampler, State
from ..sde.reverse_sde import check_downwards
from .langevin import adjusted, check_steps, known_density, point


@register(
    "samplers",
    "denoising-mcmc",
    title="Denoising MCMC",
    arxiv="2209.14593",
    proof="exact: tests/samplers/test_denoising_mcmc.py",
)
@dataclass(frozen=True)
class DenoisingMCMC(Sampler[ScalarGaussian]):
    r"""A chain over data and noise level, then denoising from where it stands (Kim & Ye 2022, arXiv:2209.14593).

    The joint law is that of y = x/α at one of K levels κ = σ/α, equally often; the levels are uniform in log-SNR from
    the step's t down to its s. The chain of Langevin–Gibbs steps is

    .. math:: y ← y + \tfrac{a}{2} ∇\log p_κ(y) + \sqrt{a}\, z, \; a = ε κ^2; \qquad
              κ \sim p(κ | y) ∝ p_κ(y)

    It crosses between modes at high levels and is near the data at low ones, where few denoising steps are left: those
    are taken by ``solver``, from each sample's own level, uniform in log-SNR.

    Where the denoiser knows its density, p(κ|y) is exact and the Langevin step is Metropolis-adjusted, so that the
    joint law is stationary; with ``posterior`` (the paper's noise-level classifier) neither is needed.

    Args:
        chain: steps of the chain, ≥ 1.
        levels: K ≥ 2.
        step_size: ε > 0, in units of κ².
        denoise: steps of the solver, ≥ 1, uniform in log-SNR.
        solver: of the way from each sample's level to the data; DDIM if not given.
        posterior: ``posterior(x_t, t)`` is log p(κ_t | y) up to a constant that depends on y = x_t/α_t alone, ``(B,)``;
            it is asked at all K levels of the same y.
    """

    chain: int = 20
    levels: int = 16
    step_size: float = 0.5
    denoise: int = 6
    solver: Sampler = field(default_factory=DDIM)
    posterior: Callable[[Tensor, Tensor], Tensor] | None = None
    needs = ScalarGaussian, "denoising MCMC"

    def __post_init__(self) -> None:
        check_steps(self.chain)
        check_integer("levels", self.levels, 2)
        if not 0 < self.step_size < math.inf:
            raise UserError(f"step_size must be > 0, got {self.step_size}")
        check_integer("denoise", self.denoise, 1)

    def check(self, process: Process) -> None:
        super().check(process)
        self.solver.check(process)

    def default_grid(self, process: Process, steps: int) -> Tensor:
        """Both ends: the chain lives between them, so ``steps`` is not used."""
        return torch.tensor([process.t_max, 0.0], dtype=torch.float64)

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process = denoiser.process
        check_downwards(state.t, s, "denoising MCMC")
        count = state.x.shape[0]
        top = state.t.expand(count).clamp_max(process.t_max)
        bottom = torch.where(s > 0, s, torch.full_like(s, process.t_min)).expand(count).minimum(top)
        # The lowest level itself has nothing left to denoise, so levels stop one short of it.
        times = between(process, top, bottom, torch.arange(self.levels, dtype=torch.float64) / self.levels)
        x, t = self._walk(state.x, times, denoiser, noise)
        shares = torch.arange(1, self.denoise + 1, dtype=torch.float64) / self.denoise
        moving = State(x, t)
        for i, ahead in enumerate(between(process, t, bottom, shares)):
            moving = self.solver.step(moving, ahead, denoiser, noise.fold_in(Stream.DENOISED).fold_in(i))
        if bool((s < bottom).any()):
            moving = self.solver.step(moving, s.expand(count), denoiser, noise.fold_in(Stream.LAST))
        return state.move(moving.x, s, belief=moving.belief)

    def _walk(
        self, x: Tensor, times: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """The chain from x at times[0]: states and times ``(B,)`` where it ended."""
        process = denoiser.process
        dim = x[0].numel()
        alphas, rows = process.alpha(times), torch.arange(x.shape[0])
        density = None if self.posterior is not None else known_density(denoiser, "denoising MCMC without a posterior")
        if not getattr(density, "comparable", True):
            raise UserError(
                "denoising MCMC without a posterior needs densities that compare between times; "
                f"{type(denoiser).__name__} knows each up to a constant"
            )
        level = torch.zeros(x.shape[0], dtype=torch.int64)
        for i in range(self.chain):
            stream = noise.fold_in(Stream.WALK).fold_in(i)
            x = self._langevin(x, times[level, rows], denoiser, stream)
            # All levels of the same y: x at level k is α_k y, and p(y) = α_k^D p_k(α_k y).
            here = alphas[level, rows]
            scaled = [expand(alphas[k] / here, x) * x for k in range(self.levels)]
            if density is None:
                assert self.posterior is not None
                logits = torch.stack([self.posterior(v, t) for v, t in zip(scaled, times)], -1)
            else:
                logits = torch.stack([density.log_density(v, t) for v, t in zip(scaled, times)], -1)
                logits = logits + dim * torch.log(alphas).T
            cumulative = torch.softmax(logits, -1).cumsum(-1)
            u = stream.fold_in(Stream.LEVEL).uniform(()).to(cumulative) * cumulative[:, -1]
            new = torch.searchsorted(cumulative, u[:, None], right=True)[:, 0].clamp_max(self.levels - 1)
            x, level = expand(alphas[new, rows] / here, x) * x, new
        return x, times[level, rows]

    def _langevin(self, x: Tensor, t: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> Tensor:
        process = denoiser.process
        a = expand(self.step_size * process.sigma(t) ** 2, x)
        if self.posterior is None:
            return adjusted(point(x, t, denoiser, "denoising MCMC without a posterior"), t, a, denoiser, noise).x
        z = noise.normal(tuple(x.shape[1:])).to(x)
        return x + a / 2 * process.score(x, denoiser(x, t), t) + torch.sqrt(a) * z
