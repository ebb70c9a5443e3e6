"""The Gaussian-remainder solver: the flow of the data's Gaussian in closed form, and only the rest by quadrature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Dirac, Distribution, Noise
from ..processes import Process, ScalarGaussian, power
from .bridges import check_upwards
from .clock import NOISY, PURE, Clock, Weight, clock, remainder_times
from .loop import Sampler, State
from .moments import Moments, moments_of
from .quadrature import Array, gauss, lagrange

STEADY = 60.0
"""The largest sum of |l_j| over an interval; uniform nodes have 15 one step ahead at order 4."""

CLEAR = 50.0
"""A step is integrated again with values at no less than this share of its own noise."""

GAP = math.nan
"""The time of a node that is not there, for one sample among others."""


@dataclass(frozen=True, eq=False)
class Row:
    """One step, in coordinates along the directions: a number a direction ``(D,)``, or one a sample too ``(B, D)``.

    Attributes:
        read: (a, b, c) of q = a·(x − αm) + b·x̂_0 + c, along the directions; None if the network is not asked.
        scale: of x − αm.
        weights: of the values of q, newest first.
        std: of the noise; None for none.
        gain: of x − αm, the belief x̂_0 − m of the Gaussian alone; None where the network is asked.
        here, there: αm at both ends, in coordinates of the data.
    """

    read: tuple[Tensor, Tensor, Tensor] | None
    scale: Tensor
    weights: tuple[Tensor, ...]
    std: Tensor | None
    gain: Tensor | None
    here: Tensor
    there: Tensor

    def to(self, device: torch.device) -> Row:
        """The same row on another device, so that a step moves nothing."""
        return Row(
            None if self.read is None else tuple(v.to(device) for v in self.read),  # type: ignore[arg-type]
            self.scale.to(device),
            tuple(w.to(device) for w in self.weights),
            None if self.std is None else self.std.to(device),
            None if self.gain is None else self.gain.to(device),
            self.here.to(device),
            self.there.to(device),
        )


class Memory(NamedTuple):
    """What is kept between steps.

    Attributes:
        times: at which q is known, newest first: numbers, or ``(B,)`` with not-a-number where a sample has none.
        values: q there, ``(B, D)`` along the directions.
        prefix: the time from which nothing was asked yet; not-a-number for none.
        x: the state this belongs to.
        at: its time, the very tensor.
        along: x − αm along the directions.
        done: steps taken so far on a planned grid.
    """

    times: tuple[float | Tensor, ...]
    values: tuple[Tensor, ...]
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


def _steady(places: Array, interval: int, newest: int, order: int, stop: float) -> tuple[int, int]:
    """The stencil of the highest order, at most ``order``, that does not magnify the rounding of its values.

    Nodes close together far from the interval (many at almost pure noise, on a grid made for another solver) would.
    """
    ends = np.array([places[interval], stop])
    for lower in range(order, 1, -1):
        first, last = _stencil(interval, newest, lower)
        if np.abs(lagrange(places[first : last + 1], ends)).sum(0).max() <= STEADY:
            return first, last
    return _stencil(interval, newest, 1)


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
            row = own._stack(process, batch, s, state.x.shape[0])
        return own._take(row.to(state.x.device), state, now, s, denoiser, noise, past, -1)

    # Coefficients

    @property
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

    def _row(self, process: ScalarGaussian, t: float, past: tuple[float, ...], prefix: float, s: float) -> Row:
        return self._torch([self._numbers(process, t, past, prefix, s)], process, [t], [s], False)

    def _stack(self, process: ScalarGaussian, batch: list[float | Tensor], s: Tensor, size: int) -> Row:
        """Rows of samples at times of their own, as one row of ``(B, D)``."""
        columns = [torch.as_tensor(v, dtype=torch.float64).expand(size).tolist() for v in (*batch, s)]
        samples = list(zip(*columns))
        rows = [self._numbers(process, c[0], c[1:-2], c[-2], c[-1]) for c in samples]
        return self._torch(rows, process, [c[0] for c in samples], [c[-1] for c in samples], True)

    def _torch(
        self, rows: list[_Numbers], process: ScalarGaussian, t: list[float], s: list[float], stacked: bool
    ) -> Row:
        def column(arrays: Sequence[Array]) -> Tensor:
            return torch.as_tensor(np.stack(arrays)) if stacked else torch.as_tensor(arrays[0])

        assert self.moments is not None
        mean = self.moments.mean

        def centre(times: list[float]) -> Tensor:
            at = process.alpha(torch.tensor(times, dtype=torch.float64))
            return at[:, None] * mean if stacked else at[0] * mean

        asked = stacked or rows[0].asked
        read = None
        if asked:
            a, b = (column([r.read[i] for r in rows]) for i in (0, 1))
            read = a, b, -b * self.moments.basis.to(mean[None])[0]
        return Row(
            read,
            column([r.scale for r in rows]),
            tuple(column([r.weights[j] for r in rows]) for j in range(len(rows[0].weights))) if asked else (),
            column([r.std for r in rows]) if self.eta else None,
            None if asked else column([r.gain for r in rows]),
            centre(t),
            centre(s),
        )

    def _numbers(self, process: ScalarGaussian, t: float, past: Sequence[float], prefix: float, s: float) -> _Numbers:
        assert self.moments is not None
        check_upwards(t, s, self.eta)
        values, kappa = self.moments.array, 1 + self.eta**2
        times = torch.tensor([t, s], dtype=torch.float64)
        (alpha_t, alpha_s), (sigma_t, sigma_s) = process.alpha(times).tolist(), process.sigma(times).tolist()
        total_t, total_s = (np.sqrt(a**2 * values + v**2) for a, v in ((alpha_t, sigma_t), (alpha_s, sigma_s)))
        nothing = np.zeros_like(values)
        # y − m goes with S^κ; α_s/α_t (S_s/S_t)^κ is written so that α_t = 0 does no harm.
        fall = alpha_t * total_s / total_t  # (S_s/S_t) α_s
        shrink = fall / alpha_s if alpha_s > 0 else np.ones_like(values)
        scale = total_s / total_t * shrink ** (kappa - 1)
        std = total_s * np.sqrt(np.maximum(0.0, 1 - shrink ** (2 * self.eta**2))) if self.eta else nothing
        nodes = [(j + 1, r) for j, r in enumerate(past) if not math.isnan(r)]
        if s == t or self.skips(process, t, s, not nodes and math.isnan(prefix)):
            asked = s == t
            gain = alpha_t * values / total_t**2
            return _Numbers((nothing, nothing), scale, [nothing] * (len(past) + 1), std, gain, asked)
        ratio_t, ratio_s = _ratio(process, t), _ratio(process, s)
        if math.isinf(ratio_t):  # no signal at all: only the last step to data is asked from here, and returns x̂_0
            raise UserError("grid must start below t = 1 where α(1) = 0, or leave it in a first step that asks nothing")
        weight = self._weight
        size = np.sqrt(values + ratio_t**2)
        slope = -kappa * size**weight.rise / ratio_t**weight.fall
        read = (-slope * values / size**2 / alpha_t, slope)
        order = [(0, t), *nodes][::-1]
        gains = self._gains(process, [r for _, r in order], prefix, ratio_s)
        weights = [nothing] * (len(past) + 1)
        outer = total_s * np.sqrt(values + ratio_s**2) ** (kappa - 1)
        for (j, _), gain in zip(order, gains):
            weights[j] = outer * gain
        return _Numbers(read, scale, weights, std, nothing, True)

    def _gains(self, process: ScalarGaussian, nodes: list[float], prefix: float, end: float) -> list[Array]:
        """∫ W l_j du a node, oldest first: of the step to ``end``, and what the newest changes in earlier steps."""
        assert self.moments is not None
        v = clock(self.moments)
        ratios = [_ratio(process, r) for r in nodes]
        places = v(np.log(np.array(ratios)))
        newest = len(nodes) - 1
        gains = [np.zeros_like(self.moments.array) for _ in nodes]
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
                now = _steady(places, j, min(newest, clear), order, stop_place)
                before = None if last else _steady(places, j, min(newest - 1, clear), order, stop_place)
                if now == before:
                    continue
                for sign, stencil in ((share, now), (-share, before)):
                    if stencil is None:
                        continue
                    first, final = stencil
                    parts = self._integral(ratios[j], stop, places[first : final + 1])
                    for k, part in enumerate(parts):
                        gains[first + k] = gains[first + k] + sign * part
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
        v, values = clock(self.moments), self.moments.array
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
        row: Row,
        state: State,
        now: float | Tensor,
        s: Tensor,
        denoiser: Denoiser,
        noise: Noise,
        past: _Past,
        index: int,
    ) -> State:
        assert self.moments is not None
        x, basis, memory = state.x, self.moments.basis, state.memory
        times, values, prefix = past
        # The remainder is a difference of nearly equal numbers where there is much noise: float64 whatever x is.
        along = memory.along if memory is not None and memory.x is x else basis.to(_flat(x) - row.here)
        belief: Distribution
        moved = along * row.scale
        if row.read is None:
            assert row.gain is not None
            mean = self.moments.mean.to(along)
            belief = Dirac(basis.back(along * row.gain, mean).reshape(x.shape).to(x))
            start = prefix if not _none(prefix) else now
        else:
            belief = denoiser(x, state.t)
            told = basis.to(_flat(belief.mean))
            a, b, c = row.read
            values = (torch.addcmul(torch.addcmul(c, along, a), told, b), *values)
            for weight, each in zip(row.weights, values):
                moved = moved.addcmul_(each, weight)
            start, times = GAP, (now, *times)
        if row.std is not None:
            drawn = noise.normal(tuple(x.shape[1:])).reshape(along.shape)
            moved = torch.addcmul(moved, basis.to(drawn.to(along)), row.std)
        y = basis.back(moved, row.there).to(x.dtype)
        y = y if y.shape == x.shape else y.reshape(x.shape)
        kept = self._history
        return State(y, s, Memory(times[:kept], values[:kept], start, y, s, moved, index + 1), belief)


_Past = tuple[tuple[float | Tensor, ...], tuple[Tensor, ...], float | Tensor]
"""Times and values of the memory, and the start of its prefix."""


@dataclass(frozen=True, eq=False)
class _Numbers:
    """A ``Row`` of one sample, as arrays."""

    read: tuple[Array, Array]
    scale: Array
    weights: list[Array]
    std: Array
    gain: Array
    asked: bool


def _flat(x: Tensor) -> Tensor:
    """``(B, D)`` in float64; what changes nothing is not called, since it costs as much as a small sum."""
    flat = x if x.ndim == 2 else x.reshape(x.shape[0], -1)
    return flat if flat.dtype is torch.float64 else flat.to(torch.float64)


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


@dataclass(frozen=True, eq=False)
class Planned(Sampler):
    """The solver settled on a grid: rows are computed when a step first sees the model. Off it, it is the solver."""

    sampler: GaussianRemainder
    process: Process
    grid: tuple[float, ...]
    _last: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def check(self, process: Process) -> None:
        self.sampler.check(process)

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return self.sampler.plan(process, grid)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        memory: Memory | None = state.memory
        i, t, grid = 0 if memory is None else memory.done, state.t, self.grid
        off = not 0 <= i < len(grid) - 1 or t.ndim or s.ndim or float(s) != grid[i + 1]
        found = self._for(denoiser, state.x.device)
        # The very tensor of the step before needs no second look.
        if off or found is None or not ((memory is not None and t is memory.at) or float(t) == grid[i]):
            return self.sampler.step(state, s, denoiser, noise)
        own, rows = found
        past: _Past = ((), (), GAP) if memory is None else (memory.times, memory.values, memory.prefix)
        return own._take(rows[i], state, grid[i], s, denoiser, noise, past, i)

    def _for(self, denoiser: Denoiser, device: torch.device) -> tuple[GaussianRemainder, tuple[Row, ...]] | None:
        """The solver and its rows for a model, looked up again only when the model is another; None off the process."""
        last = self._last
        if last.get("denoiser") is not denoiser or last["device"] != device:
            found = None
            if denoiser.process == self.process:
                own = self.sampler.of(denoiser)
                found = own, _rows(own, self.process, self.grid, device)
            last.update(denoiser=denoiser, device=device, found=found)
        return last["found"]


def _rows(
    sampler: GaussianRemainder, process: Process, grid: tuple[float, ...], device: torch.device
) -> tuple[Row, ...]:
    try:
        return _settled(sampler, process, grid, device)
    except TypeError:  # a process that cannot be hashed
        return _settled.__wrapped__(sampler, process, grid, device)


@lru_cache(maxsize=64)
def _settled(
    sampler: GaussianRemainder, process: ScalarGaussian, grid: tuple[float, ...], device: torch.device
) -> tuple[Row, ...]:
    rows: list[Row] = []
    times: tuple[float, ...] = ()
    prefix = GAP
    for t, s in itertools.pairwise(grid):
        row = sampler._row(process, t, times, prefix, s)
        rows.append(row.to(device))
        if row.read is None:
            prefix = t if math.isnan(prefix) else prefix
        else:
            times, prefix = (t, *times)[: sampler._history], GAP
    return tuple(rows)
