"""The Gaussian-remainder solver: the flow of the data's Gaussian in closed form, and only the rest by quadrature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Noise
from ..processes import Process, ScalarGaussian, power
from .along import Numbers, Plain, Row
from .bridges import check_upwards
from .clock import NOISY, PURE, Clock, Weight, clock, remainder_times
from .loop import Sampler, State
from .moments import Moments, moments_of
from .quadrature import SPARE, Array, gauss, lagrange, spread_nodes

STEADY = 60.0
"""The largest sum of |l_j| over an interval; uniform nodes have 15 one step ahead at order 4."""

CLEAR = 50.0
"""A step is integrated again with values at no less than this share of its own noise."""

GAP = math.nan
"""The time of a node that is not there, for one sample among others."""


class Memory(NamedTuple):
    """What is kept between steps.

    Attributes:
        times: at which q is known, newest first: numbers, or ``(B,)`` with not-a-number where a sample has none.
        values: q there, as the rows keep it.
        prefix: the time from which nothing was asked yet; not-a-number for none.
        x: the state this belongs to.
        at: its time, the very tensor.
        along: x − αm along the directions.
        done: steps taken so far on a planned grid.
    """

    times: tuple[float | Tensor, ...]
    values: tuple[Any, ...]
    prefix: float | Tensor
    x: Tensor
    at: Tensor
    along: Tensor
    done: int


def _stencil(interval: int, newest: int, order: int) -> tuple[int, int]:
    """The nodes (first, last) on which interval j is integrated when node i is the newest.

    Two nodes beyond its start once they are known, and at the beginning all, until there are as many as the order.
    """
    last = min(newest, max(interval + min(order - 1, 2), order - 1))
    return max(0, last - order + 1), last


def _nodes(places: Array, interval: int, newest: int, order: int, stop: float) -> tuple[int, ...]:
    """The nodes of the interval that begins at one of them, oldest first, when ``newest`` is the last that is known.

    Of nodes that stand together after a gap the newest alone (``spread_nodes``); of the rest the stencil of the highest
    order, at most ``order``, that does not magnify the rounding of its values. Nodes close together far from the
    interval (many at almost pure noise, on a grid made for another solver) would.
    """
    ends = np.array([places[interval], stop])
    kept = [newest - i for i in spread_nodes(places[newest::-1].tolist(), abs(float(ends[1] - ends[0])))][::-1]
    if interval not in kept:  # a grid that turns back
        kept = list(range(newest + 1))
    own = kept.index(interval)
    for lower in range(order, 1, -1):
        first, last = _stencil(own, len(kept) - 1, lower)
        nodes = tuple(kept[first : last + 1])
        if np.abs(lagrange(places[list(nodes)], ends)).sum(0).max() <= STEADY:
            return nodes
    return (interval,)


@register(
    "samplers",
    "remainder",
    title="Gaussian remainder",
    proof="exact: tests/samplers/test_remainder.py, tests/laws",
)
@dataclass(frozen=True)
class GaussianRemainder(Sampler):
    r"""The flow of the Gaussian with the data's mean and covariance in closed form, the rest by multistep quadrature.

    With y = x/α, σ the noise-to-signal ratio, u = log σ, and along a direction of variance λ: S² = λ + σ², the flow is

    .. math:: \frac{dz}{du} = -\frac{Δ}{S}, \quad z = \frac{y - m}{S},
              \quad Δ = (\hat x_0 - m) - \frac{λ}{S^2} (y - m)

    Δ is what the network says beyond the Gaussian. It is written as W q with :math:`W = σ^2/S^4`, where q stays
    regular at both ends; q is interpolated by a polynomial in the ``clock`` of the moments, and W times the polynomial
    is integrated exactly. When a new value arrives, the last two steps are integrated again with it, at no evaluation.
    See docs/remainder.md.

    On its own grid (``default_grid``) the first step asks nothing: states far above the data's largest scale follow the
    Gaussian, and what that leaves out is added with the first value.

    Args:
        moments: of the data; by default those that travel with the model, or an assumption if there are none.
        order: of the interpolation, 1 to 4. At 4, sparse steps are a blend with order 3 (``blend``).
        eta: share of the reverse SDE's noise, ≥ 0; with noise the order is at most 2, and nothing is integrated again.
        prefix: whether a first step from noise alone asks nothing.
    """

    moments: Moments | None = None
    order: int = 4
    eta: float = 0.0
    prefix: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (1, 2, 3, 4):
            raise UserError(f"order must be 1, 2, 3 or 4, got {self.order!r}")
        check_numbers(eta=self.eta)
        if not 0.0 <= self.eta < math.inf:
            raise UserError(f"eta must be a finite number >= 0, got {self.eta}")
        if self.moments is not None and not isinstance(self.moments, Moments):
            raise UserError(f"moments must be a Moments, got {type(self.moments).__name__}")

    def of(self, denoiser: Denoiser) -> GaussianRemainder:
        """The solver with the moments of this model, unless it has its own."""
        if self.moments is not None:
            if len(self.moments.mean) != math.prod(denoiser.shape):
                raise UserError(
                    f"moments are of {len(self.moments.mean)} coordinates, data of shape {denoiser.shape} have "
                    f"{math.prod(denoiser.shape)}"
                )
            return self
        found = moments_of(denoiser)
        return replace(self, moments=_assumed(math.prod(denoiser.shape)) if found is None else found)

    def check(self, process: Process) -> None:
        power(process, ScalarGaussian, "the Gaussian-remainder solver")

    def default_grid(self, process: Process, steps: int) -> Tensor:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UserError(f"steps must be an integer of at least 1, got {steps!r}")
        gaussian: ScalarGaussian = power(process, ScalarGaussian, "the Gaussian-remainder solver")
        return remainder_times(gaussian, steps, self.moments or _assumed(1), self.prefix)

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return Planned(self, process, tuple(grid.tolist()))

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        own = self.of(denoiser)
        past = times, _, prefix = _past(state)
        now = state.t if state.t.ndim else float(state.t)
        batch: list[float | Tensor] = [now, *times, prefix]
        process: ScalarGaussian = denoiser.process  # type: ignore[assignment]
        if all(not isinstance(t, Tensor) or t.ndim == 0 for t in (*batch, s)):
            row = own._row(process, float(now), tuple(float(t) for t in times), float(prefix), float(s))
        else:
            row = own._stack(process, batch, s, state.x)
        return own._take(row.to(state.x.device), state, now, s, denoiser, noise, past, -1, own._remembered)

    # Coefficients

    @cached_property
    def _history(self) -> int:
        """Values used beside the newest: those of the stencils that it changes."""
        return min(self.order, 2) - 1 if self.eta else self.order

    @property
    def _weight(self) -> Weight:
        assert self.moments is not None
        return NOISY if self.eta else clock(self.moments).activity.weight

    def skips(self, process: ScalarGaussian, t: float, s: float, fresh: bool) -> bool:
        """Whether a step from t to s asks nothing: the first one, from a state that is noise alone."""
        assert self.moments is not None
        return self.prefix and fresh and 0 < s < t and _ratio(process, t) > PURE * self.moments.largest

    def _row(self, process: ScalarGaussian, t: float, past: tuple[float, ...], prefix: float, s: float) -> Row | Plain:
        assert self.moments is not None
        numbers = self._numbers(process, t, past, prefix, s)
        used = 1 + max((j for j, weight in enumerate(numbers.weights) if weight.any()), default=0)
        numbers = numbers._replace(
            weights=numbers.weights[:used], read=numbers.read[:used], read_alpha=numbers.read_alpha[:used]
        )
        if self.moments.alike:
            return Plain.of([numbers], self.moments, None)
        return Row.of([numbers], self.moments, False)

    def _stack(self, process: ScalarGaussian, batch: list[float | Tensor], s: Tensor, x: Tensor) -> Row | Plain:
        """Rows of samples at times of their own, as one."""
        assert self.moments is not None
        columns = [torch.as_tensor(v, dtype=torch.float64).expand(len(x)).tolist() for v in (*batch, s)]
        rows = [self._numbers(process, c[0], c[1:-2], c[-2], c[-1]) for c in zip(*columns)]
        return Plain.of(rows, self.moments, x) if self.moments.alike else Row.of(rows, self.moments, True)

    def _numbers(self, process: ScalarGaussian, t: float, past: Sequence[float], prefix: float, s: float) -> Numbers:
        check_upwards(t, s, self.eta)
        values, kappa = self._variances, 1 + self.eta**2
        times = torch.tensor([t, s, *(t if math.isnan(r) else r for r in past)], dtype=torch.float64)
        alpha, sigma = process.alpha(times).tolist(), process.sigma(times).tolist()
        (alpha_t, alpha_s), (sigma_t, sigma_s) = alpha[:2], sigma[:2]
        total_t, total_s = (np.sqrt(a**2 * values + v**2) for a, v in ((alpha_t, sigma_t), (alpha_s, sigma_s)))
        nothing = np.zeros_like(values)
        # y − m goes with S^κ; α_s/α_t (S_s/S_t)^κ is written so that α_t = 0 does no harm.
        fall = alpha_t * total_s / total_t  # (S_s/S_t) α_s
        shrink = fall / alpha_s if alpha_s > 0 else np.ones_like(values)
        scale = total_s / total_t * shrink ** (kappa - 1)
        std = total_s * np.sqrt(np.maximum(0.0, 1 - shrink ** (2 * self.eta**2))) if self.eta else nothing
        nodes = [(j + 1, r) for j, r in enumerate(past) if not math.isnan(r)]
        if s == t or self.skips(process, t, s, not nodes and math.isnan(prefix)):
            asks, ends, silent = s == t, (alpha_t, alpha_s), len(past) + 1
            gain = alpha_t * values / total_t**2
            return Numbers(
                ends, [(nothing, nothing)] * silent, [0.0] * silent, scale, [nothing] * silent, std, gain, asks
            )
        ratio_t, ratio_s = _ratio(process, t), _ratio(process, s)
        if math.isinf(ratio_t):  # no signal at all: only the last step to data is asked from here, and returns x̂_0
            raise UserError("grid must start below t = 1 where α(1) = 0, or leave it in a first step that asks nothing")
        order = [(0, t), *nodes][::-1]
        gains = self._gains(process, [r for _, r in order], prefix, ratio_s)
        weights, read = [nothing] * (len(past) + 1), [(nothing, nothing)] * (len(past) + 1)
        read_alpha = [0.0] * (len(past) + 1)
        outer = total_s * np.sqrt(values + ratio_s**2) ** (kappa - 1)
        for (j, _), gain in zip(order, gains):
            at = j + 1 if j else 0
            weights[j], read_alpha[j] = outer * gain, alpha[at]
            read[j] = self._reading(alpha[at], sigma[at])
        return Numbers((alpha_t, alpha_s), read, read_alpha, scale, weights, std, nothing, True)

    @property
    def _remembered(self) -> int:
        """Values kept step by step: some more than are used, for steps that leave out some of them."""
        return self._history + SPARE if self._history else 0

    def _reading(self, alpha: float, sigma: float) -> tuple[Array, Array]:
        """(a, b) of q = a·(x − αm) + b·(x̂_0 − m)."""
        weight, values, ratio = self._weight, self._variances, sigma / alpha
        size = np.sqrt(values + ratio**2)
        slope = -(1 + self.eta**2) * size**weight.rise / ratio**weight.fall
        return -slope * values / size**2 / alpha, slope

    @property
    def _variances(self) -> Array:
        """Along the directions, or the one that all have."""
        assert self.moments is not None
        return self.moments.array[:1] if self.moments.alike else self.moments.array

    def _gains(self, process: ScalarGaussian, nodes: list[float], prefix: float, end: float) -> list[Array]:
        """∫ W l_j du a node, oldest first: of the step to ``end``, and what the newest changes in earlier steps."""
        assert self.moments is not None
        v = clock(self.moments)
        ratios = [_ratio(process, r) for r in nodes]
        places = v(np.log(np.array(ratios)))
        newest = len(nodes) - 1
        gains = [np.zeros_like(self._variances) for _ in nodes]
        if not math.isnan(prefix):
            gains[0] = gains[0] + self._integral(_ratio(process, prefix), ratios[0], places[:0])[0]
        for j in range(newest + 1):
            last = j == newest
            if self.eta and not last:
                continue
            stop = end if last else ratios[j + 1]
            stop_place = float(v(np.array(_log(stop))))
            for order, share in self._orders(v, abs(float(places[j]) - stop_place)):
                # A value at far less noise is Δ/σ² of a network's rounding: it does not speak of steps far above.
                clear = max(k for k in range(newest + 1) if k <= j or ratios[k] > ratios[j] / CLEAR)
                now = _nodes(places, j, min(newest, clear), order, stop_place)
                before = None if last else _nodes(places, j, min(newest - 1, clear), order, stop_place)
                if now == before:
                    continue
                for sign, stencil in ((share, now), (-share, before)):
                    if stencil is None:
                        continue
                    parts = self._integral(ratios[j], stop, places[list(stencil)])
                    for k, part in zip(stencil, parts):
                        gains[k] = gains[k] + sign * part
        return gains

    def _orders(self, v: Clock, gap: float) -> list[tuple[int, float]]:
        """Orders of the interpolation and their shares, for nodes this far apart.

        Where steps are long the fourth value is too far away to help: the interpolant is then mostly of order 3.
        """
        if self.eta or self.order < 4:
            return [(min(self.order, 2) if self.eta else self.order, 1.0)]
        begin, over = v.activity.blend
        share = min(1.0, max(0.0, (v.pace(gap) - begin) / over))
        return [(order, part) for order, part in ((3, 1 - share), (4, share)) if part]

    def _integral(self, start: float, stop: float, places: Array) -> Array:
        """∫ W l_k du from σ = start to stop, ``(k, D)``, on nodes at ``places``; of W alone for no nodes."""
        assert self.moments is not None
        v, values = clock(self.moments), self._variances
        weight, kappa = self._weight, 1 + self.eta**2
        # Below e^-18 of the smallest scale and above e^18 of the largest nothing is left of W.
        low, high = 0.5 * math.log(float(values.min())) - 18, 0.5 * math.log(float(values.max())) + 18
        a, b = (min(max(_log(r), low), high) for r in (start, stop))
        total: Any = 0.0
        pieces = max(1, math.ceil(abs(b - a) / 1.5))
        for i in range(pieces):
            u, w = gauss(a + (b - a) * i / pieces, a + (b - a) * (i + 1) / pieces, 12)
            ratio = np.exp(u)[:, None]
            density = w[:, None] * ratio**weight.fall * (values + ratio**2) ** (-(kappa + weight.rise) / 2)
            basis = lagrange(places, v(u)) if len(places) else np.ones((1, len(u)))
            total = total + basis @ density
        return np.asarray(total)

    # Arithmetic of a step

    def _take(
        self,
        row: Row | Plain,
        state: State,
        now: float | Tensor,
        s: Tensor,
        denoiser: Denoiser,
        noise: Noise,
        past: _Past,
        index: int,
        remembered: int,
    ) -> State:
        memory: Memory | None = state.memory
        times, values, prefix = past
        along = memory.along if memory is not None and memory.x is state.x else None
        x, along, value, belief = row.move(state.x, state.t, along, values, denoiser, noise, self._history)
        if value is not None:
            node, begun = (now, GAP) if row.silent is None else _apart(row.silent, now, prefix)
            times, values, prefix = (node, *times)[:remembered], (value, *values)[:remembered], begun
        elif _none(prefix):
            prefix = now
        return State(x, s, Memory(times, values, prefix, x, s, along, index + 1), belief)


_Past = tuple[tuple[float | Tensor, ...], tuple[Any, ...], float | Tensor]
"""Times and values of the memory, and the start of its prefix."""


def _apart(silent: Tensor, now: float | Tensor, prefix: float | Tensor) -> tuple[Tensor, Tensor]:
    """The node and the start of the prefix of samples some of which asked nothing."""
    gap = torch.full(silent.shape, GAP, dtype=torch.float64)
    here, before = (torch.as_tensor(v, dtype=torch.float64).cpu().expand(silent.shape) for v in (now, prefix))
    return torch.where(silent, gap, here), torch.where(silent, torch.where(before.isnan(), here, before), gap)


def _none(prefix: float | Tensor) -> bool:
    return bool(prefix.isnan().all()) if isinstance(prefix, Tensor) else math.isnan(prefix)


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf


def _ratio(process: ScalarGaussian, t: float) -> float:
    """σ/α."""
    at = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = float(process.alpha(at)), float(process.sigma(at))
    return sigma / alpha if alpha > 0 else math.inf


@lru_cache(maxsize=16)
def _assumed(size: int) -> Moments:
    return Moments.unknown(size)


def _past(state: State) -> _Past:
    """Earlier times and values, and the start of the prefix; a step that stood still is not a second node."""
    memory: Memory | None = state.memory
    if memory is None:
        return (), (), GAP
    times, values, t = memory.times, memory.values, state.t
    if times:
        first = times[0]
        still = bool((t == first).any()) if isinstance(first, Tensor) or t.ndim else float(t) == first
        if still:
            times, values = times[1:], values[1:]
    return times, values, memory.prefix


_Found = tuple[GaussianRemainder, tuple[Row | Plain, ...], int]
"""The solver with a model's moments, its rows, and how many values they use."""

