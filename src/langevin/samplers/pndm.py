"""PNDM: a single-step method for the first steps, a multistep one after, which learns from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser, Transform
from ..distributions import Distribution, Noise
from ..processes import Process
from .loop import Sampler, State
from .multistep import PLMS, Multistep
from .singlestep import PRK


@dataclass(frozen=True, eq=False)
class Known(Transform):
    """A denoiser that has been asked already about the state ``x`` (that very tensor) at ``t``: it answers again."""

    x: Tensor
    t: Tensor
    belief: Distribution

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        same = x_t is self.x and (t is self.t or (isinstance(t, Tensor) and t.equal(self.t)))
        return self.belief if same else self.base(x_t, t)


@dataclass(frozen=True)
class StartWith(Sampler):
    """``first`` for the first steps, then ``rest``, whose memory grows from the beginning.

    In each first step ``rest`` makes its own step from the same state with the same evaluation, and only what it keeps
    is kept: when its turn comes it has the history that it would have had on these states. ``rest`` must ask at
    (x_t, t) alone, as multistep methods do; then this costs no evaluation.

    Args:
        first: the sampler that starts; its memory is its own.
        rest: the sampler that goes on.
        steps: how many steps ``first`` takes, ≥ 1.
    """

    first: Sampler
    rest: Sampler
    steps: int = 3

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, got {self.steps}")

    def check(self, process: Process) -> None:
        self.first.check(process)
        self.rest.check(process)

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        return self.rest.default_grid(process, steps)

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return replace(self, first=self.first.plan(process, grid), rest=self.rest.plan(process, grid))

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        done, own, kept = state.memory or (0, None, None)
        if done >= self.steps:
            moved = self.rest.step(replace(state, memory=kept), s, denoiser, noise)
            return replace(moved, memory=(done, None, moved.memory))
        known = Known(denoiser, state.x, state.t, denoiser(state.x, state.t))
        learned = self.rest.step(replace(state, memory=kept), s, known, noise).memory
        moved = self.first.step(replace(state, memory=own), s, known, noise)
        return replace(moved, memory=(done + 1, moved.memory, learned))


@register(
    "samplers",
    "pndm",
    title="PNDM",
    arxiv="2202.09778",
    proof="exact: tests/laws, tests/samplers/test_pndm.py; parity: tests/samplers/test_pndm.py",
)
def PNDM(order: int = 4) -> StartWith | Multistep:
    """Pseudo numerical methods (Liu et al. 2022, arXiv:2202.09778 algorithm 2): PRK for the first steps, then PLMS.

    The first ``order`` − 1 steps take four evaluations each, every later one takes one.

    Args:
        order: of the multistep method, 1 to 4; 4 as published.
    """
    rest = PLMS(order)
    return StartWith(PRK(), rest, order - 1) if order > 1 else rest
