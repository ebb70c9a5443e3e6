"""Chains that keep the law of one noise level: Langevin dynamics, adjusted, with momentum, with a filter."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_integer
from ..._registry import register
from ...denoisers import Denoiser, Density
from ...distributions import Dirac, Distribution, Noise, Stream
from ...processes import ScalarGaussian, expand
from ..loop import Sampler, State
from ..sde.filters import WHOLE, Filter

Chain = tuple[Tensor, Any, Distribution | None]
"""Where a chain ended, what it remembers, and the last belief it saw, if it kept one."""


class Corrector(Sampler[ScalarGaussian]):
    """A chain run at the new time s, whose stationary law is p_s. Alone it anneals, after another sampler it corrects.

    Going from t to s scales x by α_s/α_t and adds nothing. At s = 0, where the score has no scale, the step returns the
    posterior mean (the last denoise of arXiv:2006.09011), or what came if it stood at 0 already.
    """

    needs = ScalarGaussian, "Langevin dynamics"

    @abstractmethod
    def chain(self, x: Tensor, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise, memory: Any) -> Chain:
        """The chain from x at time s > 0."""

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process = denoiser.process
        x = state.x
        if bool((s == 0).any()):
            if bool((state.t == 0).all()):
                return state  # a corrector has nothing to correct at clean data
            belief = denoiser(x, state.t)
            return state.move(process.reverse(x, Dirac(belief.mean), state.t, s, 0.0).mean, s, belief=belief)
        if bool((s != state.t).any()):
            alpha = process.alpha(state.t)
            x = x * expand(torch.where(alpha > 0, process.alpha(s) / alpha.clamp_min(1e-300), 1.0), x)
        x, memory, last = self.chain(x, s, denoiser, noise, state.memory)
        return state.move(x, s, memory=memory, belief=last)


def check_steps(steps: int) -> None:
    check_integer("steps", steps, 1)


def _norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each event, shaped to multiply it."""
    return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))


@register(
    "samplers",
    "langevin",
    title="Annealed Langevin dynamics",
    arxiv="1907.05600",
    proof="exact: tests/samplers/test_sampling.py, tests/samplers/test_langevin.py",
)
@dataclass(frozen=True)
class Langevin(Corrector):
    r"""Langevin dynamics at the new time s (Song & Ermon 2019, arXiv:1907.05600 alg. 1).

    Alone it anneals, after another sampler it corrects.

    .. math:: x ← x + \tfrac{a}{2} M M^T ∇\log p_s(x) + \sqrt{a}\,M z, \quad a = ε σ_s^2

    Going from t to s scales x by α_s/α_t and adds nothing. At s = 0, where the score has no scale, the step
    returns the posterior mean (the last denoise of arXiv:2006.09011). A filter M ≠ 1 keeps the stationary law
    (arXiv:2207.02196): it only says in which directions the chain moves fast.

    Args:
        steps: how many at each time, ≥ 1.
        step_size: ε in (0, 2), in units of σ_s²: at ε the stationary variance of N(0, σ_s²) is 1/(1 − ε/4) too large.
        snr: instead of ``step_size``, the signal-to-noise ratio r > 0 of a step (arXiv:2011.13456 alg. 4–5):
            :math:`\tfrac{a}{2} = 2 (r \|z\| / \|∇\log p_s\|)^2`, here for each sample by its own norms. (The paper
            takes means over the batch, and for VP a factor 1 − β_i of its table, which is nearly 1.)
        filter: M, by which the step of ``step_size`` is multiplied, see ``Frequency`` and ``Matrix``.
    """

    steps: int = 1
    step_size: float = 0.1
    snr: float | None = None
    filter: Filter = WHOLE

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 < self.step_size < 2:
            raise UserError(f"step_size must lie in (0, 2), got {self.step_size}")
        if self.snr is not None and not 0 < self.snr < math.inf:
            raise UserError(f"snr must be > 0, got {self.snr}")

    def chain(self, x: Tensor, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise, memory: Any) -> Chain:
        process = denoiser.process
        size = expand(self.step_size * process.sigma(s) ** 2, x)
        for i in range(self.steps):
            belief = denoiser(x, s)
            score = process.score(x, belief, s)
            z = noise.fold_in(Stream.LANGEVIN + i).normal(tuple(x.shape[1:])).to(x)
            if self.snr is not None:
                size = 4 * (self.snr * _norm(z) / _norm(score).clamp_min(1e-300)) ** 2
            x = x + size / 2 * self.filter.square(score) + torch.sqrt(size) * self.filter(z)
        return x, None, belief


@register(
    "samplers",
    "preconditioned-langevin",
    title="Preconditioned Langevin dynamics",
    arxiv="2207.02196",
    proof="exact: tests/samplers/test_langevin.py",
)
def PreconditionedLangevin(filter: Filter = WHOLE, steps: int = 1, step_size: float = 0.1) -> Langevin:
    """Langevin dynamics with a filter on noise and score (Ma et al. 2022, arXiv:2207.02196): its law stays."""
    return Langevin(steps, step_size, filter=filter)


