"""The one loop: state, sampler, trajectory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_instance, check_integer, shown
from ..denoisers import Denoiser, check_is_denoiser
from ..distributions import Distribution, Noise, Stream
from ..processes import Process, ScalarGaussian


@dataclass(frozen=True, eq=False, init=False)
class State:
    """Where a sampler is.

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

    def __init__(self, x: Tensor, t: Tensor, memory: Any = None, belief: Distribution | None = None) -> None:
        # One a step: a frozen dataclass would take the longer way round, field by field.
        own = self.__dict__
        own["x"], own["t"], own["memory"], own["belief"] = x, t, memory, belief

    def move(self, x: Tensor, s: Tensor, memory: Any = None, belief: Distribution | None = None) -> State:
        """The state after a step to s."""
        return State(x, s, memory, belief if belief is not None else self.belief)


class Sampler(ABC):
    """An update rule: a frozen dataclass of settings whose ``step`` takes a state at t to one at s."""

    @abstractmethod
    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        """The state at s; noise is this step's own draw."""

    def check(self, process: Process) -> None:  # noqa: B027 (most samplers take any process)
        """Refuse a process that lacks a power this sampler needs, before any work."""

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        """The grid this sampler is meant for, or None for the process's own default."""
        return None

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        """This sampler settled on a grid: what depends on times alone is computed once, before the first step.

        The law of the steps does not change, but for settings that speak of the end of the grid.
        """
        return self

    def then(self, corrector: Sampler) -> Sampler:
        """This step, then the corrector at the time it ended: a predictor–corrector."""
        return Then(self, corrector)

    def repeat(self, times: int) -> Sampler:
        """The same step taken ``times`` times, the later ones at the time the first ended."""
        return Repeat(self, times)


@dataclass(frozen=True)
class Then(Sampler):
    """``first``, then ``second`` from s to s. Each keeps a memory of its own and draws noise of its own."""

    first: Sampler
    second: Sampler

    def __post_init__(self) -> None:
        check_sampler(self.first)
        check_sampler(self.second)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        memories = state.memory or (None, None)
        middle = self.first.step(replace(state, memory=memories[0]), s, denoiser, noise.fold(Stream.PREDICTOR))
        end = self.second.step(replace(middle, memory=memories[1]), s, denoiser, noise.fold(Stream.CORRECTOR))
        return replace(end, memory=(middle.memory, end.memory))

    def check(self, process: Process) -> None:
        self.first.check(process)
        self.second.check(process)

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        return self.first.default_grid(process, steps)

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return Then(self.first.plan(process, grid), self.second.plan(process, grid))


@dataclass(frozen=True)
class Repeat(Sampler):
    """``sampler``, ``times`` times a step."""

    sampler: Sampler
    times: int

    def __post_init__(self) -> None:
        check_sampler(self.sampler)
        check_integer("times", self.times, 1)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        for i in range(self.times):
            state = self.sampler.step(state, s, denoiser, noise.fold(Stream.REPEATED + i))
        return state

    def check(self, process: Process) -> None:
        self.sampler.check(process)

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        return self.sampler.default_grid(process, steps)

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return Repeat(self.sampler.plan(process, grid), self.times)


def check_sampler(sampler: object) -> None:
    """Refuse what is no sampler, a class or a name among it."""
    check_instance("sampler", sampler, Sampler, "a sampler such as langevin.samplers.DDIM()")


def check_start(start: Any, denoiser: Denoiser) -> None:
    """Refuse a start that is no batch of states of the denoiser's process."""
    if isinstance(start, Tensor) and start.shape[1:] == denoiser.shape and start.ndim and start.is_floating_point():
        floats = isinstance(denoiser.process, ScalarGaussian)
        if floats and len(start):
            return  # what is usual, without drawing a state
    example = denoiser.process.prior(denoiser.shape).sample(Noise(0, 1))
    kind = "floating" if example.is_floating_point() else "integer"
    accepted = f"start must be a {kind} tensor of states (B, {', '.join(map(str, example.shape[1:]))})"
    if not isinstance(start, Tensor):
        raise UserError(f"{accepted}, got {shown(start)}")
    if not start.ndim or not len(start) or start.shape[1:] != example.shape[1:]:
        raise UserError(f"{accepted}, got shape {tuple(start.shape)}")
    if start.is_floating_point() != example.is_floating_point() or start.dtype == torch.bool:
        raise UserError(f"{accepted}, got {start.dtype}")


def check_grid(grid: Tensor | list[float]) -> Tensor:
    """A grid as data: float64 ``(n + 1,)`` with n ≥ 1, finite, in [0, 1], no two neighbours equal."""
    try:
        grid = torch.as_tensor(grid, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"grid must be a 1-D tensor or a list of times in [0, 1], got {shown(grid)}") from None
    if grid.ndim != 1 or grid.numel() < 2:
        raise UserError(f"grid must be 1-D with at least two times, got shape {tuple(grid.shape)}")
    grid = grid.cpu()
    times = grid.tolist()  # a few numbers: looked at one by one they cost less than a tensor operation
    if not all(0.0 <= v <= 1.0 for v in times):
        raise UserError(f"grid must hold finite times in [0, 1], got {[round(v, 6) for v in times][:8]}")
    for i in range(1, len(times)):
        if times[i] == times[i - 1]:
            raise UserError(
                f"grid must move at every step; grid[{i}] = {times[i]:g} follows grid[{i - 1}] = {times[i - 1]:g}"
            )
    return grid


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
    sampler = sampler.plan(denoiser.process, grid)
    for i, s in enumerate(times[1:], 1):
        state = sampler.step(state, s, denoiser, noise.at(i))
        yield state
