"""The one loop: state, sampler, trajectory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from .._errors import UserError, check_instance, check_integer, shown
from ..denoisers import Denoiser, check_is_denoiser
from ..distributions import Distribution, Noise, Stream
from ..processes import Process, require
from ..processes.grids import check_grid

P = TypeVar("P", bound=Process)


@dataclass(frozen=True, eq=False)
class State:
    """The state of a trajectory, and what the sampler remembers of it.

    Attributes:
        x: ``(B, *state)``.
        t: time, ``()`` or ``(B,)``, float64.
        memory: what the sampler keeps from earlier steps; None at the start, and a sampler must work from there.
        belief: the last belief about x_0, for those who watch; None before the first step.
    """

    x: Tensor
    t: Tensor
    memory: Any = None
    belief: Distribution | None = None

    def move(self, x: Tensor, s: Tensor, memory: Any = None, belief: Distribution | None = None) -> State:
        """The state after a step to s."""
        return State(x, s, memory, belief if belief is not None else self.belief)


class Sampler(ABC, Generic[P]):
    """An update rule: a frozen dataclass of settings whose ``step`` takes a state at t to one at s.

    P is the process it needs. ``check`` refuses any other before the first step, by ``needs``: the power and who asks.
    """

    needs: ClassVar[tuple[type, str]] = (Process, "a sampler")

    @abstractmethod
    def step(self, state: State, s: Tensor, denoiser: Denoiser[P], noise: Noise) -> State:
        """The state at s; noise is this step's own draw."""

    def check(self, process: Process) -> None:
        """Refuse a process that lacks a power this sampler needs, before any work."""
        require(process, *self.needs)

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        """The grid this sampler is meant for, or None for the process's own default."""
        return None

    def for_model(self, denoiser: Denoiser) -> Sampler:
        """This sampler with what it takes of a model: most take nothing, some the mean and covariance of its data."""
        return self

    def plan(self, process: P, grid: Tensor) -> Sampler:
        """This sampler on a grid: what depends on times alone is computed once, before the first step.

        The law of the steps does not change, but for settings that speak of the end of the grid.
        """
        return self

    def then(self, corrector: Sampler) -> Sampler:
        """This step, then the corrector at the time it ended: a predictor–corrector."""
        return Then(self, corrector)

    def repeat(self, times: int) -> Sampler:
        """The same step taken ``times`` times, the later ones at the time the first ended."""
        return Repeat(self, times)


class OnGrid(Sampler[P]):
    """A sampler whose steps are coefficients that depend on the process and on times alone.

    A step looks its coefficients up by its key, the times it depends on: ``plan`` has computed those of a grid; those
    of any other step are computed when it is taken.
    """

    _table: Mapping[Any, Any] = MappingProxyType({})

    @abstractmethod
    def coefficients(self, process: P, *key: Any) -> Any:
        """The coefficients of the step with this key; None of a sampler that has them for a grid alone."""

    @abstractmethod
    def tabulate(self, process: P, grid: tuple[float, ...]) -> Mapping[Any, Any]:
        """The coefficients of the steps of a grid, by key."""

    def plan(self, process: P, grid: Tensor) -> Sampler:
        planned, times = copy(self), tuple(grid.tolist())
        try:
            table = _tabulate(self, process, times)
        except TypeError:  # a process that cannot be hashed, since it learns
            table = self.tabulate(process, times)
        object.__setattr__(planned, "_table", table)
        return planned

    def looked_up(self, process: P, *key: Any) -> Any:
        """The coefficients of the step with this key, from the table where they are in it."""
        found = self._table.get(key)
        return self.coefficients(process, *key) if found is None else found


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # the next batch may be one with gradients
def _tabulate(sampler: OnGrid, process: Process, grid: tuple[float, ...]) -> Mapping[Any, Any]:
    """``tabulate``, cached for the next batch."""
    return sampler.tabulate(process, grid)