@register(
    "samplers",
    "mala",
    title="Metropolis-adjusted Langevin",
    arxiv="2011.13456",
    proof="exact: tests/samplers/test_langevin.py",
)
@dataclass(frozen=True)
class MALA(Corrector):
    r"""Langevin steps accepted or refused so that p_s itself is stationary (Roberts & Tweedie 1996).

    With g the score and :math:`q(y|x) = N(x + \tfrac{a}{2} g(x), a)`, :math:`a = ε σ_s^2`, a proposal y is taken with
    probability

    .. math:: \min\left(1, \frac{p_s(y)\, q(x|y)}{p_s(x)\, q(y|x)}\right)

    Exact at any step size and for any score, right or not: what counts is the density. The denoiser must know it
    (``log_density``, as those of the exact worlds do).

    Args:
        steps: how many at each time, ≥ 1; steps + 1 evaluations of belief and density.
        step_size: ε > 0, in units of σ_s².
    """

    steps: int = 1
    step_size: float = 0.5

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 < self.step_size < math.inf:
            raise UserError(f"step_size must be > 0, got {self.step_size}")

    def chain(self, x: Tensor, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise, memory: Any) -> Chain:
        process = denoiser.process
        a = expand(self.step_size * process.sigma(s) ** 2, x)
        here = point(x, s, denoiser, "MALA")
        for i in range(self.steps):
            here = adjusted(here, s, a, denoiser, noise.fold_in(Stream.LANGEVIN + i))
        return here.x, None, None


@dataclass(frozen=True, eq=False)
class Point:
    """Where an adjusted chain stands: x, the score and the log density there."""

    x: Tensor
    score: Tensor
    log_p: Tensor


def point(x: Tensor, t: Tensor, denoiser: Denoiser[ScalarGaussian], needed_by: str) -> Point:
    """The score and log density at x."""
    process = denoiser.process
    density = known_density(denoiser, needed_by)
    return Point(x, process.score(x, denoiser(x, t), t), density.log_density(x, t))


def adjusted(here: Point, t: Tensor, a: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> Point:
    """One Langevin step of size a, taken with Metropolis and Hastings' probability."""
    x = here.x
    z = noise.normal(tuple(x.shape[1:])).to(x)
    there = point(x + a / 2 * here.score + torch.sqrt(a) * z, t, denoiser, "MALA")
    back = (x - there.x - a / 2 * there.score) / torch.sqrt(a)
    ratio = there.log_p - here.log_p + (z.flatten(1).square().sum(1) - back.flatten(1).square().sum(1)) / 2
    taken = torch.log(noise.uniform(()).to(ratio)) < ratio
    rows = expand_rows(taken, x)
    return Point(
        torch.where(rows, there.x, x),
        torch.where(rows, there.score, here.score),
        torch.where(taken, there.log_p, here.log_p),
    )


def expand_rows(chosen: Tensor, x: Tensor) -> Tensor:
    """One truth value for each sample, shaped to choose among events."""
    return chosen.reshape(-1, *[1] * (x.ndim - 1))


def known_density(denoiser: Denoiser, needed_by: str) -> Density:
    """The denoiser, checked to know log p_t."""
    if not isinstance(denoiser, Density):
        raise UserError(
            f"{needed_by} needs a denoiser with `log_density`, which {type(denoiser).__name__} does not have"
        )
    return denoiser


@register(
    "samplers",
    "momentum-langevin",
    title="Langevin dynamics with momentum (BAOAB)",
    arxiv="1203.5428",
    proof="exact: tests/samplers/test_langevin.py",
)
@dataclass(frozen=True)
class MomentumLangevin(Corrector):
    r"""Underdamped Langevin dynamics at the new time s by the BAOAB splitting (Leimkuhler & Matthews 2012, 1203.5428).

    In units of σ_s for x and of its equilibrium for the velocity v, with g = σ_s ∇log p_s and :math:`c = e^{-γh}`:

    .. math::
        v ← v + \tfrac h2 g(x), \; x ← x + \tfrac h2 σ_s v, \; v ← c v + \sqrt{1 - c^2} z, \;
        x ← x + \tfrac h2 σ_s v, \; v ← v + \tfrac h2 g(x)

    On a Gaussian the law of x is exact at any h < 2 (the score of a noised law is never steeper than 1/σ_s², so that
    this is the stability limit everywhere), where Langevin's is too wide by ε/4; elsewhere its error is of order h⁴ at
    large friction, h² in general. A step of h moves as far as one of Langevin with ε = h². The velocity is kept from
    one noise level to the next.

    Args:
        steps: how many at each time, ≥ 1; steps + 1 evaluations.
        step_size: h in (0, 2).
        friction: γ > 0, in units of 1/σ_s: at 0⁺ Hamiltonian motion, at ∞ velocities are new at every step.
    """

    steps: int = 1
    step_size: float = 0.5
    friction: float = 1.0

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 < self.step_size < 2:
            raise UserError(f"step_size must lie in (0, 2), got {self.step_size}")
        if not self.friction > 0:
            raise UserError(f"friction must be > 0, got {self.friction}")

    def chain(self, x: Tensor, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise, memory: Any) -> Chain:
        process = denoiser.process
        event, sigma = tuple(x.shape[1:]), expand(process.sigma(s), x)
        keep = math.exp(-self.friction * self.step_size)
        renew, half = math.sqrt(1 - keep**2), self.step_size / 2
        v = noise.fold_in(Stream.VELOCITY).normal(event).to(x) if memory is None else memory
        belief = denoiser(x, s)
        force = sigma * process.score(x, belief, s)
        for i in range(self.steps):
            v = v + half * force
            x = x + half * sigma * v
            v = keep * v + renew * noise.fold_in(Stream.KICK + i).normal(event).to(x)
            x = x + half * sigma * v
            belief = denoiser(x, s)
            force = sigma * process.score(x, belief, s)
            v = v + half * force
        return x, v, belief
