"""What a request for samples stands for: the sampler, its grid, and the defaults of every process."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from torch import Tensor

from .._errors import UserError, nearest
from .._registry import lookup
from ..denoisers import Denoiser
from ..processes import PhaseSpace, Process, ScalarGaussian, TableChain, grids
from ..processes.grids import check_grid, check_steps
from .default import default_sampler
from .learned.sampler import LearnedSolver, find_learned_solver
from .loop import Sampler, check_sampler


@singledispatch
def default_grid(process: Process, steps: int) -> Tensor:
    """The grid taken when none is named: Karras ρ = 7 for scalar-Gaussian processes, quadratic in t in phase space.

    Of a table of tokens, the knots nearest to uniform times; every other process gets uniform times.
    """
    return grids.uniform(process, steps)


@default_grid.register
def _(process: TableChain, steps: int) -> Tensor:
    return grids.trailing(process, steps)


@default_grid.register
def _(process: ScalarGaussian, steps: int) -> Tensor:
    return grids.karras(process, steps)


@default_grid.register
def _(process: PhaseSpace, steps: int) -> Tensor:
    return grids.quadratic(process, steps)


def create_sampler(name: str, **settings: object) -> Sampler:
    """A sampler by its registered name, with its settings.

    Raises:
        UserError: for a name or a setting that is not known, with the nearest; one that is missing, or of another type.
    """
    make = lookup("samplers", name).make
    known = inspect.signature(make).parameters
    for key in settings:
        if key not in known:
            takes = f"It takes {', '.join(known)}." if known else "It takes none."
            raise UserError(f"sampler {name!r} has no option {key!r}.{nearest(key, known)} {takes}")
    if lacks := [key for key, p in known.items() if p.default is p.empty and key not in settings]:
        if "measurement" in lacks:
            raise UserError(
                f"sampler {name!r} draws given a measurement, and has none here: use langevin restore --method {name}, "
                f"in Python langevin.restore(…, method={name!r})"
            )
        raise UserError(f"sampler {name!r} needs a value for {', '.join(lacks)}")
    try:
        made: Sampler = make(**settings)
    except TypeError as error:
        given = ", ".join(f"{key} = {value!r}" for key, value in settings.items())
        raise UserError(f"an option of sampler {name!r} has the wrong type, got {given}") from error
    return made


STEPS = 10
"""Steps of a grid where neither their number nor the grid is given."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a request for samples stands for, as ``resolve`` makes it and ``sample`` takes it.

    Attributes:
        sampler: with what it takes of the model.
        grid: the times of its steps, float64 ``(n + 1,)``.
        steps: steps that ask the model: a sampler may make fewer than were asked for, and the default one begins with
            a step that asks for nothing.
        earlier: the plans of the stages before this one, of a model that draws in stages.
    """

    sampler: Sampler
    grid: Tensor
    steps: int
    earlier: tuple[Plan, ...] = ()

    @property
    def learned(self) -> bool:
        """Whether the sampler was learned for this model, number of steps and guidance."""
        return isinstance(self.sampler, LearnedSolver)

    @property
    def stages(self) -> tuple[Plan, ...]:
        """The plans of all stages, this one last."""
        return *self.earlier, self

    def check(self, denoiser: Denoiser, steps: object, grid: object, upwards: bool) -> None:
        """Refuse what contradicts this plan: steps or a grid beside it, a model of other stages, a grid that rises."""
        if steps is not None or grid is not None:
            raise UserError("steps and grid must be left out beside a plan, which has both")
        if len(self.stages) != len(denoiser.stages):
            raise UserError(f"a plan of {len(self.stages)} stages was given for a model of {len(denoiser.stages)}")
        if not upwards:
            for stage in self.stages:
                _check_falling(stage.grid)


def has_own_steps(sampler: Sampler, process: Process, steps: int) -> bool:
    """Whether a sampler makes its own number of steps, whatever number is asked for."""
    own, more = (sampler.default_grid(process, n) for n in (steps, steps + 1))
    return own is not None and more is not None and torch.equal(own, more)


def resolve(
    denoiser: Denoiser,
    sampler: Sampler | str | None = None,
    *,
    steps: int | None = None,
    grid: Tensor | list[float] | str | None = None,
    upwards: bool = False,
) -> Plan:
    """What a request for samples stands for: the sampler, with what it takes of the model, and the times of its steps.

    This is the one place where defaults are chosen: a solver learned for the model, the number of steps and the
    guidance if there is one, else ``default_sampler``; ``STEPS`` steps; the sampler's own grid, else ``default_grid``.

    Args:
        denoiser: the belief, with its conditions bound.
        sampler, steps, grid: see ``sample``.
        upwards: whether the grid may rise, as it does for a start that is given.

    Raises:
        ValueError: for a request that cannot be met.
    """
    *earlier, last = (_resolve(stage, sampler, steps, grid, upwards) for stage in denoiser.stages)
    return replace(last, earlier=tuple(earlier))


def _resolve(
    denoiser: Denoiser,
    sampler: Sampler | str | None,
    steps: int | None,
    grid: Tensor | list[float] | str | None,
    upwards: bool,
) -> Plan:
    """``resolve``, of one stage."""
    process = denoiser.process
    if isinstance(sampler, str):
        sampler = create_sampler(sampler)
    if sampler is None and grid is None:
        sampler = find_learned_solver(denoiser, STEPS if steps is None else steps)
    sampler = default_sampler(denoiser) if sampler is None else sampler
    check_sampler(sampler)
    sampler.check(process)
    sampler = sampler.for_model(denoiser)
    if grid is not None and not isinstance(grid, str):
        times = check_grid(grid)
        if steps is not None and steps != len(times) - 1:
            raise UserError(f"steps = {steps} contradicts a grid of {len(times) - 1} steps; give one of them")
        if not upwards:
            _check_falling(times)
        return Plan(sampler, times, len(times) - 1)
    asked, steps = steps, STEPS if steps is None else steps
    check_steps(steps)
    own = sampler.default_grid(process, steps) if grid is None else lookup("grids", grid).make(process, steps)
    other = asked is not None and grid is None and own is not None and len(own) != steps + 1
    if other and has_own_steps(sampler, process, steps):
        raise UserError(f"steps must be left out: {sampler} makes its own number of steps, got {steps}")
    times = check_grid(default_grid(process, steps) if own is None else own)
    return Plan(sampler, times, min(steps, len(times) - 1))


def _check_falling(times: Tensor) -> None:
    """Refuse a grid that rises, for samples that start from the prior."""
    rise = (times.diff() > 0).nonzero()
    if rise.numel():
        i = int(rise[0]) + 1
        raise UserError(
            f"grid must decrease strictly to draw data; grid[{i}] = {times[i]:g} follows grid[{i - 1}] = "
            f"{times[i - 1]:g} (to encode, give start)"
        )
