"""Noise by interval: Brownian paths that are the same whatever the grid that walks them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from .noise import Noise, _column, box_muller

_NODE, _POINT = 2, 3
"""The last counter word: a node of the tree, or a point in a cell of its last level (then plus where in the cell)."""

_SMALL = 2**15
"""Numbers of a level up to which those of several levels are made together."""

Clock = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class _Memo:
    """The last way down the tree, kept so that a next point nearby starts from the ancestors it shares.

    Attributes:
        event: shape of an event.
        keys: for each level the cell's index and the clock at its left end, middle and right end, ``(4, depth + 1, P)``
            for P times; in the last row the point stands for the middle.
        ends: the path at both ends of [0, 1].
        middles: the path in the middle of the cell of each level.
        value: the path at the point.
        parts: memos of the folds.
    """

    event: tuple[int, ...] | None = None
    keys: Tensor | None = None
    ends: tuple[Tensor, Tensor] | None = None
    middles: list[Tensor] = field(default_factory=list)
    value: Tensor | None = None
    parts: dict[int, _Memo] = field(default_factory=dict)


@register(
    "distributions",
    "brownian-path",
    title="Brownian paths by interval",
    proof="exact: tests/distributions/test_path.py",
)
@dataclass(frozen=True, eq=False)
class BrownianPath(Noise):
    r"""Noise in which each sample has one Brownian path, and a step from t to s gets the path's increment.

    A grid that is refined walks the same path, so the outcome of an SDE sampler settles as its steps grow, and strong
    errors can be measured. The path is a function of (seed, sample, position) alone, whatever the batch or the order
    of questions; numbers asked for otherwise (``normal``, ``uniform``) are those of ``Noise``.

    The path is Lévy's construction over t ∈ [0, 1]. A cell with ends a < b has its middle m drawn from the bridge, in
    the clock V that is asked for, with a normal keyed by (sample, cell):

    .. math:: W_m = W_a + \frac{V_m - V_a}{V_b - V_a} (W_b - W_a)
                  + \sqrt{\frac{(V_m - V_a)(V_b - V_m)}{V_b - V_a}}\; z_{ab}

    ``depth`` levels down, the point itself is drawn in the same way with a normal keyed by it. So the law is exact for
    any times of which no two share a cell of the last level, and two that do are refused. W is 0 at the end where
    \|V\| is smallest; a clock may be infinite at the other end. Cells halve in the rank of t: in
    logit(rank) = ¼ logit(t), which leaves no usual grid crowded at either end, or in the position among given knots.
    A path belongs to its clock: other clocks get other paths with the same fine structure.

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
        if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= 30:
            raise UserError(f"depth must be an integer in [1, 30], got {depth!r}")
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

    def fold(self, tag: int) -> BrownianPath:
        """Part ``tag``: an independent path, the same at every draw, and independent numbers of this draw."""
        memo = self.memo.parts.setdefault(tag, _Memo())
        return replace(self, seed=super().fold(tag).seed, path=_key(f"{self.path} {tag}"), memo=memo)

    def rows(self, index: slice | Tensor) -> BrownianPath:
        return replace(self, sample=self.sample[index], memo=_Memo())

    def to(self, device: torch.device | str) -> BrownianPath:
        moved = self.sample.to(device)
        return self if moved.device == self.sample.device else replace(self, sample=moved, memo=_Memo())

    def value(self, event: tuple[int, ...], t: Tensor | float, clock: Clock) -> Tensor:
        """W(V(t)) itself, float64 ``(B, *event)``: its differences are the increments."""
        return self._at(event, torch.as_tensor(t, dtype=torch.float64), clock).clone()  # the memo keeps its own

    def floor(self, t: Tensor) -> Tensor:
        """The nearest end of a last cell at or below t, ``()`` or ``(B,)``: a time of the tree itself.

        Times that are found on the way had better stand there: they do not change with the rounding of what found them.
        """
        return self._time(self._place(t).floor() / 2**self.depth)

    def increment(self, event: tuple[int, ...], t: Tensor | float, s: Tensor | float, clock: Clock) -> Tensor:
        t, s = self._apart(t, s)
        start, end = self._at(event, t, clock), self._at(event, s, clock)
        return end - start

    def over(self, t: Tensor | float, s: Tensor | float, clock: Clock) -> Noise:
        t, s = self._apart(t, s)
        step = _Step(self.seed, self.sample, self.draw)
        object.__setattr__(step, "interval", (self, t, s, clock))
        return step

    def _apart(self, t: Tensor | float, s: Tensor | float) -> tuple[Tensor, Tensor]:
        """Both times as float64 ``()`` or ``(B,)``; two that share a last cell are refused (where looking is free)."""
        t, s = torch.as_tensor(t, dtype=torch.float64), torch.as_tensor(s, dtype=torch.float64)
        if t.ndim or s.ndim:
            t, s = (
                t.expand(torch.broadcast_shapes(t.shape, s.shape)),
                s.expand(torch.broadcast_shapes(t.shape, s.shape)),
            )
        if t.device.type == s.device.type == "cpu":
            cells = 2**self.depth
            first, second = self._place(t), self._place(s)
            inside = (first.floor() == second.floor()) & (first != first.floor()) & (second != second.floor())
            shared = (inside & (t != s)).reshape(-1).nonzero()
            if shared.numel():
                i = int(shared[0])
                raise UserError(
                    f"depth must be more than {self.depth} for this grid: t = {float(t.reshape(-1)[i]):.6g} and "
                    f"s = {float(s.reshape(-1)[i]):.6g} share one of the path's {cells} cells"
                )
        return t, s

    def _rank(self, t: Tensor) -> Tensor:
        """The position of t in [0, 1] in which cells halve."""
        if self.knots is None:
            a, b = t**0.25, (1 - t) ** 0.25
            return a / (a + b)
        knots = self.knots.to(t.device)
        count = knots.numel() - 1
        if t.device.type == "cpu" and bool(((t < knots[0]) | (t > knots[-1])).any()):
            raise UserError(f"times must lie within the knots [{knots[0]:g}, {knots[-1]:g}], got {t.tolist()}")
        i = torch.searchsorted(knots, t.contiguous(), right=True).sub_(1).clamp_(0, count - 1)
        share = (t - knots[i]) / (knots[i + 1] - knots[i])
        return (i + share) / _padded(count)

    def _time(self, rank: Tensor) -> Tensor:
        """The inverse of ``_rank``; beyond the last knot it is the last knot."""
        if self.knots is None:
            a, b = rank**4, (1 - rank) ** 4
            return a / (a + b)
        knots = self.knots.to(rank.device)
        count = knots.numel() - 1
        place = (rank * _padded(count)).clamp_max(count)
        i = place.floor().long().clamp_(0, count - 1)
        return knots[i] + (place - i) * (knots[i + 1] - knots[i])

    def _at(self, event: tuple[int, ...], t: Tensor, clock: Clock) -> Tensor:
        """W at times ``()`` or ``(B,)``, in the clock."""
        depth, memo = self.depth, self.memo
        place = self._place(t).reshape(-1)  # (P,): one time for all samples, or one each
        leaf = place.floor().long().clamp_max(2**depth - 1)
        stop = _first_level(place, depth) if t.ndim == 0 else depth
        level = torch.arange(depth + 1, device=t.device)[:, None]
        index = leaf >> (depth - level)
        size = torch.exp2(-level.to(torch.float64))
        middle = (index + 0.5) * size
        middle[-1] = place / 2**depth
        v = clock(self._time(torch.stack((index * size, middle, (index + 1) * size))))
        keys = torch.cat((index.to(v)[None], v))
        known = 0
        if memo.keys is not None and memo.event == event and memo.keys.shape == keys.shape:
            known = int((memo.keys.to(keys) == keys).all(2).all(0).long().cumprod(0).sum())
        if known > depth == stop and memo.value is not None:
            return memo.value
        ends = memo.ends if known and memo.ends is not None else self._ends(event, float(v[0, 0, 0]), float(v[2, 0, 0]))
        middles = memo.middles[:known]
        ratio, spread = _bridge(*v)
        words, uses = 2**level + index, torch.full_like(index, _NODE)
        words[-1], uses[-1] = leaf, _POINT + ((place - leaf) * 2**31).long()
        numbers = self._numbers(event, words, uses, range(len(middles), stop + (stop == depth)), spread)
        low, high = ends
        for i in range(stop):
            if i == len(middles):
                middles.append(self._between(low, high, ratio[i], spread[i], next(numbers)))
            low, high = _descend(low, middles[i], high, index[i + 1] & 1)
        if stop == depth:
            value = self._between(low, high, ratio[-1], spread[-1], next(numbers))
        else:
            value = high if int(place) == 2**depth else low
        memo.event, memo.keys, memo.ends, memo.middles, memo.value = event, keys, ends, middles, value
        return value

    def _place(self, t: Tensor) -> Tensor:
        """The rank in units of cells of the last level; a time that rounding put beside an end is that end."""
        place = self._rank(t) * 2**self.depth
        whole = place.round()
        return torch.where((place - whole).abs() < 2**-30, whole, place)

    def _ends(self, event: tuple[int, ...], first: float, last: float) -> tuple[Tensor, Tensor]:
        r"""W(0) and W(1): 0 where \|V\| is smaller; what stands for an infinite end is not used."""
        start = torch.zeros(len(self), *event, dtype=torch.float64, device=self.sample.device)
        if math.isinf(first) or math.isinf(last):
            return start, start
        end = math.sqrt(abs(last - first)) * self._normal(event, 0, _NODE)
        return (start, end) if abs(first) <= abs(last) else (end, start)

    def _numbers(
        self, event: tuple[int, ...], words: Tensor, uses: Tensor, levels: range, spread: Tensor
    ) -> Iterator[Tensor | None]:
        """The normals of these levels, one after the other; None where they would be multiplied by 0."""
        if len(self) * math.prod(event) > _SMALL:
            for i in levels:
                idle = spread.shape[1] == 1 and float(spread[i]) == 0
                yield None if idle else self._normal(event, words[i], uses[i])
        elif levels:  # small events: one pass of the generator for all levels, whose cost is that of its calls
            count, size = len(levels), len(self)
            repeat = lambda v: v[levels.start : levels.stop].expand(count, size).reshape(-1)
            z = box_muller(self.sample.repeat(count), math.prod(event), repeat(words), repeat(uses), self.path)
            yield from z.reshape(count, size, *event)

    def _normal(self, event: tuple[int, ...], word: int | Tensor, use: int | Tensor) -> Tensor:
        return box_muller(self.sample, math.prod(event), word, use, self.path).reshape(len(self), *event)

    def _between(self, low: Tensor, high: Tensor, ratio: Tensor, spread: Tensor, z: Tensor | None) -> Tensor:
        """The bridge between two values, at ``ratio`` of the way in the clock, with standard deviation ``spread``."""
        if ratio.shape == (1,):
            value = torch.lerp(low, high, float(ratio))
            return value if z is None else value.add_(z, alpha=float(spread))
        assert z is not None
        event = tuple(low.shape[1:])
        r, d = _column(ratio, event, self.sample), _column(spread, event, self.sample)
        return torch.lerp(low, high, r) + d * z


