"""Time grids: functions of the process and the number of steps."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import UserError, check_integer, check_numbers, shown
from .._registry import register
from ..storage.untrusted import room
from .base import Process, SignalToNoise, check_process, require
from .ddpm import DDPM
from .gaussian import ScalarGaussian
from .tables import TableChain

_EXACT = "exact: tests/samplers/test_grids.py"


STEP = 600
"""Bytes that a step of a grid takes at least: its time as a number and as a tensor, and its coefficients."""


def check_steps(steps: int) -> int:
    """A number of steps: an integer ≥ 1, for a grid that memory can hold."""
    check_integer("steps", steps, 1)
    room(STEP * steps, f"a grid of {steps} steps")
    return steps


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


def _end(times: Tensor) -> Tensor:
    return torch.cat((times, torch.zeros(1, dtype=torch.float64)))


@register("grids", "uniform", title="Uniform in t", proof=_EXACT)
def uniform(process: Process, steps: int) -> Tensor:
    """t_i = t_max (1 − i/n), from ``t_max`` to 0."""
    check_process(process)
    return process.t_max * torch.linspace(1, 0, check_steps(steps) + 1, dtype=torch.float64)


@register("grids", "quadratic", title="Quadratic in t", arxiv="2010.02502", proof=_EXACT)
def quadratic(process: Process, steps: int) -> Tensor:
    """t_i = t_max (1 − i/n)², as DDIM's τ (arXiv:2010.02502, appendix D.2)."""
    check_process(process)
    return process.t_max * torch.linspace(1, 0, check_steps(steps) + 1, dtype=torch.float64) ** 2


@register("grids", "shifted", title="Uniform in t, shifted towards noise", arxiv="2403.03206", proof=_EXACT)
def shifted(process: Process, steps: int, shift: float = 3.0) -> Tensor:
    r"""Uniform times moved towards noise, :math:`t' = s t / (1 + (s - 1) t)` from ``t_max`` (arXiv:2403.03206 eq. 23).

    On a flow it multiplies every noise level σ/α by s, as an image of s² times the pixels needs.

    Args:
        process: any; of a flow of diffusers, the s of its image size is ``model.config["shift"]``.
        steps: n.
        shift: s > 0; 1 is ``uniform``, 3 what Stable Diffusion 3 takes at 1024 × 1024.
    """
    check_numbers(shift=shift)
    if not shift > 0:
        raise UserError(f"shift must be > 0, got {shift}")
    check_process(process)
    first = process.t_max / (shift - (shift - 1) * process.t_max)  # which is moved to t_max
    t = first * torch.linspace(1, 0, check_steps(steps) + 1, dtype=torch.float64)
    times = shift * t / (1 + (shift - 1) * t)
    times[0] = process.t_max
    return times


@register("grids", "log-snr", title="Uniform in log-SNR", arxiv="2206.00927", proof=_EXACT)
def log_snr(process: Process, steps: int) -> Tensor:
    """n times uniform in log-SNR from ``t_max`` to ``t_min``, then 0 (arXiv:2206.00927 §3.4)."""
    noisy: SignalToNoise = require(process, SignalToNoise, "grid 'log-snr'")
    low, high = noisy.log_snr(process.t_max), noisy.log_snr(process.t_min)
    values = low + (high - low) * torch.linspace(0, 1, check_steps(steps), dtype=torch.float64)
    return _end(_clip(process, noisy.time(values)))


@register("grids", "karras", title="Karras ρ", arxiv="2206.00364", proof=_EXACT)
def karras(process: Process, steps: int, rho: float = 7.0) -> Tensor:
    r"""n times with σ/α from its value at ``t_max`` to that at ``t_min``, then 0 (arXiv:2206.00364 eq. 5).

    .. math:: (σ/α)_i = \left(σ_{\max}^{1/ρ} + \tfrac{i}{n-1} (σ_{\min}^{1/ρ} - σ_{\max}^{1/ρ})\right)^ρ
    """
    noisy: SignalToNoise = require(process, SignalToNoise, "grid 'karras'")
    check_numbers(rho=rho)
    if not rho > 0:
        raise UserError(f"rho must be > 0, got {rho}")
    top = torch.exp(-noisy.log_snr(process.t_max) / (2 * rho))
    bottom = torch.exp(-noisy.log_snr(process.t_min) / (2 * rho))
    ratio = (top + torch.linspace(0, 1, check_steps(steps), dtype=torch.float64) * (bottom - top)) ** rho
    return _end(_clip(process, noisy.time(-2 * torch.log(ratio))))


