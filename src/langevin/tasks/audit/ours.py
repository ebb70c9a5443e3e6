"""Samplers of this library, and functions that sample, as the checks see them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError
from ...denoisers import DataDescription, Denoiser
from ...distributions import Dirac, Distribution, Noise
from ...processes import ScalarGaussian
from ...samplers import DPMSolver, GaussianRemainder, Multistep, Sampler, default_grid, trajectory
from . import truth
from .conventions import Level
from .drive import distance
from .subject import Path, Run, Subject, start


@dataclass(frozen=True, eq=False)
class Images(DataDescription):
    """The moments of the world of an audit, whose points are taken as images."""

    mean: Tensor
    cov: Tensor
    shape: tuple[int, ...] = truth.SHAPE


@dataclass(frozen=True, eq=False)
class Exact(Denoiser[ScalarGaussian]):
    """The belief of an audit's world or point as a denoiser of images, that keeps the times it was asked at."""

    process: ScalarGaussian
    belief: Any
    kind: torch.dtype = torch.float64
    nudge: int | None = None
    rounded: torch.dtype | None = None
    asked: list[float] = field(default_factory=list)

    @property
    def data(self) -> Images:
        return Images(truth.world().mean, truth.world().cov)

    @property
    def shape(self) -> tuple[int, ...]:
        return truth.SHAPE

    @property
    def dtype(self) -> torch.dtype:
        return self.kind

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        now = torch.as_tensor(t, dtype=torch.float64).reshape(-1)
        if len(now) > 1 and bool((now != now[0]).any()):
            parts = [self.mean(x, float(v)) for x, v in zip(x_t.split(1), now)]
            return Dirac(torch.cat(parts))
        return Dirac(self.mean(x_t, float(now[0])))

    def mean(self, x: Tensor, t: float) -> Tensor:
        """E[x_0 | x_t], changed by a hundredth of the noise level at the evaluation of ``nudge``."""
        a, s = level(self.process, t)
        given = x if self.rounded is None else x.to(self.rounded)
        mean = self.belief(given.to(torch.float64), a, s)
        if self.nudge == len(self.asked):
            mean = mean + 0.01
        self.asked.append(t)
        return mean.to(self.kind if self.rounded is None else self.rounded).to(self.kind)


def level(process: ScalarGaussian, t: float) -> Level:
    """(α, σ) at a time."""
    now = torch.tensor(t, dtype=torch.float64)
    return float(process.alpha(now)), float(process.sigma(now))


Function = Callable[[Denoiser, Tensor, Tensor], Tensor]
"""``f(denoiser, x, grid) -> x``: states at the first time of a grid to states at its last."""


@dataclass(eq=False)
class Sampling(Subject):
    """A sampler of this library, or a function, on a process.

    Args:
        name: as it was asked for.
        process: of states x_t = αx_0 + σε.
        sampler: of this library; or
        function: ``f(denoiser, x, grid)``.
        order: as declared; None if it is not.
    """

    name: str
    process: ScalarGaussian
    sampler: Sampler | None = None
    function: Function | None = None
    order: float | None = None
    kind: str = "sampler"

    def __post_init__(self) -> None:
        if not isinstance(self.process, ScalarGaussian):
            raise UserError(f"process must have states αx_0 + σε for an audit, got {self.process!r}")
        self.takes = frozenset() if self.sampler is None else frozenset({"generator"})
        if self.sampler is not None:
            self.sampler.check(self.process)
            if self.order is None and isinstance(self.sampler, GaussianRemainder):
                self.order = float(self.sampler.order_used)
            elif self.order is None and isinstance(self.sampler, (Multistep, DPMSolver)):
                self.order = float(self.sampler.order)  # of convergence, which ``order`` is not of every sampler

    def grid(self, how: Run) -> Tensor:
        """The default grid of the sampler, else of the process; or a grid to a noise-to-signal ratio."""
        if how.until is not None:
            return self.process.time(torch.linspace(-6.0, -2 * math.log(how.until), how.steps + 1, dtype=torch.float64))
        own = None if self.sampler is None else self.sampler.default_grid(self.process, how.steps)
        return default_grid(self.process, how.steps) if own is None else own

    def run(self, how: Run) -> Path:
        return self.walk(self.sampler, how)

    def walk(self, sampler: Sampler | None, how: Run) -> Path:
        """A run of a sampler, new or used."""
        grid = self.grid(how)
        levels = [level(self.process, float(t)) for t in grid]
        denoiser = Exact(self.process, how.belief, how.dtype, how.nudge, how.rounded)
        x = start(how, levels[0]).to(how.dtype)
        first, last = how.rows or (0, how.n)
        seed = 1 + (how.seed if how.draws is None else how.draws)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if sampler is None:
                assert self.function is not None
                states = [x, self.function(denoiser, x, grid)]
                levels = [levels[0], levels[-1]]
            else:
                noise = Noise(seed, torch.arange(first, last))
                states = [s.x for s in trajectory(denoiser, sampler, grid=grid, start=x, noise=noise)]
        asked = tuple(denoiser.asked)
        return Path(states, levels, asked, [level(self.process, t) for t in asked])

    def near(self, how: Run, ratio: float) -> tuple[Path, int]:
        return self.run(how), -1

    def again(self) -> tuple[float, str]:
        how = Run(10, 4)
        new = self.run(how).x
        self.run(replace(how, steps=7))
        return distance(self.run(how).x, new), "a run after another, of 7 steps, is that of a new one"

    def about(self) -> dict[str, Any]:
        return {"process": type(self.process).__name__, **super().about()}