class _Step(Noise):
    """The noise of one interval of a path: ``normal`` is the path's increment divided by its standard deviation."""

    interval: tuple[BrownianPath, Tensor, Tensor, Clock]

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        path, t, s, clock = self.interval
        spread = torch.sqrt((clock(s) - clock(t)).abs())
        regular = spread.isfinite() & (spread > 0)
        if bool(regular.all()):
            return path.increment(shape, t, s, clock).div_(_column(spread, shape, self.sample))
        # An increment over an infinite stretch of the clock, once divided, is independent of everything else; one
        # over no stretch is multiplied by 0.
        own = Noise(self.seed, self.sample, self.draw).normal(shape)
        if not bool(regular.any()):
            return own
        still = torch.where(regular, s, t)
        moved = path.increment(shape, t, still, lambda u: clock(u).nan_to_num(posinf=1e300, neginf=-1e300))
        scaled = moved / _column(torch.where(regular, spread, 1.0), shape, self.sample)
        return torch.where(_column(regular, shape, self.sample), scaled, own)


def _key(words: str) -> int:
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little")


def _padded(count: int) -> int:
    """The power of two that holds so many intervals; those beyond the last have no length."""
    return 1 << (count - 1).bit_length()


def _first_level(place: Tensor, depth: int) -> int:
    """The level at which one place becomes an end of its cell, ``depth`` if it never does."""
    whole = int(place)
    if float(place) != whole:
        return depth
    return depth - ((whole & -whole).bit_length() - 1) if whole else 0


