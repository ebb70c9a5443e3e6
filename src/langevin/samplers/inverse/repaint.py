"""RePaint: projection that goes back up to noise and down again, so that both parts come to agree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError, check_integer
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise, Stream
from ...processes import Process, ScalarGaussian, require
from ...processes.grids import karras
from ..loop import Sampler, State
from .projection import Projection


def time_travel(times: Tensor, jump: int, resamplings: int) -> Tensor:
    """A grid with RePaint's jumps: at every ``jump``-th time from its end, ``resamplings`` − 1 times up by ``jump``.

    Args:
        times: decreasing, ``(n + 1,)``.
        jump: j ≥ 1, in times of the grid.
        resamplings: r ≥ 1: how often each stretch is walked; 1 is the grid as it was.

    Returns:
        The times in the order in which they are passed, ``(n + (r − 1)⌈(n − j)/j⌉(j + 1) + 1,)`` for j < n.
    """
    check_integer("jump", jump, 1)
    check_integer("resamplings", resamplings, 1)
    n = len(times) - 1
    left = dict.fromkeys(range(0, n - jump, jump), resamplings - 1)
    at, path = n, [n]
    while at > 0:
        at -= 1
        path.append(at)
        if left.get(at, 0):
            left[at] -= 1
            at += jump
            path.append(at)
    return times.flip(0)[torch.tensor(path)]


@register(
    "samplers",
    "repaint",
    title="RePaint",
    arxiv="2201.09865",
    proof="exact: tests/samplers/test_inverse.py",
)
@dataclass(frozen=True, eq=False)
class RePaint(Projection):
    r"""RePaint (Lugmayr et al. 2022, arXiv:2201.09865 alg. 1): known pixels at the step's noise, with resampling.

    .. math::
        x_s &= m ⊙ (α_s y + σ_s z) + (1 - m) ⊙ x_s', \qquad x_s' \sim p(x_s | x_t) \\
        x_t &\sim q(x_t | x_s) \quad \text{where the grid goes up}

    The grid that this sampler takes by default goes back up by ``jump`` of its times, ``resamplings`` − 1 times at
    every ``jump``-th: with ``steps`` downward steps between jumps it makes about ``steps``·``resamplings`` evaluations.
    On any other grid it goes the way the grid goes (``time_travel`` makes one). The published setting is 250 steps with
    jump = 10 and resamplings = 10; its law is not the posterior, but the more resamplings, the nearer.

    Args:
        measurement: by a linear operator, for which ``Projection`` is the same with A⁺A in the place of the mask.
        sampler: of the downward steps; the paper's is DDPM.
        jump: j ≥ 1.
        resamplings: r ≥ 1.
    """

    jump: int = 10
    resamplings: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("jump", self.jump, 1)
        check_integer("resamplings", self.resamplings, 1)

    def default_grid(self, process: Process, steps: int) -> Tensor:
        own = self.sampler.default_grid(process, steps)
        if own is None:
            own = karras(require(process, ScalarGaussian, "RePaint"), steps)
        return time_travel(own, self.jump, self.resamplings)

    def plan(self, process: ScalarGaussian, grid: Tensor) -> Sampler:
        return self  # a table of steps downwards would be asked for those upwards

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        if bool((s > state.t).all()):
            x = denoiser.process.transition(state.x, state.t, s).sample(noise.fold_in(Stream.RENOISED)).to(state.x)
            return state.move(x, s)
        if bool((s > state.t).any()):
            raise UserError("s must be above t for all samples or for none in RePaint")
        return super().step(state, s, denoiser, noise)
