"""What is audited, as the checks see it: something that takes noisy states to data in a number of steps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from . import truth
from .conventions import Level
from .truth import Belief


@dataclass(frozen=True)
class Run:
    """How a run is made.

    Args:
        steps: asked for.
        n: samples.
        belief: of the network.
        dtype: of states and of what the network returns.
        rounded: round states and outputs to this dtype, and hand them over in ``dtype``.
        seed: of the data and noise of the start, and of the noise of the steps.
        draws: seed of the noise of the steps, if it is another.
        nudge: the evaluation whose output is changed by a hundredth.
        shift: of the first state, in units of its size, along one direction.
        begin: the state to begin at, 0 for the first.
        stop: leave off before this evaluation.
        fine: on a table of ten times as many times, if it has one.
        until: the noise-to-signal ratio at which to end; None for the data.
        rows: the first and the end of the samples to carry, of the n; None for all.
        each: a generator for each sample, as pipelines take them.
        told: tell the scheduler at which state it begins.
        private: let torch's own stream be another in every run, where a generator is handed over.
    """

    steps: int
    n: int = 16
    belief: Belief = truth.belief
    dtype: torch.dtype = torch.float64
    rounded: torch.dtype | None = None
    seed: int = 0
    draws: int | None = None
    nudge: int | None = None
    shift: float = 0.0
    begin: int = 0
    stop: int | None = None
    fine: bool = False
    until: float | None = None
    rows: tuple[int, int] | None = None
    each: bool = False
    told: bool = True
    private: bool = False


@dataclass(frozen=True, eq=False)
class Path:
    """What a run has shown.

    Attributes:
        states: before every evaluation, and the last.
        levels: (a, s) of each of them, as the thing itself has it.
        asked: the times at which the network was asked.
        asked_levels: what these times mean to the network.
    """

    states: Sequence[Tensor]
    levels: Sequence[Level]
    asked: Sequence[float]
    asked_levels: Sequence[Level] = ()

    @property
    def x(self) -> Tensor:
        """The last state."""
        return self.states[-1]


class Subject(ABC):
    """What the checks ask of a scheduler, a sampler or a function that samples."""

    name: str
    kind: str
    order: float | None = None
    """As it declares it, if it does."""
    most: int = 1000
    """The largest number of steps that it takes."""
    family: str = ""
    """Of levels: ``flow`` where α + σ is 1, ``edm`` where α is, else α² + σ² is."""
    every: int = 1
    """Of its states, each how many-th is one that it stands by."""

    @abstractmethod
    def run(self, how: Run) -> Path:
        """A run from states of the exact law at the first level, on something new."""

    @cached_property
    def stochastic(self) -> bool:
        """Whether another seed of the steps gives other samples from the same start."""
        one, two = (self.run(Run(4, 2, draws=seed)).x for seed in (1, 2))
        return not torch.equal(one.nan_to_num(0.0), two.nan_to_num(0.0))

    @cached_property
    def sound(self) -> bool:
        """Whether samples of ten steps are numbers."""
        return bool(self.run(Run(10, 2)).x.isfinite().all())

    def near(self, how: Run, ratio: float) -> tuple[Path, int]:
        """A run, and which of its states has the noise-to-signal ratio that is next to a given one."""
        path = self.run(how)
        found = [i for i in range(0, len(path.states) - 1, self.every) if path.levels[i][0] > 0 < path.levels[i][1]]
        gap = lambda i: abs(math.log(path.levels[i][1] / path.levels[i][0] / ratio))
        return path, min(found, key=gap)

    def again(self) -> tuple[float, str] | None:
        """How far runs on a used object are from those on a new one, and how it was used; None if nothing is used."""
        return None

    def about(self) -> dict[str, Any]:
        """How it was read."""
        return {"stochastic": self.stochastic, "declared order": self.order}


def start(how: Run, level: Level) -> Tensor:
    """States of the exact law at a level, of the world or of the point."""
    x0 = truth.POINT.expand(how.n, *truth.SHAPE) if how.belief is truth.point else truth.clean(how.n, how.seed + 10)
    moved = how.shift * math.hypot(*level)
    return (level[0] * x0 + level[1] * truth.noise(how.n, how.seed + 11) + moved)[slice(*(how.rows or (None,)))]