def _bridge(left: Tensor, middle: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Weight of the right end, and standard deviation, of a bridge in the clock; an infinite end holds nothing."""
    before, after = (middle - left).abs(), (right - middle).abs()
    whole = before + after
    ratio = torch.where(whole > 0, before / whole, 0.5)
    variance = torch.where(whole > 0, ratio * after, 0.0)
    open_left, open_right = before.isinf(), after.isinf()
    ratio = torch.where(open_left, 1.0, torch.where(open_right, 0.0, ratio))
    variance = torch.where(open_left, after, torch.where(open_right, before, variance))
    both = open_left & open_right
    return ratio, torch.sqrt(torch.where(both | variance.isnan(), 0.0, variance))


def _descend(low: Tensor, middle: Tensor, high: Tensor, bit: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of the half with that bit."""
    if bit.shape == (1,):
        return (middle, high) if int(bit) else (low, middle)
    right = _column(bit.bool(), tuple(low.shape[1:]), low)
    return torch.where(right, middle, low), torch.where(right, high, middle)


def as_path(noise: Noise, depth: int) -> BrownianPath:
    """The noise itself if it is a path, else a path of its seed and draw: for those who ask again and again."""
    if isinstance(noise, BrownianPath):
        return noise
    return BrownianPath(noise.fold(0).seed, noise.sample, noise.draw, depth=depth)
