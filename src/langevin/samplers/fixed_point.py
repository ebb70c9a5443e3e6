"""Steps of the deterministic flow, inverted: the state from which a step comes to a given one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from ..denoisers import Denoiser
from ..distributions import Noise
from ..processes import ScalarGaussian, require
from ..processes.grids import check_grid
from .loop import Sampler, State

WINDOW = 6
"""Differences that Anderson's acceleration remembers."""

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
"""The RMS of what a step misses that is enough, by the dtype of states."""


def invert(
    denoiser: Denoiser, x: Tensor, rule: Sampler, times: Tensor, iterations: int, tolerance: float | None = None
) -> list[State]:
    r"""States from the smallest time above 0 up to ``times[0]`` of which ``rule`` makes x, downwards.

    A step down from t to s is a map D, and x_t solves D(x_t) = x_s. The fixed point of

    .. math:: z \leftarrow z + m\,(x_s - D(z)), \qquad m = \frac{σ_t^2 + α_t^2}{σ_t σ_s + α_t α_s}

    is it (arXiv:2309.04907 eq. 5 and 2403.14602 §4 take the step's own :math:`m = σ_t/σ_s`, which does not exist
    at s = 0). Here m inverts the DDIM step of normal data with variance 1. For an exact belief D is the gradient of a
    convex function, since its derivative is :math:`b + a \frac{α}{σ^2} \mathrm{Cov}[x_0|x_t]` with a, b ≥ 0, so that
    there is one solution. Where the covariance is large, between two modes, or steps are long, the plain iteration
    runs away; Anderson's acceleration (Walker and Ni 2011) over the last ``WINDOW`` differences converges there too,
    and where a sample's residual grows it starts again from its best state with half the step.

    Args:
        denoiser: the belief, on a scalar-Gaussian process.
        x: data ``(B, *shape)``.
        rule: deterministic, without a memory.
        times: downwards, ending at 0.
        iterations: of a step, at most; each is one step of ``rule``.
        tolerance: RMS of D(x_t) − x_s a sample that is enough.

    Raises:
        UserError: for a rule that does not suit, and a step that was not inverted.
    """
    process = require(denoiser.process, ScalarGaussian, "an inversion by fixed points")
    times = check_grid(times)
    dtype = torch.promote_types(denoiser.dtype, torch.float32)
    enough = TOLERANCES[dtype] if tolerance is None else tolerance
    check_numbers(tolerance=enough)
    if not enough > 0:
        raise UserError(f"tolerance must be > 0, got {tolerance}")
    rule.check(process)
    rule = rule.for_model(denoiser).plan(process, times)
    noise = Noise(0, len(x)).to(denoiser.device)
    x = x.to(denoiser.device, dtype)
    found: list[State] = []
    for t, s in zip(times[:-1].flip(0), times[1:].flip(0)):

        def down(z: Tensor, rows: Tensor, t: Tensor = t, s: Tensor = s) -> Tensor:
            made = rule.step(State(z, t), s, denoiser.rows(rows), noise.rows(rows))
            if made.memory is not None:
                raise UserError(f"sampler must be one without a memory to be inverted step by step, got {rule}")
            return made.x

        alpha, sigma = (f(torch.stack((t, s))) for f in (process.alpha, process.sigma))
        scale = float((sigma[0] ** 2 + alpha[0] ** 2) / (sigma[0] * sigma[1] + alpha[0] * alpha[1]))
        # Upwards the rule itself gives a start, and refuses if it draws noise.
        first = x * alpha[0] if s == 0 else rule.step(State(x, s), t, denoiser, noise).x
        x, missed = solve(down, x, first, scale, iterations, enough)
        if bool((missed > enough).any()):
            worst = int(missed.nan_to_num(torch.inf).argmax())
            raise UserError(
                f"the step from t = {float(t):.5g} to {float(s):.5g} was not inverted in fixed_point = {iterations} "
                f"iterations for {int((~(missed <= enough)).sum())} of {len(x)} samples, {worst} the worst: it misses "
                f"by {float(missed[worst]):.1e}, and tolerance is {enough:.1e}; take more iterations or more steps"
            )
        found.append(State(x, t))
    return found


def solve(
    apply: Callable[[Tensor, Tensor], Tensor],
    target: Tensor,
    start: Tensor,
    scale: float,
    iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """z with apply(z) = target, each sample on its own, and the RMS of what is missed, ``(B,)``.

    Args:
        apply: of states and the indices of their samples.
        target, start: ``(B, *event)``.
        scale: m, about the inverse of the derivative.
        iterations: evaluations of ``apply`` at most.
        tolerance: RMS that is enough; samples that have it are not evaluated again.
    """
    shape, count = target.shape, len(target)
    best, least = start.clone(), target.new_full((count,), torch.inf, dtype=torch.float64)
    known = torch.zeros_like(start, dtype=torch.float64).flatten(1)  # what the best states miss
    # Of the samples that still move:
    rows = torch.arange(count, device=target.device)
    z, step = start, torch.full_like(least, scale)
    states = residuals = target.new_zeros((count, 0, target[0].numel()), dtype=torch.float64)
    for _ in range(iterations):
        missed = (target[rows] - apply(z, rows)).flatten(1).to(torch.float64)
        size = missed.square().mean(1).sqrt()
        better = size < least[rows]
        best[rows[better]], least[rows[better]], known[rows[better]] = z[better], size[better], missed[better]
        going = ~(least[rows] <= tolerance)
        if not bool(going.any()):
            break
        # What grew threefold, or is not a number, goes back to the best state and takes half the step from there.
        lost = ~(size <= 3 * least[rows])
        rows, z, missed, step, lost, states, residuals = (
            part[going] for part in (rows, z, missed, step, lost, states, residuals)
        )
        now = z.flatten(1).to(torch.float64)
        states = torch.cat([states, now[:, None]], 1)[:, -WINDOW - 1 :]
        residuals = torch.cat([residuals, missed[:, None]], 1)[:, -WINDOW - 1 :]
        step = torch.where(lost, step / 2, step)
        moved = _anderson(states, residuals, step)
        if bool(lost.any()):
            back, there = best[rows[lost]].flatten(1).to(torch.float64), known[rows[lost]]
            moved[lost] = back + step[lost, None] * there
            states[lost], residuals[lost] = back[:, None], there[:, None]  # a history of one state
        z = moved.reshape(-1, *shape[1:]).to(target.dtype)
    return best, least


def _anderson(states: Tensor, residuals: Tensor, step: Tensor) -> Tensor:
    """Anderson's next state of the last ones ``(B, k, D)``: the affine combination that misses least, and a step."""
    differences = residuals.diff(dim=1)
    if not differences.shape[1]:
        return states[:, -1] + step[:, None] * residuals[:, -1]
    gram = differences @ differences.mT
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    # A history that repeats itself has a singular matrix; a rounding of its trace keeps the solution bounded.
    small = 1e-14 * trace + 1e-300
    gram = gram + small[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    shares = torch.linalg.solve(gram, (differences @ residuals[:, -1, :, None]))
    mixed = states[:, -1] - (shares * states.diff(dim=1)).sum(1)
    left = residuals[:, -1] - (shares * differences).sum(1)
    return mixed + step[:, None] * left
