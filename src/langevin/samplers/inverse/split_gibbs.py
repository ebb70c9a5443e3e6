"""Split Gibbs sampling: the measurement and the prior in turn, coupled by a noise level."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..._errors import check_instance, check_integer
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise, Stream
from ...processes import Process, ScalarGaussian, expand
from ..linear.ancestral import Ancestral
from ..loop import Sampler, State
from .base import MeasuredSampler, check_share, given_measurement, is_linear_gaussian, level, walk
from .daps import to_clean


@register(
    "samplers",
    "split-gibbs",
    title="Split Gibbs sampling",
    arxiv="2304.11134",
    proof="exact: tests/samplers/test_inverse.py",
)
@dataclass(frozen=True, eq=False)
class SplitGibbs(MeasuredSampler):
    r"""Plug-and-play split Gibbs sampling (Coeurdoux et al. 2023, arXiv:2304.11134; 2405.18782): with ρ = σ_s/α_s,

    .. math::
        x &\sim p(x)\, N(z; x, ρ^2 I) \quad \text{by the reverse process from noise level } ρ \\
        z &\sim p(y | z)\, N(z; x, ρ^2 I)

    The chain of one level is stationary, for exact draws of x, with x of the posterior for the noise s²I + ρ²AAᵀ in
    place of s²I: exact as ρ → 0. ``compensated`` takes the noise max(s² − ρ²h², 0) a singular value h in the step of z,
    so that ρ no longer shows wherever ρh ≤ s: **exact at every ρ ≤ s/‖A‖**. It needs singular values.

    A grid anneals ρ. At s = 0 the step returns x. As fresh levels follow each other, ``sweeps`` of the chain are run at
    each; the chain moves by about ρ a sweep.

    Args:
        measurement: exact draws of z for a linear operator with Gaussian noise; else Langevin dynamics with acceptance.
        sweeps: of the chain at each time of the grid, ≥ 1.
        steps: of the reverse process for each draw of x, ≥ 1: so many evaluations a sweep.
        sampler: of the reverse process; ``Ancestral()``, which is exact from one step on for a whole belief.
        compensated: see above; False is the published chain, and what is done without singular values.
        langevin: steps of that dynamics, ≥ 1.
    """

    sweeps: int = 1
    steps: int = 1
    sampler: Sampler = field(default_factory=Ancestral)
    compensated: bool = True
    langevin: int = 50
    step_size: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sweeps", "steps", "langevin"):
            check_integer(name, getattr(self, name), 1)
        check_share(1e-6, 1.0, step_size=self.step_size)
        check_instance("sampler", self.sampler, Sampler, "a sampler")

    def check(self, process: Process) -> None:
        super().check(process)
        self.sampler.check(process)

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process, sweeps = denoiser.process, 1 if bool((s == 0).all()) else self.sweeps
        for i in range(sweeps):
            own = noise.fold_in(Stream.SWEEP + i)
            clean = to_clean(process, state, denoiser, own, self.steps, self.sampler)
            if bool((s == 0).all()):
                return state.move(clean.x, s, belief=clean.belief)
            z = self.coupled(clean.x, level(process, s), own.fold_in(Stream.COUPLED))
            state = State(expand(process.alpha(s), z) * z, s, None, clean.belief)
        return state

    def coupled(self, x: Tensor, rho: Tensor, noise: Noise) -> Tensor:
        """z given x and y."""
        measurement = self.rows(x)
        if not is_linear_gaussian(measurement):
            return walk(measurement, x, rho**2, noise, steps=self.langevin, step_size=self.step_size, adjusted=True)
        known = measurement.linear.svd(tuple(x.shape[1:])) if self.compensated else None
        if known is None:
            return given_measurement(measurement, x, rho**2, noise)
        # A coordinate at a time: its noise is max(s² − ρ²h², 0), and with ρ²h² that sums to max(s², ρ²h²).
        h, rho = known.values.to(x), rho.to(x).reshape(-1, 1)
        seen = h > 1e-6 * h.max()
        left = torch.sqrt((measurement.std**2 - (rho * h) ** 2).clamp_min(0))
        z = known.to(x) + rho * known.to(noise.fold_in(Stream.UNMEASURED).normal(tuple(x.shape[1:])).to(x))
        xi = known.to(noise.fold_in(Stream.REMEASURED).normal(tuple(x.shape[1:])).to(x))
        residual = known.measured_to(measurement.y.to(x)) + left * xi - h * z
        gain = rho**2 * h / torch.maximum((rho * h) ** 2, torch.full_like(rho * h, measurement.std**2)).clamp_min(1e-30)
        return known.back(torch.where(seen, z + gain * residual, z))