_Kept = tuple[Denoiser, torch.device, _Found | None]
"""Rows, and what they were computed for."""


@dataclass(frozen=True, eq=False)
class Planned(Sampler):
    """The solver settled on a grid: rows are computed when a step first sees the model. Off it, it is the solver.

    The rows of the model that was asked last are kept, as one tuple with all that they depend on beside the grid: they
    change no sample, whatever models and threads share this object.
    """

    sampler: GaussianRemainder
    process: Process
    grid: tuple[float, ...]
    _last: _Kept | None = field(default=None, init=False, repr=False)

    def check(self, process: Process) -> None:
        self.sampler.check(process)

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return self.sampler.plan(process, grid)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        memory: Memory | None = state.memory
        i, t, grid = 0 if memory is None else memory.done, state.t, self.grid
        off = not 0 <= i < len(grid) - 1 or t.ndim or s.ndim or float(s) != grid[i + 1]
        last = self._last
        known = last is not None and last[0] is denoiser and last[1] == state.x.device
        found = last[2] if known and last is not None else self._for(denoiser, state.x.device)
        # The very tensor of the step before needs no second look.
        if off or found is None or not ((memory is not None and t is memory.at) or float(t) == grid[i]):
            return self.sampler.step(state, s, denoiser, noise)
        own, rows, remembered = found
        past: _Past = ((), (), GAP) if memory is None else (memory.times, memory.values, memory.prefix)
        return own._take(rows[i], state, grid[i], s, denoiser, noise, past, i, remembered)

    def _for(self, denoiser: Denoiser, device: torch.device) -> _Found | None:
        """The solver, its rows for a model and the values that they use, kept for later steps; None off the process."""
        found = None
        if denoiser.process == self.process:
            own = self.sampler.of(denoiser)
            rows = _rows(own, self.process, self.grid, device)
            found = own, rows, max(own._history, *(row.values for row in rows))
        object.__setattr__(self, "_last", (denoiser, device, found))
        return found


def _rows(
    sampler: GaussianRemainder, process: Process, grid: tuple[float, ...], device: torch.device
) -> tuple[Row | Plain, ...]:
    try:
        return _settled(sampler, process, grid, device)
    except TypeError:  # a process that cannot be hashed
        return _settled.__wrapped__(sampler, process, grid, device)


@lru_cache(maxsize=64)
def _settled(
    sampler: GaussianRemainder, process: ScalarGaussian, grid: tuple[float, ...], device: torch.device
) -> tuple[Row | Plain, ...]:
    rows: list[Row | Plain] = []
    times: tuple[float, ...] = ()
    prefix = GAP
    for t, s in itertools.pairwise(grid):
        row = sampler._row(process, t, times, prefix, s)
        rows.append(row.to(device))
        if not row.asks:
            prefix = t if math.isnan(prefix) else prefix
        else:
            times, prefix = (t, *times)[: sampler._remembered], GAP
    return tuple(rows)