def _clip(process: Process, times: Tensor) -> Tensor:
    """The first and last evaluation are t_max and t_min themselves, not their round trip through log-SNR."""
    times[0] = process.t_max
    if times.numel() > 1:
        times[-1] = process.t_min
    return times


def between(process: ScalarGaussian, t: Tensor, s: Tensor, shares: Tensor) -> Tensor:
    """Times from t to s at shares of the way in log-SNR, ``(len(shares), *t.shape)``; the ends as given."""
    first, last = process.log_snr(t), process.log_snr(s)
    column = shares.reshape(-1, *[1] * t.ndim)
    times = process.time(first + (last - first) * column)
    return torch.where(column == 0, t, torch.where(column == 1, s, times))


def time_of_level(process: Process, level: float, name: str = "level") -> Tensor:
    """The time at which σ/α is ``level``, between its values at ``t_min`` and ``t_max``, float64 ``()``.

    Raises:
        UserError: for a level outside that range, under the name of the argument.
    """
    noisy: SignalToNoise = require(process, SignalToNoise, name)
    check_numbers(**{name: level})
    low, high = (float(torch.exp(-noisy.log_snr(t) / 2)) for t in (process.t_min, process.t_max))
    if not low * (1 - 1e-9) <= level <= high * (1 + 1e-9):
        raise UserError(f"{name} must be a noise level σ/α from {low:.4g} to {high:.4g} on {process}, got {level:g}")
    return noisy.time(-2 * torch.log(torch.tensor(float(level), dtype=torch.float64))).clamp(
        process.t_min, process.t_max
    )


def cut(grid: Tensor, t: Tensor | float) -> Tensor:
    """A grid downwards from t: t itself, and of ``grid`` the times below it."""
    t = torch.as_tensor(t, dtype=torch.float64)
    return torch.cat((t.reshape(1), grid[grid < t * (1 - 1e-9)]))


def _table(process: Process, name: str) -> int:
    check_process(process)
    if not isinstance(process, (DDPM, TableChain)):
        raise UserError(f"grid {name!r} is a sub-sequence of a table, which {type(process).__name__} is not")
    return process.steps


def _knots(indices: Tensor, total: int) -> Tensor:
    """Times of network indices k = n − 1 in [0, N), then 0."""
    return _end((indices.to(torch.float64) + 1) / total)


