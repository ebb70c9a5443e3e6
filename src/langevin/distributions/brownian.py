"""Noise by interval: Brownian paths that are the same whatever the grid that walks them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError, check_integer
from .._registry import register
from ..numerics.streams import Stream
from .noise import Noise, _column, starts, stream

_NODE, _POINT = 2, 3
"""The last counter word: a node of the tree, or a point in a cell of its last level (then plus where in the cell)."""

_SMALL = 2**15
"""Numbers of a level up to which those of several levels are made together."""

Array = np.ndarray[Any, Any]

BrownianTime = Callable[[Tensor], Tensor]

Spot = tuple[Array, Array]
"""Times ``()`` or ``(B,)``, and their places."""


@dataclass(eq=False)
class _Memo:
    """The last way down the tree, kept so that a next point nearby starts from the ancestors it shares.

    Attributes:
        event: shape of an event.
        keys: for each level the cell's index and V at its left end, middle and right end, ``(4, depth + 1, P)``
            for P times; in the last row the point stands for the middle.
        ends: the path at both ends of [0, 1].
        middles: the path in the middle of the cell of each level.
        value: the path at the point.
        parts: memos of the folds.
    """

    event: tuple[int, ...] | None = None
    keys: Array | None = None
    ends: tuple[Tensor, Tensor] | None = None
    middles: list[Tensor] = field(default_factory=list)
    value: Tensor | None = None
    parts: dict[int, _Memo] = field(default_factory=dict)


@register(
    "distributions",
    "brownian-path",
    title="Brownian paths by interval",
    proof="exact: tests/distributions/test_brownian.py",
)
@dataclass(frozen=True, eq=False)
class BrownianPath(Noise):
    r"""Noise in which each sample has one Brownian path, and a step from t to s gets the path's increment.

    A grid that is refined walks the same path, so the outcome of an SDE sampler settles as its steps grow, and strong
    errors can be measured. The path is a function of (seed, sample, position) alone, whatever the batch or the order
    of questions; numbers asked for otherwise (``normal``, ``uniform``) are those of ``Noise``.

    The path is Lévy's construction over t ∈ [0, 1]. A cell with ends a < b has its middle m drawn from the bridge, in
    the Brownian time V that is asked for, with a normal keyed by (sample, cell), of float32's digits:

    .. math:: W_m = W_a + \frac{V_m - V_a}{V_b - V_a} (W_b - W_a)
                  + \sqrt{\frac{(V_m - V_a)(V_b - V_m)}{V_b - V_a}}\; z_{ab}

    ``depth`` levels down, the point itself is drawn in the same way with a normal keyed by it. So the law is exact for
    any times of which no two share a cell of the last level, and two that do are refused. W is 0 at the end where
    \|V\| is smallest; V may be infinite at the other end. Cells halve in the rank of t: in
    logit(rank) = ¼ logit(t), which leaves no usual grid crowded at either end, or in the position among given knots.
    A path belongs to its V: another V gets another path with the same fine structure.

    A step costs about depth − log₂(steps) + 1 normals an element (a step of ``Noise`` costs one), and one if the grid
    is that of the knots or halves their intervals again and again.

    Args:
        seed: an integer in [0, 2⁶⁴).
        sample: the number of samples, or their global indices ``(B,)``.
        draw: which draw the other numbers belong to.
        depth: levels of the tree, in [1, 30].
        knots: increasing or decreasing times whose intervals are halved, instead of the rank above.
    """

    path: int = 0
    depth: int = 10
    knots: Tensor | None = None
    memo: _Memo = field(default_factory=_Memo, repr=False)

    def __init__(
        self,
        seed: int,
        sample: Tensor | int,
        draw: int = 0,
        depth: int = 10,
        knots: Tensor | list[float] | None = None,
        path: int | None = None,
        memo: _Memo | None = None,
    ) -> None:
        super().__init__(seed, sample, draw)
        check_integer("depth", depth, 1, 30)
        if knots is not None:
            knots = torch.as_tensor(knots, dtype=torch.float64)
            if knots.ndim != 1 or knots.numel() < 2 or not (knots.isfinite().all()):
                raise UserError(f"knots must be 1-D with at least two times, got shape {tuple(knots.shape)}")
            knots = knots.flip(0) if knots[0] > knots[-1] else knots
            if not (knots.diff() > 0).all() or knots[0] < 0 or knots[-1] > 1:
                raise UserError(f"knots must increase or decrease strictly within [0, 1], got {knots.tolist()[:8]}")
            if knots.numel() - 1 > 2**depth:
                raise UserError(
                    f"depth must be at least {(knots.numel() - 2).bit_length()} for these knots, got {depth}"
                )
        object.__setattr__(self, "path", _key(f"{seed} path") if path is None else path)
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "knots", knots)
        object.__setattr__(self, "memo", _Memo() if memo is None else memo)

    def __repr__(self) -> str:
        return f"BrownianPath(seed={self.seed}, samples={len(self)}, depth={self.depth})"

    def fold_in(self, tag: int) -> BrownianPath:
        """Part ``tag``: an independent path, the same at every draw, and independent numbers of this draw."""
        memo = self.memo.parts.setdefault(int(tag), _Memo())
        return replace(self, seed=super().fold_in(tag).seed, path=_key(f"{self.path} {int(tag)}"), memo=memo)

    def rows(self, index: slice | Tensor) -> BrownianPath:
        return replace(self, sample=self.sample[index], memo=_Memo())

    def to(self, device: torch.device | str) -> BrownianPath:
        moved = self.sample.to(device)
        return self if moved.device == self.sample.device else replace(self, sample=moved, memo=_Memo())

    def value(self, event: tuple[int, ...], t: Tensor | float, brownian_time: BrownianTime) -> Tensor:
        """W(V(t)) itself, float64 ``(B, *event)``: its differences are the increments."""
        return self._at(event, [self._spot(_array(t))], brownian_time)[0].clone()  # the memo keeps its own

    def floor(self, t: Tensor) -> Tensor:
        """The nearest end of a last cell at or below t, ``()`` or ``(B,)``: a time of the tree itself.

        Times that are found on the way had better stand there: they do not change with the rounding of what found them.
        """
        found = self._time(np.floor(self._place(_array(t))) / 2**self.depth)
        return torch.as_tensor(found, device=t.device).reshape(t.shape)

    def increment(
        self, event: tuple[int, ...], t: Tensor | float, s: Tensor | float, brownian_time: BrownianTime
    ) -> Tensor:
        start, end = self._at(event, self._apart(t, s), brownian_time)
        return end - start

    def along_path(self, t: Tensor | float, s: Tensor | float, brownian_time: BrownianTime) -> Noise:
        return _Step(self, self._apart(t, s), brownian_time)

    def _spot(self, t: Array) -> Spot:
        return t, self._place(t)

    def _apart(self, t: Tensor | float, s: Tensor | float) -> list[Spot]:
        """Both times, ``()`` or ``(B,)``; two that share a last cell are refused."""
        one, other = (self._spot(v) for v in np.broadcast_arrays(_array(t), _array(s)))
        low, high = np.floor(one[1]), np.floor(other[1])
        shared = (low == high) & (one[1] != low) & (other[1] != high) & (one[0] != other[0])
        if shared.any():
            i = int(shared.reshape(-1).argmax())
            first, second = (float(v.reshape(-1)[i]) for v, _ in (one, other))
            raise UserError(
                f"depth must be more than {self.depth} for this grid: t = {first:.6g} and "
                f"s = {second:.6g} share one of the path's {2**self.depth} cells"
            )
        return [one, other]

    def _rank(self, t: Array) -> Array:
        """The position of t in [0, 1] in which cells halve, by operations that every machine rounds alike."""
        if self.knots is None:
            a, b = np.sqrt(np.sqrt(t)), np.sqrt(np.sqrt(1 - t))
            return a / (a + b)
        knots = self.knots.numpy()
        count = len(knots) - 1
        if not np.logical_and(t >= knots[0], t <= knots[-1]).all():
            raise UserError(f"times must lie within the knots [{knots[0]:g}, {knots[-1]:g}], got {t.tolist()}")
        i = np.clip(np.searchsorted(knots, t, side="right") - 1, 0, count - 1)
        share = (t - knots[i]) / (knots[i + 1] - knots[i])
        return (i + share) / _padded(count)

    def _time(self, rank: Array) -> Array:
        """The inverse of ``_rank``; beyond the last knot it is the last knot."""
        if self.knots is None:
            a, b = rank * rank, (1 - rank) * (1 - rank)
            return a * a / (a * a + b * b)
        knots = self.knots.numpy()
        count = len(knots) - 1
        place = np.minimum(rank * _padded(count), count)
        i = np.clip(np.floor(place).astype(np.int64), 0, count - 1)
        return knots[i] + (place - i) * (knots[i + 1] - knots[i])

    def _place(self, t: Array) -> Array:
        """The rank in units of cells of the last level; a time that rounding put beside an end is that end."""
        place = self._rank(t) * 2**self.depth
        whole = np.round(place)
        return np.where(abs(place - whole) < 2**-30, whole, place)

    def _at(self, event: tuple[int, ...], spots: list[Spot], brownian_time: BrownianTime) -> list[Tensor]:
        """W at each of these times ``()`` or ``(B,)``, in the Brownian time, which is asked once."""
        depth = self.depth
        level = np.arange(depth + 1)[:, None]
        size = np.exp2(-level)
        found, ranks = [], []
        for t, at in spots:
            place = at.reshape(-1)  # (P,): one time for all samples, or one each
            leaf = np.minimum(np.floor(place).astype(np.int64), 2**depth - 1)
            index = leaf >> (depth - level)
            middle = (index + 0.5) * size
            middle[-1] = place / 2**depth
            ranks.append((index * size, middle, (index + 1) * size))
            found.append((place, leaf, index, _first_level(place, depth) if t.ndim == 0 else depth))
        v = brownian_time(torch.from_numpy(self._time(np.array(ranks)))).cpu().numpy()
        return [self._point(event, *each, at) for each, at in zip(found, v)]

    def _point(self, event: tuple[int, ...], place: Array, leaf: Array, index: Array, stop: int, v: Array) -> Tensor:
        """W at one of them: its place, the last cell, the cells of all levels, the level of which it is an end."""
        depth, memo = self.depth, self.memo
        keys = np.concatenate((index[None], v))
        known = 0
        if memo.keys is not None and memo.event == event and memo.keys.shape == keys.shape:
            same = (memo.keys == keys).all((0, 2))
            known = int(same.argmin()) if not same.all() else depth + 1
        if known > depth == stop and memo.value is not None:
            return memo.value
        ends = memo.ends if known and memo.ends is not None else self._ends(event, float(v[0, 0, 0]), float(v[2, 0, 0]))
        middles = memo.middles[:known]
        ratio, spread = _bridge(*v)
        words, uses = 2 ** np.arange(depth + 1)[:, None] + index, np.full_like(index, _NODE)
        words[-1], uses[-1] = leaf, _POINT + ((place - leaf) * 2**31).astype(np.int64)
        numbers = self._numbers(event, words, uses, range(len(middles), stop + (stop == depth)), spread)
        low, high = ends
        for i in range(stop):
            if i == len(middles):
                middles.append(self._between(low, high, ratio[i], spread[i], next(numbers)))
            low, high = _descend(low, middles[i], high, index[i + 1] & 1)
        if stop == depth:
            value = self._between(low, high, ratio[-1], spread[-1], next(numbers))
        else:
            value = high if place[0] == 2**depth else low
        memo.event, memo.keys, memo.ends, memo.middles, memo.value = event, keys, ends, middles, value
        return value

    def _ends(self, event: tuple[int, ...], first: float, last: float) -> tuple[Tensor, Tensor]:
        r"""W(0) and W(1): 0 where \|V\| is smaller; what stands for an infinite end is not used."""
        start = torch.zeros(len(self), *event, dtype=torch.float64, device=self.sample.device)
        if math.isinf(first) or math.isinf(last):
            return start, start
        z = stream(starts(self.sample, 0, _NODE, self.path), math.prod(event)).reshape(start.shape)
        end = math.sqrt(abs(last - first)) * z
        return (start, end) if abs(first) <= abs(last) else (end, start)

    def _numbers(
        self, event: tuple[int, ...], words: Array, uses: Array, levels: range, spread: Array
    ) -> Iterator[Tensor | None]:
        """The normals of these levels, one after the other; None where they would be multiplied by 0."""
        if not levels:
            return
        count, size, dim = len(levels), len(self), math.prod(event)
        repeat = lambda v: self._side(np.repeat(v[levels.start : levels.stop], size // v.shape[1], 1).reshape(-1))
        start = starts(self.sample.repeat(count), repeat(words), repeat(uses), self.path)
        if count * size * dim <= _SMALL:  # all at once: some operations on a few numbers cost what one number costs
            yield from stream(start, dim).reshape(count, size, *event)
            return
        for i, own in zip(levels, start.split(size)):
            yield None if not spread[i].any() else stream(own, dim).reshape(size, *event)

    def _side(self, v: Array) -> Tensor:
        """Beside the samples, where they are."""
        return torch.from_numpy(v).to(self.sample.device)

    def _between(self, low: Tensor, high: Tensor, ratio: Array, spread: Array, z: Tensor | None) -> Tensor:
        """The bridge between two values, at ``ratio`` of the way in V, with standard deviation ``spread``."""
        if len(ratio) == 1:
            value = torch.lerp(low, high, float(ratio[0]))
            return value if z is None else value.add_(z, alpha=float(spread[0]))
        event = tuple(low.shape[1:])
        value = torch.lerp(low, high, _column(self._side(ratio), event, low))
        return value if z is None else value + _column(self._side(spread), event, low) * z


class _Step(Noise):
    """The noise of one interval of a path: ``normal`` is the path's increment divided by its standard deviation."""

    def __init__(self, path: BrownianPath, spots: list[Spot], brownian_time: BrownianTime) -> None:
        self.__dict__.update(seed=path.seed, sample=path.sample, draw=path.draw)
        self.__dict__["interval"] = (path, spots, brownian_time)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        path, spots, brownian_time = self.__dict__["interval"]
        (t, _), (s, _) = spots
        first, second = brownian_time(torch.from_numpy(np.stack((t, s)))).cpu().numpy()
        spread = np.sqrt(abs(second - first))
        regular = np.isfinite(spread) & (spread > 0)
        if not regular.any():
            # An increment over an infinite stretch of V, once divided, is independent of everything else; one over
            # no stretch is multiplied by 0.
            return Noise(self.seed, self.sample, self.draw).normal(shape)
        if regular.all():
            start, end = path._at(shape, spots, brownian_time)
            moved = end - start
            return moved.div_(float(spread) if t.ndim == 0 else _column(path._side(spread), shape, moved))
        spots = [spots[0], path._spot(np.where(regular, s, t))]
        start, end = path._at(shape, spots, lambda u: brownian_time(u).nan_to_num(posinf=1e300, neginf=-1e300))
        scaled = (end - start) / _column(path._side(np.where(regular, spread, 1.0)), shape, start)
        own = Noise(self.seed, self.sample, self.draw).normal(shape)
        return torch.where(_column(path._side(regular), shape, start), scaled, own)


