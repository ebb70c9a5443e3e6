"""Latents of the deterministic flow: data to noise and back, and the paths between two of them."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import UserError, check_integer
from ..denoisers import Denoiser
from ..processes import Process, ScalarGaussian, require
from ..processes.grids import check_grid, log_snr
from .fixed_point import invert
from .loop import Sampler, State, trajectory
from .runge_kutta.dpm_solver import DPMSolver


def _grid(process: Process, steps: int, grid: Tensor | list[float] | None) -> Tensor:
    times = log_snr(process, steps) if grid is None else check_grid(grid)
    if grid is not None and (not bool((times.diff() < 0).all()) or times[-1] != 0 or len(times) < 3):
        raise UserError(f"grid must decrease to 0 in two steps or more, got {times.tolist()[:8]}")
    return times


def encode(
    denoiser: Denoiser,
    x: Tensor,
    *,
    steps: int = 50,
    sampler: Sampler | None = None,
    grid: Tensor | list[float] | None = None,
    fixed_point: int = 0,
    tolerance: float | None = None,
) -> Tensor:
    r"""The latent of data: the probability flow upwards, without noise (arXiv:2010.02502 §4.3, eq. 14).

    From data there is no noise to scale, so the state at the smallest time t_1 of the grid is
    α x_0 + σ ε̂(α x_0, t_1), which the last step of ``decode`` takes back to x_0 but for O(σ⁴); the rest is ``sampler``,
    run upwards. What ``decode`` gives back is off by the error of the sampler.

    With ``fixed_point`` every step of ``decode``, the last one to clean data too, is inverted itself: x_t solves
    x_s = step(x_t), by fixed-point iterations (arXiv:2309.04907, 2403.14602; see ``fixed_point.invert``), and what
    ``decode`` gives back is x to the tolerance.

    Args:
        denoiser: the belief.
        x: data, ``(B, *shape)``.
        steps: steps, ≥ 2; with DDIM and without ``fixed_point`` that many evaluations.
        sampler: a deterministic rule without a memory; DDIM if not given.
        grid: the times that ``decode`` takes, downwards and ending at 0; uniform in log-SNR if not given.
        fixed_point: iterations a step at most, as many evaluations of it; 0 for the explicit form.
        tolerance: RMS of x_s − step(x_t) a sample that is enough; if not given, 1e-10 in float64 and 1e-5 in float32.

    Returns:
        The state at the grid's first time, ``(B, *shape)``, in the denoiser's dtype, float32 at least (float64 for
        exact worlds).

    Raises:
        UserError: for a step that so many iterations did not invert: it names the step.
    """
    states = encoded(denoiser, x, steps=steps, sampler=sampler, grid=grid, fixed_point=fixed_point, tolerance=tolerance)
    return states[-1].x


def encoded(
    denoiser: Denoiser,
    x: Tensor,
    *,
    steps: int = 50,
    sampler: Sampler | None = None,
    grid: Tensor | list[float] | None = None,
    fixed_point: int = 0,
    tolerance: float | None = None,
) -> list[State]:
    """All states of ``encode``, from the grid's smallest time above 0 up to its first."""
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "encode")
    times, rule = _grid(process, _at_least_two(steps), grid), sampler or DPMSolver(1)
    check_integer("fixed_point", fixed_point, 0)
    with torch.no_grad():
        if fixed_point:
            return invert(denoiser, x, rule, times, fixed_point, tolerance)
        x = x.to(torch.float64)
        first = times[-2]
        state = process.alpha(first) * x
        noise = process.noise(state, denoiser(state, first), first)
        return list(trajectory(denoiser, rule, grid=times[:-1].flip(0), start=state + process.sigma(first) * noise))


def decode(
    denoiser: Denoiser,
    z: Tensor,
    *,
    steps: int = 50,
    sampler: Sampler | None = None,
    grid: Tensor | list[float] | None = None,
) -> Tensor:
    """Data of a latent: the probability flow downwards, the inverse of ``encode`` to the order of the sampler.

    Args:
        denoiser, steps, sampler, grid: as ``encode`` takes them.
        z: states at the grid's first time, ``(B, *shape)``.
    """
    times = _grid(denoiser.process, _at_least_two(steps), grid)
    with torch.no_grad():
        *_, last = trajectory(denoiser, sampler or DPMSolver(1), grid=times, start=z)
    return denoiser.process.read(last.x)


def _at_least_two(steps: int) -> int:
    return check_integer("steps", steps, 2)


def _shares(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    if a.shape != b.shape:
        raise UserError(f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    share = torch.as_tensor(share, dtype=a.dtype, device=a.device)
    if share.ndim > 1 or (share.ndim == 1 and share.shape[0] not in (1, a.shape[0])):
        raise UserError(f"share must have shape () or ({a.shape[0]},), got {tuple(share.shape)}")
    return share.reshape(-1, *[1] * (a.ndim - 1))


def lerp(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    """(1 − share)·a + share·b of each pair, ``(B, *event)``; between normal latents the norm sinks in the middle.

    Args:
        a, b: latents of one shape.
        share: 0 gives a, 1 gives b; ``()`` or ``(B,)``.
    """
    share = _shares(a, b, share)
    return (1 - share) * a + share * b


def slerp(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    r"""Spherical interpolation of each pair (Shoemake 1985; arXiv:2010.02502 eq. 67).

    .. math:: \frac{\sin((1 - w)θ)}{\sin θ} a + \frac{\sin(wθ)}{\sin θ} b, \quad θ = \arccos \frac{a·b}{\|a\| \|b\|}

    The angle is of a whole event. It is taken by atan2, which keeps its digits for nearly equal latents; where it is 0
    the interpolation is linear. Opposite latents have no path of their own and are refused.

    Args:
        a, b: latents of one shape, ``(B, *event)``, none of them 0.
        share: w; 0 gives a, 1 gives b; ``()`` or ``(B,)``.
    """
    share = _shares(a, b, share)
    flat = [v.flatten(1) for v in (a, b)]
    norms = [v.norm(dim=1, keepdim=True) for v in flat]
    if bool((torch.cat(norms) == 0).any()):
        raise UserError("a and b must not be 0: a zero latent has no direction")
    one, two = (v / n for v, n in zip(flat, norms))
    angle = 2 * torch.atan2((one - two).norm(dim=1), (one + two).norm(dim=1))
    if bool((angle > torch.pi - 1e-6).any()):
        raise UserError("a and b must not point in opposite directions: no path between them is shorter than another")
    theta = angle.reshape(-1, *[1] * (a.ndim - 1))
    # sin(wθ)/sin θ = w sinc(wθ/π)/sinc(θ/π), which is w at θ = 0
    weight = lambda w: w * torch.sinc(w * theta / torch.pi) / torch.sinc(theta / torch.pi)
    return weight(1 - share) * a + weight(share) * b