@register("grids", "leading", title="Leading sub-sequence", arxiv="2305.08891", proof=_EXACT)
def leading(process: Process, steps: int, offset: int = 0) -> Tensor:
    """Indices i·⌊N/n⌋ + offset of the table, downwards: it never sees the last knot (arXiv:2305.08891, Table 2)."""
    total = _table(process, "leading")
    check_integer("offset", offset, 0)
    if check_steps(steps) > total:
        raise UserError(f"steps must be at most the {total} knots of the table, got {steps}")
    return _knots((torch.arange(steps).flip(0) * (total // steps) + offset).clamp_max(total - 1), total)


@register("grids", "linspace", title="Linspace sub-sequence", arxiv="2305.08891", proof=_EXACT)
def linspace(process: Process, steps: int) -> Tensor:
    """n indices evenly from N − 1 to 0, rounded (arXiv:2305.08891, Table 2)."""
    total = _table(process, "linspace")
    if check_steps(steps) > total:
        raise UserError(f"steps must be at most the {total} knots of the table, got {steps}")
    if steps == 1:
        return _knots(torch.tensor([total - 1]), total)
    return _knots(torch.linspace(0, total - 1, steps, dtype=torch.float64).round().flip(0), total)


@register("grids", "trailing", title="Trailing sub-sequence", arxiv="2305.08891", proof=_EXACT)
def trailing(process: Process, steps: int) -> Tensor:
    """Indices round(N − i·N/n) − 1: it starts at the last knot (arXiv:2305.08891, Table 2)."""
    total = _table(process, "trailing")
    if check_steps(steps) > total:
        raise UserError(f"steps must be at most the {total} knots of the table, got {steps}")
    return _knots((total - torch.arange(steps, dtype=torch.float64) * total / steps).round() - 1, total)


def dynamic(times: Tensor, cost: Tensor, steps: int) -> Tensor:
    r"""The grid through some of ``times`` whose steps cost least: argmin Σ_i cost[i, i + 1] by dynamic programming.

    Any cost of a pair will do: a term of the variational bound (Watson et al. 2021, arXiv:2106.03802, alg. 1), a
    measured local error, a closed form. The first and the last time are kept; the sum is the least of all
    sub-sequences of ``steps`` steps, in O(steps·K²).

    Args:
        times: ``(K,)`` candidates, in the order they are passed.
        cost: ``(K, K)``; ``cost[i, j]`` is that of a step from ``times[i]`` to ``times[j]``, i < j.
            Infinite costs are steps that may not be taken.
        steps: between 1 and K − 1.

    Returns:
        ``(steps + 1,)`` times.
    """
    try:
        times, cost = torch.as_tensor(times, dtype=torch.float64), torch.as_tensor(cost, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"times and cost must hold numbers, got {shown(times)} and {shown(cost)}") from None
    count = times.numel()
    if times.ndim != 1 or cost.shape != (count, count):
        raise UserError(f"cost must be ({count}, {count}) for {count} times, got {tuple(cost.shape)}")
    if not 1 <= check_steps(steps) < count:
        raise UserError(f"steps must be between 1 and {count - 1} for {count} times, got {steps}")
    pairs = torch.ones(count, count, dtype=torch.bool).triu(1)
    if cost[pairs].isnan().any():
        raise UserError("cost must be numbers above its diagonal, got not-a-number")
    cost = torch.where(pairs, cost, torch.inf)
    least = torch.full((count,), torch.inf, dtype=torch.float64)
    least[0] = 0.0
    back = []
    for _ in range(steps):
        least, come = (least[:, None] + cost).min(0)
        back.append(come)
    if not least[-1].isfinite():
        raise UserError(
            f"cost must leave a way of {steps} steps from the first time to the last; every one is infinite"
        )
    path = [count - 1]
    for come in reversed(back):
        path.append(int(come[path[-1]]))
    return times[path[::-1]]


@register("grids", "optimal", title="Optimal for normal data of a given std", arxiv="2106.03802", proof=_EXACT)
def optimal(process: Process, steps: int, std: float = 0.5, candidates: int = 240) -> Tensor:
    r"""The grid on which first-order steps of the probability flow (DDIM) err least for N(0, spread²) data.

    For such data the flow multiplies x by :math:`\sqrt{V_s/V_t}` with :math:`V = α^2 c^2 + σ^2`, and a DDIM step by
    :math:`σ_s/σ_t + (α_s - α_t σ_s/σ_t)\,α_t c^2/V_t`. The flow of normal data keeps relative errors, so the cost of a
    step is the distance of the two logarithms, and their sum is the error at the end, since each step errs to the same
    side. Found by ``dynamic`` over times uniform in log-SNR, and 0.

    Args:
        process: scalar-Gaussian.
        steps: n.
        std: c, the RMS of the data a coordinate around its mean, > 0.
        candidates: how many times to choose from.
    """
    gaussian: ScalarGaussian = require(process, ScalarGaussian, "grid 'optimal'")
    check_numbers(std=std)
    check_integer("candidates", candidates, 2)
    if not 0 < std < float("inf"):
        raise UserError(f"std must be > 0, got {std}")
    times = log_snr(process, max(candidates, check_steps(steps) + 1))
    alpha, sigma = gaussian.alpha(times), gaussian.sigma(times)
    total = alpha**2 * std**2 + sigma**2
    (a_t, a_s), (b_t, b_s), (v_t, v_s) = ((f[:, None], f[None]) for f in (alpha, sigma, total))
    ratio = b_s / b_t
    taken = ratio + (a_s - a_t * ratio) * a_t * std**2 / v_t
    miss = torch.log(taken) - torch.log(v_s / v_t) / 2
    cost = torch.where(torch.ones_like(miss, dtype=torch.bool).triu(1), miss.abs(), torch.inf)
    return dynamic(times, cost, steps)
