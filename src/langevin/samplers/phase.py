"""Samplers of phase space: the splitting of critically damped Langevin diffusion, its flow, and scalar solvers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser, Transform
from ..distributions import Dirac, Distribution, Noise, Stream
from ..processes import PhaseSpace, Process, SufficientStatistic, expand
from .gaussian.solver import GaussianRemainder
from .loop import Sampler, State


@register(
    "samplers",
    "sscs",
    title="Symmetric splitting CLD sampler",
    arxiv="2112.07068",
    proof="exact: tests/laws/test_phase_laws.py, tests/samplers/test_sscs.py",
)
@dataclass(frozen=True)
class SSCS(Sampler[PhaseSpace]):
    r"""Symmetric splitting for critically damped Langevin diffusion (arXiv:2112.07068 §3.3, alg. 1).

    The reverse SDE, with τ = −t and the velocity in units of its equilibrium, is the part A that keeps N(0, I) and has
    a closed form, and the part S that the score drives:

    .. math::
        A: \; dx = -β v\,dτ, \; dv = β x\,dτ - 2 β v\,dτ + 2 \sqrt{β}\,dw, \qquad
        S: \; dv = 4 β \left[∇_v \log p_t(x, v) + v\right] dτ

    A step of h is half a step of A, Euler's step of S with the score at the middle of h, and half a step of A: one
    evaluation. The authors' published code asks for the score at the time of the step's start instead, though the
    state has moved half a step by then: the two differ by O(h). A with its velocity reversed is the forward process,
    so its half steps are ``transition``. S vanishes where data are noise, and Euler's error with it. Of weak and strong
    order 1. The last step, to clean data, returns the belief's mean.
    """

    def check(self, process: Process) -> None:
        if not isinstance(process, PhaseSpace):
            raise UserError(f"SSCS needs velocities to kick, which {type(process).__name__} does not have")

    def step(self, state: State, s: Tensor, denoiser: Denoiser[PhaseSpace], noise: Noise) -> State:
        process = denoiser.process
        x, t = state.x, state.t
        if bool((s > t).any()):
            raise UserError("grid must decrease for the reverse SDE")
        if bool((s == 0).all()):
            belief = denoiser(x, t)
            return state.move(process.reverse(x, Dirac(belief.mean), t, s).mean, s, belief=belief)
        h, middle = t - s, (t + s) / 2
        x = _equilibrium(process, x, h / 2, noise.fold_in(Stream.FIRST_HALF))
        belief = denoiser(x, middle)
        force = process.score(x, belief, middle)[:, 1] + x[:, 1]
        x = torch.stack((x[:, 0], x[:, 1] + expand(4 * process.beta * h, force) * force), 1)
        return state.move(_equilibrium(process, x, h / 2, noise.fold_in(Stream.SECOND_HALF)), s, belief=belief)


def _equilibrium(process: PhaseSpace, x: Tensor, h: Tensor, noise: Noise) -> Tensor:
    """The part A for a time h: the forward process seen with its velocity reversed."""
    mirror = torch.tensor([1.0, -1.0]).to(x).reshape(1, 2, *[1] * (x.ndim - 2))
    return mirror * process.transition(mirror * x, 0.0, h).sample(noise)


@register(
    "samplers",
    "phase-2m",
    title="Probability flow of phase space, multistep",
    arxiv="2206.05564",
    proof="exact: tests/laws",
)
@dataclass(frozen=True)
class PhaseMultistep(Sampler[PhaseSpace]):
    r"""The probability flow of phase space, solved but for x̂_0, which is a line in φ = arctan r through the last two.

    The flow is linear in the state and in x̂_0, whose coefficients are the bridge's at η = 0 (Zhang, Tao & Chen 2022,
    arXiv:2206.05564 §4, there for the noise). With A(τ) that of a step from τ to s and G from t to s, by parts,

    .. math::
        z_s = G z_t + A(t)\, \hat x_0(t) + \frac{\hat x_0(t) - \hat x_0(t')}{φ_t - φ_{t'}} \int_{φ_t}^{φ_s} A(τ)\, dφ_τ,

    r being the noise of the sufficient statistic y = x_0 + rε of a state. Order 2, one evaluation a step; the first
    step is of order 1.
    """

    def check(self, process: Process) -> None:
        if not isinstance(process, PhaseSpace):
            raise UserError(f"phase-2m needs phase space, got {type(process).__name__}")

    def step(self, state: State, s: Tensor, denoiser: Denoiser[PhaseSpace], noise: Noise) -> State:
        process = denoiser.process
        z, t = state.x, state.t
        belief = denoiser(z, t)
        mean, now = belief.mean, _angle(process, t)
        lift, gain = process.bridge_coefficients(t, s, 0.0)[:2]
        moved = process.affine(lift, mean, gain, z)
        if state.memory is not None:
            last, before = state.memory
            slope = (mean - last) / expand(now - before, mean)
            moved = moved + process.affine(_integral(process, t, s), slope, torch.zeros_like(gain), z)
        return state.move(moved, s, memory=(mean, now), belief=belief)


def _angle(process: PhaseSpace, t: Tensor) -> Tensor:
    """φ = arctan r."""
    return torch.atan(torch.exp(-process.log_snr(t) / 2))


def _integral(process: PhaseSpace, t: Tensor, s: Tensor) -> Tensor:
    """∫ A(τ) dφ from t to s, by eight Gauss–Legendre nodes: ``(2,)`` or ``(B, 2)``."""
    nodes, weights = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(8))
    t, s = torch.broadcast_tensors(t, s)
    start, end = _angle(process, t)[..., None], _angle(process, s)[..., None]
    between = process.time(-2 * torch.log(torch.tan(start + (end - start) * (nodes + 1) / 2)))
    lifts = process.bridge_coefficients(between, s[..., None], 0.0)[0]
    return ((end - start)[..., None] / 2 * weights[:, None] * lifts).sum(-2)


@dataclass(frozen=True, eq=False)
class _OfStatistic(Transform):
    """A belief of phase space, asked about the sufficient statistic y; the rest of the state, w, stands still."""

    w: Tensor

    @property
    def process(self) -> Process:
        return SufficientStatistic(_phase(self.base.process))

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        return self.base(_phase(self.base.process).join(x_t, self.w, t), t)

    def rows(self, index: slice | Tensor) -> Denoiser:
        return replace(self, base=self.base.rows(index), w=self.w[index])


@register(
    "samplers",
    "phase-projected",
    title="Any solver of scalar noise, in phase space",
    proof="exact: tests/laws/test_phase_laws.py, tests/samplers/test_phase_projected.py",
)
@dataclass(frozen=True)
class PhaseProjected(Sampler):
    r"""A solver of x_0 + rε, on what a state of phase space says about the data.

    The state is :math:`(x_t, v_t) = K y + w L e`, where the sufficient statistic y = x_0 + r ε_1 holds all
    that it says of x_0 and w = ε_2 is independent of both (``PhaseSpace.split``). So w may stand still while y is
    carried along the probability flow of ``SufficientStatistic(process)``, or its SDE: (x, v) has the law of phase
    space at every time, on other paths than those of CLD. Order and evaluations are the solver's.

    Args:
        sampler: of any scalar-Gaussian process.
    """

    sampler: Sampler = field(default_factory=GaussianRemainder)

    def check(self, process: Process) -> None:
        self.sampler.check(SufficientStatistic(_phase(process)))

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        return self.sampler.default_grid(SufficientStatistic(_phase(process)), steps)

    def for_model(self, denoiser: Denoiser) -> Sampler:
        return replace(self, sampler=self.sampler.for_model(denoiser))

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return replace(self, sampler=self.sampler.plan(SufficientStatistic(_phase(process)), grid))

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        process = _phase(denoiser.process)
        y, w = process.split(state.x, state.t)
        end = self.sampler.step(State(y, state.t, state.memory, state.belief), s, _OfStatistic(denoiser, w), noise)
        return state.move(process.join(end.x, w, s), s, memory=end.memory, belief=end.belief)


def _phase(process: Process) -> PhaseSpace:
    if not isinstance(process, PhaseSpace):
        raise UserError(
            f"only a state of phase space has a sufficient statistic and a rest, not one of {type(process).__name__}"
        )
    return process
