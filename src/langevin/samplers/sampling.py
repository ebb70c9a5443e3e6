"""``sample``: the loop run to its end."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._errors import UserError, check_instance, check_integer, shown
from ..denoisers import Denoiser, Generator, check_is_denoiser
from ..distributions import Noise, Stream
from ..processes import ScalarGaussian
from ..storage.untrusted import room
from . import tolerance as accuracy
from .default import default_sampler
from .loop import Sampler, check_start, trajectory
from .plan import Plan, resolve
from .tolerance import Chosen


def check_memory(n: int, denoiser: Denoiser) -> None:
    """Refuse more samples than memory holds twice: in batches, and put together.

    Raises:
        UserError: with both numbers.
    """
    numbers = math.prod(denoiser.shape)
    room(n * (2 * numbers * denoiser.dtype.itemsize + 8), f"{n} samples of shape {tuple(denoiser.shape)}")


def choose_steps(
    denoiser: Denoiser,
    tolerance: float,
    sampler: Sampler | str | None = None,
    *,
    grid: str | None = None,
    n: int = accuracy.PROBES,
    seed: int = 0,
    trying: Callable[[int], None] | None = None,
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
        trying: called with each number of steps before it is tried.

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
        plan = resolve(told, sampler, steps=steps, grid=grid)
        own = noise.fold_in(draw) if draw else noise
        *_, state = trajectory(counted, plan.sampler, grid=plan.grid, start=start, noise=own)
        return told.read(state.x)

    def probe(steps: int) -> tuple[Tensor, int]:
        if trying is not None:
            trying(steps)
        before = counted.calls
        return end(steps), counted.calls - before

    with torch.no_grad():
        if not accuracy.is_deterministic(lambda draw: end(4, draw)):
            raise UserError(f"tolerance needs a sampler that draws no noise on its way, got {sampler}; give steps")
        return accuracy.fewest(probe, told.output, tolerance)


def sample(
    denoiser: Denoiser,
    sampler: Sampler | str | Plan | None = None,
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
            and guidance scale where the model carries such, else ``default_sampler(denoiser)``. Or the plan that
            ``resolve`` made of such a request, which says the steps and the grid too.
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
        if isinstance(sampler, Plan):
            raise UserError("tolerance chooses the steps, and a plan has them: give one of them")
        sampler = default_sampler(denoiser) if sampler is None else sampler
        steps = choose_steps(denoiser, tolerance, sampler, grid=grid, n=count, seed=key).steps
    if isinstance(sampler, Plan):
        plan = sampler
        plan.check(denoiser, steps, grid, upwards=start is not None)
    else:
        plan = resolve(denoiser, sampler, steps=steps, grid=grid, upwards=start is not None)
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
    done, total = 0, n * sum(len(stage.grid) - 1 for stage in plan.stages)
    parts = []
    with torch.no_grad():
        for first in range(0, n, batch):
            rows = slice(first, min(first + batch, n))
            part = noise.rows(rows).to(denoiser.device)
            made: Tensor | None = None
            for i, (stage, how) in enumerate(zip(denoiser.stages, plan.stages)):
                told = stage.rows(rows) if made is None else stage.rows(rows).given(image=made)
                own = part.fold_in(Stream.STAGE + i) if i else part
                x = stage.process.prior(stage.shape).sample(own.step(0)) if start is None or i else start[rows]
                states = trajectory(told, how.sampler, grid=how.grid, start=x.to(stage.device), noise=own)
                state = next(states)
                for state in states:  # noqa: B007 (the last one is the result)
                    done += len(part)
                    if progress is not None:
                        progress(done, total)
                x = stage.read(state.x)
                made = _whole(x.to(stage.dtype), first, how.sampler) if x.is_floating_point() else x
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
