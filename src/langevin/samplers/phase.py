"""Samplers of phase space: the symmetric splitting of critically damped Langevin diffusion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Dirac, Noise
from ..processes import PhaseSpace, Process, expand
from .loop import Sampler, State


@register(
    "samplers",
    "sscs",
    title="Symmetric splitting CLD sampler",
    arxiv="2112.07068",
    catalogue="D6",
    proof="exact: tests/laws/test_phase_laws.py, tests/samplers/test_sscs.py",
)
@dataclass(frozen=True)
class SSCS(Sampler):
    r"""Symmetric splitting for critically damped Langevin diffusion (arXiv:2112.07068 §3.3, alg. 1).

    The reverse SDE, with τ = −t and the velocity in units of its equilibrium, is the part A that keeps N(0, I) and has
    a closed form, and the part S that the score drives:

    .. math::
        A: \; dx = -β v\,dτ, \; dv = β x\,dτ - 2 β v\,dτ + 2 \sqrt{β}\,dw, \qquad
        S: \; dv = 4 β \left[∇_v \log p_t(x, v) + v\right] dτ

    A step of h is half a step of A, Euler's step of S with the score at the middle of h, and half a step of A: one
    evaluation. A with its velocity reversed is the forward process, so its half steps are ``transition``. S vanishes
    where data are noise, and Euler's error with it. Of weak and strong order 1. The last step, to clean data, returns
    the belief's mean.
    """

    def check(self, process: Process) -> None:
        if not isinstance(process, PhaseSpace):
            raise UserError(f"SSCS needs velocities to kick, which {type(process).__name__} does not have")

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        process: PhaseSpace = denoiser.process  # type: ignore[assignment]
        x, t = state.x, state.t
        if bool((s > t).any()):
            raise UserError("grid must decrease for the reverse SDE")
        if bool((s == 0).all()):
            belief = denoiser(x, t)
            return state.move(process.reverse(x, Dirac(belief.mean), t, s).mean, s, belief=belief)
        h, middle = t - s, (t + s) / 2
        x = _equilibrium(process, x, h / 2, noise.fold(1))
        belief = denoiser(x, middle)
        force = process.score(x, belief, middle)[:, 1] + x[:, 1]
        x = torch.stack((x[:, 0], x[:, 1] + expand(4 * process.beta * h, force) * force), 1)
        return state.move(_equilibrium(process, x, h / 2, noise.fold(2)), s, belief=belief)


def _equilibrium(process: PhaseSpace, x: Tensor, h: Tensor, noise: Noise) -> Tensor:
    """The part A for a time h: the forward process seen with its velocity reversed."""
    mirror = torch.tensor([1.0, -1.0]).to(x).reshape(1, 2, *[1] * (x.ndim - 2))
    return mirror * process.transition(mirror * x, 0.0, h).sample(noise)