class Composite(Sampler):
    """A sampler made of others: what is asked of it before the first step is asked of each."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Sampler, ...]:
        """The samplers it is made of, first the one whose grid is taken."""

    @abstractmethod
    def with_parts(self, *parts: Sampler) -> Sampler:
        """This combination, of other samplers."""

    def check(self, process: Process) -> None:
        for part in self.parts:
            part.check(process)

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        return self.parts[0].default_grid(process, steps)

    def for_model(self, denoiser: Denoiser) -> Sampler:
        return self.with_parts(*(part.for_model(denoiser) for part in self.parts))

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return self.with_parts(*(part.plan(process, grid) for part in self.parts))


@dataclass(frozen=True)
class Then(Composite):
    """``first``, then ``second`` from s to s. Each keeps a memory of its own and draws noise of its own."""

    first: Sampler
    second: Sampler

    def __post_init__(self) -> None:
        check_sampler(self.first)
        check_sampler(self.second)

    @property
    def parts(self) -> tuple[Sampler, ...]:
        return self.first, self.second

    def with_parts(self, *parts: Sampler) -> Then:
        return Then(*parts)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        memories = state.memory or (None, None)
        middle = self.first.step(replace(state, memory=memories[0]), s, denoiser, noise.fold_in(Stream.PREDICTOR))
        end = self.second.step(replace(middle, memory=memories[1]), s, denoiser, noise.fold_in(Stream.CORRECTOR))
        return replace(end, memory=(middle.memory, end.memory))


@dataclass(frozen=True)
class Repeat(Composite):
    """``sampler``, taken ``times`` times in each step."""

    sampler: Sampler
    times: int

    def __post_init__(self) -> None:
        check_sampler(self.sampler)
        check_integer("times", self.times, 1)

    @property
    def parts(self) -> tuple[Sampler, ...]:
        return (self.sampler,)

    def with_parts(self, *parts: Sampler) -> Repeat:
        return Repeat(parts[0], self.times)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        for i in range(self.times):
            state = self.sampler.step(state, s, denoiser, noise.fold_in(Stream.REPEATED + i))
        return state


def check_sampler(sampler: object) -> None:
    """Refuse anything that is not a sampler, such as a class or a name."""
    check_instance("sampler", sampler, Sampler, "a sampler such as langevin.samplers.DDIM()")


def check_start(start: Any, denoiser: Denoiser) -> None:
    """Refuse a start that is no batch of states of the denoiser's process."""
    state = denoiser.process.state_shape(denoiser.shape)
    floating = not denoiser.process.discrete
    accepted = (
        f"start must be {'a floating' if floating else 'an integer'} tensor of states (B, {', '.join(map(str, state))})"
    )
    if not isinstance(start, Tensor):
        raise UserError(f"{accepted}, got {shown(start)}")
    if not start.ndim or not len(start) or start.shape[1:] != state:
        raise UserError(f"{accepted}, got shape {tuple(start.shape)}")
    if start.is_floating_point() != floating or start.dtype == torch.bool:
        raise UserError(f"{accepted}, got {start.dtype}")


def check_shared_time(t: Tensor, s: Tensor, what: str) -> None:
    """Refuse samples at times of their own, for samplers that remember values at times that all share."""
    if t.ndim or s.ndim:
        raise UserError(
            f"t and s must be one time for all samples with {what}, which remembers earlier values, got shapes "
            f"{tuple(t.shape)} and {tuple(s.shape)}; a sampler without a memory, such as DDIM, takes one a sample"
        )


def trajectory(
    denoiser: Denoiser, sampler: Sampler, *, grid: Tensor | list[float], start: Tensor, noise: Noise | None = None
) -> Iterator[State]:
    """The loop: yields the state at every time of the grid, the start first.

    Gradients are left as the caller set them.

    Args:
        denoiser: the belief; its process says what states are.
        sampler: the update rule.
        grid: times ``(n + 1,)``; decreasing for generation, increasing for encoding.
        start: the state at ``grid[0]``, ``(B, *state)``; floating states are carried in the
            denoiser's dtype, float32 at least (float64 for exact worlds). Coefficients are float64 always.
        noise: of these samples; draw i belongs to step i. ``Noise(0, B)`` if not given.
    """
    check_is_denoiser(denoiser)
    check_sampler(sampler)
    grid = check_grid(grid)
    sampler.check(denoiser.process)
    check_start(start, denoiser)
    noise = Noise(0, start.shape[0]) if noise is None else noise
    check_instance("noise", noise, Noise, "a langevin.Noise")
    if len(noise) != start.shape[0]:
        raise UserError(f"noise is for {len(noise)} samples, but start has {start.shape[0]}")
    noise = noise.to(start.device)
    x = start.to(torch.promote_types(denoiser.dtype, torch.float32)) if start.is_floating_point() else start
    times = grid.unbind()
    state = State(x, times[0])
    yield state
    sampler = sampler.for_model(denoiser).plan(denoiser.process, grid)
    for i, s in enumerate(times[1:], 1):
        state = sampler.step(state, s, denoiser, noise.step(i))
        yield state
