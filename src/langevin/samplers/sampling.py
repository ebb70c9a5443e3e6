"""``sample``: the loop run to its end, with a default for every process."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch

import torch
from torch import Tensor

from .._errors import UserError, check_instance, check_integer, nearest, shown
from .._registry import lookup
from ..denoisers import Denoiser, Generator, check_is_denoiser
from ..distributions import Noise, Stream
from ..processes import PhaseSpace, Process, ScalarGaussian, TableChain, grids
from ..processes.grids import check_grid, check_steps
from ..storage.untrusted import room
from . import tolerance as accuracy
from .gaussian.solver import GaussianRemainder, order_under
from .jump import Jump
from .learned.sampler import find_learned_solver
from .linear.ancestral import Ancestral
from .loop import Sampler, check_sampler, check_start, trajectory
from .phase import PhaseProjected
from .tolerance import Chosen


@singledispatch
def default_sampler(process: Process | Denoiser) -> Sampler:
    """The sampler taken when none is named: for a process, or for a denoiser, from which it takes the data's moments.

    Scalar-Gaussian processes get the Gaussian-remainder solver, under guidance at the order that ``order_under`` says;
    phase space the same on what a state says about the data, at one evaluation a step; every other process gets
    ancestral sampling from the whole belief, which is exact for the true one.
    """
    return Ancestral()


@default_sampler.register
def _(process: ScalarGaussian) -> Sampler:
    return GaussianRemainder()


@default_sampler.register
def _(process: PhaseSpace) -> Sampler:
    return PhaseProjected()


@default_sampler.register
def _(denoiser: Denoiser) -> Sampler:
    rule = default_sampler(denoiser.process)
    if isinstance(rule, GaussianRemainder):
        rule = replace(rule, order=order_under(denoiser.extrapolation))
    return rule.for_model(denoiser)


@default_sampler.register
def _(denoiser: Generator) -> Sampler:
    return Jump()


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


def check_memory(n: int, denoiser: Denoiser) -> None:
    """Refuse more samples than memory holds twice: in batches, and put together.

    Raises:
        UserError: with both numbers.
    """
    numbers = math.prod(denoiser.shape)
    room(n * (2 * numbers * denoiser.dtype.itemsize + 8), f"{n} samples of shape {tuple(denoiser.shape)}")


STEPS = 10
"""Steps of a grid where neither their number nor the grid is given."""


def resolve(
    denoiser: Denoiser,
    sampler: Sampler | str | None = None,
    *,
    steps: int | None = None,
    grid: Tensor | list[float] | str | None = None,
    upwards: bool = False,
) -> tuple[Sampler, Tensor]:
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
        rise = (times.diff() > 0).nonzero()
        if not upwards and rise.numel():
            i = int(rise[0]) + 1
            raise UserError(
                f"grid must decrease strictly to draw data; grid[{i}] = {times[i]:g} follows grid[{i - 1}] = "
                f"{times[i - 1]:g} (to encode, give start)"
            )
        return sampler, times
    asked, steps = steps, STEPS if steps is None else steps
    check_steps(steps)
    own = sampler.default_grid(process, steps) if grid is None else lookup("grids", grid).make(process, steps)
    if asked is not None and grid is None and own is not None and len(own) != steps + 1:
        more = sampler.default_grid(process, steps + 1)
        if more is not None and torch.equal(own, more):
            raise UserError(f"steps must be left out: {sampler} makes its own number of steps, got {steps}")
    return sampler, check_grid(default_grid(process, steps) if own is None else own)


def choose_steps(
    denoiser: Denoiser,
    tolerance: float,
    sampler: Sampler | str | None = None,
    *,
    grid: str | None = None,
    n: int = accuracy.PROBES,
    seed: int = 0,
) -> Chosen:
    r"""The fewest steps whose error of the path is estimated to be at most ``tolerance``, and the estimate.

    The error of a path is :math:`\|x_N - x_\infty\| / (σ_{data} \sqrt D)`, the root mean square over coordinates of the
    distance to the model's own converged path from the same noise, in units of the data's standard deviation. Twelve
    paths of noises of their own are drawn with 2, 4, 8, … steps until two solutions agree well enough, and the fewest
    steps are then found between the last two. What is compared with the tolerance is the eighth of the twelve errors:
    with a probability of 0.81 at least the median of all paths. See docs/compare.md.

    Args:
        denoiser: the belief, with its conditions bound.
        tolerance: > 0.
        sampler: a deterministic update rule or its registered name; ``default_sampler(denoiser)`` if not given.
        grid: the registered name of a grid; the sampler's own if not given.
        n: samples that conditions are bound for, if one a sample; those of the first twelve are looked at.
        seed: of the noise.

    Raises:
        UserError: for a tolerance that is no number above 0 or is not met with 64 evaluations, a sampler that draws
            noise on its way, a process that has no probability flow.
    """
    accuracy.check_tolerance(tolerance)
    check_is_denoiser(denoiser)
    if len(denoiser.stages) > 1:
        raise UserError(f"tolerance is of one path, and this model draws in {len(denoiser.stages)} stages; give steps")
    if not isinstance(denoiser.process, ScalarGaussian) or isinstance(denoiser, Generator):
        raise UserError(
            f"tolerance needs a model with a probability flow x_t = αx_0 + σε, got {denoiser.process}; give steps"
        )
    sampler = default_sampler(denoiser) if sampler is None else sampler
    index = torch.arange(accuracy.PROBES)
    noise = Noise(seed, accuracy.PROBES).fold_in(Stream.TOLERANCE).to(denoiser.device)
    told = denoiser.rows(index % n)
    counted = accuracy.Counted(told)
    start = told.process.prior(told.shape).sample(noise.step(0)).to(told.device)

    def end(steps: int, draw: int = 0) -> Tensor:
        rule, times = resolve(told, sampler, steps=steps, grid=grid)
        own = noise.fold_in(draw) if draw else noise
        *_, state = trajectory(counted, rule, grid=times, start=start, noise=own)
        return told.read(state.x)

    def probe(steps: int) -> tuple[Tensor, int]:
        before = counted.calls
        return end(steps), counted.calls - before

    with torch.no_grad():
        if not accuracy.is_deterministic(lambda draw: end(4, draw)):
            raise UserError(f"tolerance needs a sampler that draws no noise on its way, got {sampler}; give steps")
        return accuracy.fewest(probe, told.output, tolerance)


def sample(
    denoiser: Denoiser,
    sampler: Sampler | str | None = None,
    *,
    n: int | None = None,
    steps: int | None = None,
    tolerance: float | None = None,
    grid: Tensor | list[float] | str | None = None,
    start: Tensor | None = None,
    seed: int = 0,
    noise: Noise | None = None,
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw data: the loop run to its end, without gradients.

    Sample i depends on (seed, i) alone: not on ``n``, ``batch`` or the order of batches.

    Args:
        denoiser: the belief; conditions are bound with ``denoiser.given(…)``, one value or one a sample.
        sampler: an update rule or its registered name; if not given, one that was tuned for this model, number of steps
            and guidance scale where the model carries such, else ``default_sampler(denoiser)``.
        n: how many; 1 if neither ``n``, ``start`` nor ``noise`` says so.
        steps: steps of the grid, 10 if neither ``steps`` nor ``grid`` is given (a two-evaluation sampler such as Heun
            takes two evaluations a step).
        tolerance: instead of ``steps``, the error that half of the paths may have at most, and the fewest steps that
            are estimated to keep it are taken: see ``choose_steps``, which says what it found.
        grid: the times themselves, or the registered name of a grid.
        start: states at ``grid[0]``, ``(n, *state)``; drawn from the process's prior if not given.
        seed: of the noise, in [0, 2⁶⁴).
        noise: instead of ``seed``, the noise of given samples.
        batch: how many are carried at a time.
        progress: called as ``progress(done, total)`` after every step, counting sample-steps.

    Returns:
        ``(n, *shape)`` data, in the denoiser's dtype (float64 for exact worlds).

    Raises:
        ValueError: for a request that cannot be met, before any work; for samples that came out not finite.
    """
    check_is_denoiser(denoiser)
    if progress is not None and not callable(progress):
        raise UserError(f"progress must be a function of (done, total), got {shown(progress)}")
    if tolerance is not None:
        if steps is not None:
            raise UserError(
                f"tolerance chooses the steps: give one of them, got tolerance {tolerance} and {steps} steps"
            )
        if start is not None:
            raise UserError("tolerance is kept by paths from noise to data, got a start; give steps instead")
        count = n if n is not None else 1 if noise is None else len(noise)
        key = seed if noise is None else noise.seed
        if grid is not None and not isinstance(grid, str):
            raise UserError("tolerance chooses the times: grid must be the name of one, or left out")
        sampler = default_sampler(denoiser) if sampler is None else sampler
        steps = choose_steps(denoiser, tolerance, sampler, grid=grid, n=count, seed=key).steps
    plans = [resolve(one, sampler, steps=steps, grid=grid, upwards=start is not None) for one in denoiser.stages]
    if start is not None:
        check_start(start, denoiser)
        if not bool(start.isfinite().all()):
            raise UserError(f"start must be finite, got {int((~start.isfinite()).sum())} numbers that are not")
    if noise is not None:
        check_instance("noise", noise, Noise, "a langevin.Noise")
    if noise is None:
        if n is None:
            n = 1 if start is None else start.shape[0]
        check_integer("n", n, 1)
        check_memory(n, denoiser)
        noise = Noise(seed, n)
    n = len(noise) if n is None else n
    if n != len(noise) or (start is not None and start.shape[0] != n):
        starts = "" if start is None else f", {start.shape[0]} starts"
        raise UserError(f"n, start and noise must agree on the number of samples, got {n}, {len(noise)} noises{starts}")
    check_integer("batch", batch, 1)
    done, total = 0, n * sum(len(times) - 1 for _, times in plans)
    parts = []
    with torch.no_grad():
        for first in range(0, n, batch):
            rows = slice(first, min(first + batch, n))
            part = noise.rows(rows).to(denoiser.device)
            made: Tensor | None = None
            for i, (stage, (rule, times)) in enumerate(zip(denoiser.stages, plans)):
                told = stage.rows(rows) if made is None else stage.rows(rows).given(image=made)
                own = part.fold_in(Stream.STAGE + i) if i else part
                x = stage.process.prior(stage.shape).sample(own.step(0)) if start is None or i else start[rows]
                states = trajectory(told, rule, grid=times, start=x.to(stage.device), noise=own)
                state = next(states)
                for state in states:  # noqa: B007 (the last one is the result)
                    done += len(part)
                    if progress is not None:
                        progress(done, total)
                x = stage.read(state.x)
                made = _whole(x.to(stage.dtype), first, rule) if x.is_floating_point() else x
            assert made is not None
            parts.append(made)
    return torch.cat(parts)


def _whole(x: Tensor, first: int, sampler: Sampler) -> Tensor:
    """Samples ``first``, ``first`` + 1, … as they are, once they are known to be finite."""
    # A sum is the cheapest question that no NaN and no infinity survives; one that overflows is asked in full.
    if not math.isfinite(float(x.sum())):
        bad = (~x.isfinite()).flatten(1).any(1)
        if bool(bad.any()):
            raise UserError(
                f"{int(bad.sum())} of {len(x)} samples are not finite, {first + int(bad.byte().argmax())} first: "
                f"the network or {sampler} diverged; take more steps or a smaller guidance scale, or, if the network "
                "computes in float16, bfloat16 or float32"
            )
    return x
