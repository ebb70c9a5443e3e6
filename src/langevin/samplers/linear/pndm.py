"""PNDM: a single-step method for the first steps, a multistep one after, which learns from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser, Transform
from ...distributions import Distribution, Noise
from ..loop import Composite, Sampler, State
from ..runge_kutta.tableau import PRK
from .multistep import PLMS, Multistep


@dataclass(frozen=True, eq=False)
class Known(Transform):
    """A denoiser that has been asked already about the states ``x`` at ``t``: it answers again."""

    x: Tensor
    t: Tensor
    belief: Distribution

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        same = isinstance(t, Tensor) and t.equal(self.t) and x_t.equal(self.x)
        return self.belief if same else self.base(x_t, t)


@dataclass(frozen=True)
class StartWith(Composite):
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

    @property
    def parts(self) -> tuple[Sampler, ...]:
        return self.rest, self.first

    def with_parts(self, *parts: Sampler) -> StartWith:
        return replace(self, rest=parts[0], first=parts[1])

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