def _array(t: Tensor | float) -> Array:
    """Times in float64, beside the coefficients: on the CPU."""
    return t.detach().to("cpu", torch.float64).numpy() if isinstance(t, Tensor) else np.array(float(t))


def _key(words: str) -> int:
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little")


def _padded(count: int) -> int:
    """The power of two that holds this many intervals; those beyond the last have no length."""
    return 1 << (count - 1).bit_length()


def _first_level(place: Array, depth: int) -> int:
    """The level at which one place becomes an end of its cell, ``depth`` if it never does."""
    whole = int(place[0])
    if place[0] != whole:
        return depth
    return depth - ((whole & -whole).bit_length() - 1) if whole else 0


def _bridge(left: Array, middle: Array, right: Array) -> tuple[Array, Array]:
    """Weight of the right end, and standard deviation, of a bridge in Brownian time; an infinite end holds nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        before, after = abs(middle - left), abs(right - middle)
        whole = before + after
        ratio = np.where(whole > 0, before / whole, 0.5)
        variance = np.where(whole > 0, ratio * after, 0.0)
        open_left, open_right = np.isinf(before), np.isinf(after)
        ratio = np.where(open_left, 1.0, np.where(open_right, 0.0, ratio))
        variance = np.where(open_left, after, np.where(open_right, before, variance))
        return ratio, np.sqrt(np.where((open_left & open_right) | np.isnan(variance), 0.0, variance))


def _descend(low: Tensor, middle: Tensor, high: Tensor, bit: Array) -> tuple[Tensor, Tensor]:
    """The ends of the half with that bit."""
    if len(bit) == 1:
        return (middle, high) if bit[0] else (low, middle)
    right = _column(torch.from_numpy(bit == 1), tuple(low.shape[1:]), low)
    return torch.where(right, middle, low), torch.where(right, high, middle)


def as_path(noise: Noise, depth: int) -> BrownianPath:
    """The noise itself if it is a path, else a path of its seed and draw: for those who ask again and again."""
    if isinstance(noise, BrownianPath):
        return noise
    return BrownianPath(noise.fold_in(Stream.PATH).seed, noise.sample, noise.draw, depth=depth)
