"""A sampler whose network is called by someone else: a step stops at the first belief it does not have yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError
from ...denoisers import Denoiser
from ...distributions import Dirac, Distribution, Noise
from ...processes import ScalarGaussian
from ...samplers import Sampler, State
from ...samplers.loop import Composite
from ...samplers.runge_kutta.adaptive import Adaptive
from ...samplers.sde.reverse_sde import AdaptiveSDE


class Question(Exception):
    """A belief that is not known yet: of states x at the time t."""

    def __init__(self, x: Tensor, t: Tensor | float) -> None:
        super().__init__("a belief was asked for that is not there")
        self.x, self.t = x, t


@dataclass(eq=False)
class Answers(Denoiser):
    """The beliefs known so far, in the order they are asked for; the next one is a ``Question``."""

    process: ScalarGaussian
    shape: tuple[int, ...]
    like: Tensor
    beliefs: tuple[Distribution, ...] = ()
    asked: int = 0

    @property
    def trained(self) -> bool:
        return True

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        return self.like.device

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        self.asked += 1
        if self.asked > len(self.beliefs):
            raise Question(x_t, t)
        return self.beliefs[self.asked - 1]


@dataclass(eq=False)
class PipelineNetwork(Answers):
    """Half of every state as its belief; what was asked is written down."""

    seen: list[tuple[Tensor, float]] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        self.seen.append((x_t, float(t)))
        return Dirac(x_t / 2)


class _Watched(Noise):
    """Noise that tells when it is used."""

    tell: Callable[[], Any]

    def __init__(self, tell: Callable[[], Any]) -> None:
        super().__init__(0, 1)
        object.__setattr__(self, "tell", tell)

    def fold_in(self, tag: int) -> Noise:
        return self

    def rows(self, index: slice | Tensor) -> Noise:
        return self

    def to(self, device: torch.device | str) -> Noise:
        return self

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        self.tell()
        return super().uniform(shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        self.tell()
        return super().normal(shape)


@dataclass(frozen=True)
class Evaluations:
    """What the steps of a sampler ask on a grid.

    Attributes:
        times: of the evaluations of each step; none for a first step that asks nothing.
        noisy: whether a step uses noise.
    """

    times: tuple[tuple[float, ...], ...]
    noisy: bool


def evaluations(sampler: Sampler, process: ScalarGaussian, grid: Tensor, shape: tuple[int, ...] = (1,)) -> Evaluations:
    """The times at which each step asks, found by a dry run on one state.

    Args:
        sampler: one whose evaluations depend on times alone.
        process: of the states.
        grid: ``(n + 1,)``, decreasing.
        shape: of a state, where the sampler has the moments of such data.

    Raises:
        UserError: for a sampler whose steps choose their own times as they go, and for one that moves a state before
            it asks the first time: the pipeline has asked its network already.
    """
    if _adaptive(sampler):
        raise UserError(
            f"sampler must ask at times that are known beforehand, since a pipeline has a list of them; "
            f"{type(sampler).__name__} chooses its own as it goes"
        )
    used: list[bool] = []
    noise = _Watched(lambda: used.append(True))
    state = State(torch.ones(1, *shape, dtype=torch.float64), grid[0])
    asked = PipelineNetwork(process, shape, state.x)
    planned, found = sampler.for_model(asked).plan(process, grid), []
    for i, s in enumerate(grid[1:], 1):
        asked.seen.clear()
        start = state
        state = planned.step(start, s, asked, noise.step(i))
        nothing = i == 1 and not asked.seen
        as_given = asked.seen and asked.seen[0][1] == float(start.t) and torch.equal(asked.seen[0][0], start.x)
        if not nothing and not as_given:
            raise UserError(
                "sampler must ask about the state it is given before anything else, as a pipeline does, which "
                f"{sampler} does not"
            )
        found.append(tuple(t for _, t in asked.seen))
    if not bool(state.x.isfinite().all()):
        raise UserError(f"{sampler} has no finite step on the grid from t = {float(grid[0]):g}")
    return Evaluations(tuple(found), bool(used))


def _adaptive(sampler: Sampler) -> bool:
    """Whether a sampler, or a part of it, chooses its times by what it finds."""
    parts = sampler.parts if isinstance(sampler, Composite) else ()
    return isinstance(sampler, (Adaptive, AdaptiveSDE)) or any(map(_adaptive, parts))
