"""Steps that are linear in the state and in what the network said: coefficients first, then a few operations a step."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from ..denoisers import Denoiser
from ..distributions import Distribution, Noise, scaled
from ..processes import Process, expand
from .loop import Sampler, State

Scalar = float | Tensor
"""A coefficient: a number, or one a sample shaped to multiply the state."""


Value = tuple[tuple[float, Tensor], ...]
"""A value of f: the sum of numbers times tensors."""

ULP = 2.0**-51
"""How far from 1 the product of a number and its inverse may be."""


@dataclass(frozen=True)
class Rule:
    """y = scale·x + Σ_j weights_j f_j, with f_0 the newest value."""

    scale: Scalar
    weights: tuple[Scalar, ...]

    def __call__(self, x: Tensor, values: Sequence[Value]) -> Tensor:
        scale, first, rest = self.scale, None, []
        for weight, terms in zip(self.weights, values):
            for number, term in terms:
                factor = weight * number
                if term is x:
                    scale = scale + factor
                elif first is None and type(factor) is float and -ULP < factor - 1.0 < ULP:
                    first = term  # a value kept in the unit of this very step: one pass less
                else:
                    rest.append((factor, term))
        if type(scale) is not float:
            y = x * scale if first is None else x * scale + first
        else:
            y = scaled(x, scale) if first is None else torch.add(first, x, alpha=scale)
        for factor, term in rest:
            # add_ in place: y is fresh, and a step's arithmetic is the traffic of these reads and writes
            y = y.add_(term, alpha=factor) if type(factor) is float else y + factor * term
        return y


@dataclass(frozen=True)
class Row:
    """One step: what is read off the belief, how the arrival is corrected, how the step is taken.

    Attributes:
        read: (a, b) of f = a·x + b·x̂_0; None for x̂_0 itself.
        step: from x_t to the mean of x_s.
        std: of the noise added, 0 for none.
        correct: from an earlier state to x_t, now that f at t is known; None for none.
        back: how many steps ago that state was.
        again: whether the belief is asked a second time, at the corrected x_t.
    """

    read: tuple[Scalar, Scalar] | None
    step: Rule
    std: Scalar = 0.0
    correct: Rule | None = None
    back: int = 1
    again: bool = False

    @cached_property
    def alone(self) -> tuple[float, float] | None:
        """(a, b) of x_s = a·x_t + b·x̂_0, for a step on numbers that uses no history."""
        numbers = (self.step.scale, *self.step.weights, *(self.read or ()))
        if self.correct is not None or len(self.step.weights) > 1 or not all(isinstance(v, float) for v in numbers):
            return None
        scale, weight = float(self.step.scale), float(self.step.weights[0]) if self.step.weights else 0.0
        a, b = (0.0, 1.0) if self.read is None else (float(self.read[0]), float(self.read[1]))
        return scale + weight * a, weight * b

    @cached_property
    def unit(self) -> float:
        """What f is multiplied by where it is kept: its own weight, so that this step need not multiply it."""
        weights = self.step.weights
        if not weights or not _numbers(weights) or abs(weights[0]) < 1e-3 * max(map(abs, weights)):
            return 1.0
        return float(weights[0]) or 1.0

    @cached_property
    def noisy(self) -> bool:
        return not (isinstance(self.std, float) and self.std == 0.0)


class Memory(NamedTuple):
    """The history of a linear sampler, newest first.

    Attributes:
        times: at which the values were asked: numbers, or ``(B,)`` tensors.
        values: what was read there.
        states: the states that the last steps started from, newest first.
        arrived: the state the last step returned. What another sampler moved it since is kept by a correction.
        at: the time of that, the very tensor.
        done: steps taken so far on a planned grid.
    """

    times: tuple[float | Tensor, ...]
    values: tuple[Value, ...]
    states: tuple[Tensor, ...]
    arrived: Tensor
    at: Tensor
    done: int


class Linear(Sampler):
    """A sampler whose step is a ``Row``: it says only the coefficients.

    On a grid known beforehand they are computed once (``plan``); anywhere else, step by step.
    """

    @property
    def history(self) -> int:
        """How many earlier values a step may use."""
        return 0

    @property
    def kept(self) -> int:
        """How many earlier states a correction may start from."""
        return 0

    @property
    def spare(self) -> int:
        """How many values more than ``history`` are remembered, for steps that leave out some of them."""
        return 0

    @abstractmethod
    def row(self, process: Process, times: tuple[float, ...], s: float) -> Row:
        """The coefficients of the step to s from times[0], with earlier values at times[1:]."""

    def clock(self, process: Process) -> Callable[[Tensor], Tensor]:
        """V of the Brownian motion whose increments, scaled, are the noise of the steps."""
        return lambda t: t

    def left(self, steps: int) -> Linear:
        """The sampler to take when ``steps`` steps are left, this one included."""
        return self

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        try:
            return _plan(self, process, tuple(grid.tolist()))
        except TypeError:  # a process that cannot be hashed
            return _plan.__wrapped__(self, process, tuple(grid.tolist()))

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        times, values = _past(state, self.history)
        batch: list[float | Tensor] = [state.t if state.t.ndim else float(state.t), *times]
        if all(not isinstance(t, Tensor) or t.ndim == 0 for t in (*batch, s)):
            row = self.row(denoiser.process, tuple(float(t) for t in batch), float(s))
        else:
            row = _stack(self, denoiser.process, batch, s, state.x)
        return _take(self, row, state, batch[0], s, denoiser, noise, (times, values), -1)


def _past(state: State, history: int) -> tuple[tuple[float | Tensor, ...], tuple[Value, ...]]:
    """Earlier times and values; those of a step that stood still are the same node, and count once."""
    memory: Memory | None = state.memory
    if memory is None or history == 0 or not memory.times:
        return (), ()
    times, values = memory.times, memory.values
    t = state.t
    first = times[0]
    still = bool((t == first).any()) if isinstance(first, Tensor) or t.ndim else float(t) == first
    return (times[1:], values[1:]) if still else (times, values)


def _stack(sampler: Linear, process: Process, times: list[float | Tensor], s: Tensor, x: Tensor) -> Row:
    """Rows of samples that stand at times of their own, as one row of ``(B,)`` coefficients."""
    columns = [torch.as_tensor(t, dtype=torch.float64).expand(x.shape[0]).tolist() for t in (*times, s)]
    rows = [sampler.row(process, tuple(c[:-1]), c[-1]) for c in zip(*columns)]

    def column(values: list[Scalar]) -> Tensor:
        return expand(torch.tensor([float(v) for v in values], dtype=torch.float64), x)

    def rule(rules: list[Rule]) -> Rule:
        size = max(len(r.weights) for r in rules)
        padded = [(*r.weights, *[0.0] * (size - len(r.weights))) for r in rules]
        return Rule(column([r.scale for r in rules]), tuple(column(list(c)) for c in zip(*padded)))

    read = [(0.0, 1.0) if r.read is None else r.read for r in rows]
    correct = [r.correct for r in rows if r.correct is not None]
    first = rows[0]
    std = [r.std for r in rows]
    return Row(
        None if all(r.read is None for r in rows) else (column([a for a, _ in read]), column([b for _, b in read])),
        rule([r.step for r in rows]),
        column(std) if any(std) else 0.0,
        rule(correct) if len(correct) == len(rows) else None,
        first.back,
        first.again,
    )


def read(row: Row, x: Tensor, belief: Distribution, history: int) -> Value:
    """f; what is needed once more alone is left in parts, since adding them up costs as much as using them."""
    a, b = (0.0, 1.0) if row.read is None else row.read
    if not (isinstance(a, float) and isinstance(b, float)):
        return ((1.0, x * a + belief.mean * b),)
    return belief.terms(a, x, b, None if history < 2 else row.unit)


def _take(
    sampler: Linear,
    row: Row,
    state: State,
    now: float | Tensor,
    s: Tensor,
    denoiser: Denoiser,
    noise: Noise,
    past: tuple[tuple[float | Tensor, ...], tuple[Value, ...]],
    index: int,
) -> State:
    x, history, kept = state.x, sampler.history, sampler.kept
    belief = denoiser(x, state.t)
    known: tuple[Value, ...] = ()
    if row.alone is not None and not history:  # nothing to remember: the value itself is never formed
        moved = belief.blend(row.alone[0], x, row.alone[1])
    else:
        known = (read(row, x, belief, history), *past[1])
        if row.correct is not None and len(state.memory.states) >= row.back:
            corrected = row.correct(state.memory.states[row.back - 1], known)
            x = corrected if x is state.memory.arrived else corrected + (x - state.memory.arrived)
            if row.again:
                belief = denoiser(x, state.t)
                known = (read(row, x, belief, history), *past[1])
        moved = row.step(x, known)
    if row.noisy:
        path = noise.over(state.t, s, sampler.clock(denoiser.process))
        moved = moved + row.std * path.normal(tuple(x.shape[1:])).to(moved)
    states = () if not kept else (x,) if state.memory is None else (x, *state.memory.states)[:kept]
    many = history + sampler.spare if history else 0
    times = (now, *past[0])[:many] if many else ()
    return State(moved, s, Memory(times, known[:many], states, moved, s, index + 1), belief)


@dataclass(frozen=True, eq=False)
class Planned(Linear):
    """A linear sampler settled on a grid: ``rows[i]`` is the step from ``times[i]``. Off its grid it is the sampler.

    Attributes:
        values, states: earlier ones that the rows use, which may be other than the sampler itself would.
    """

    sampler: Linear
    times: tuple[float, ...]
    rows: tuple[Row, ...]
    values: int
    states: int

    @cached_property
    def history(self) -> int:
        return self.values

    @cached_property
    def kept(self) -> int:
        return self.states

    def row(self, process: Process, times: tuple[float, ...], s: float) -> Row:
        return self.sampler.row(process, times, s)

    def clock(self, process: Process) -> Callable[[Tensor], Tensor]:
        return self.sampler.clock(process)

    def check(self, process: Process) -> None:
        self.sampler.check(process)

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return self.sampler.plan(process, grid)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        memory: Memory | None = state.memory
        times, t = self.times, state.t
        i = 0 if memory is None else memory.done
        off = not 0 <= i < len(self.rows) or t.ndim or s.ndim or float(s) != times[i + 1]
        # The very tensor of the step before needs no second look: reading a number costs as much as adding two.
        if off or not ((memory is not None and t is memory.at) or float(t) == times[i]):
            return self.sampler.step(state, s, denoiser, noise)
        past = ((), ()) if memory is None else (memory.times, memory.values)
        return _take(self, self.rows[i], state, times[i], s, denoiser, noise, past, i)


@lru_cache(maxsize=64)
def _plan(sampler: Linear, process: Process, grid: tuple[float, ...]) -> Planned:
    steps, rows = len(grid) - 1, []
    for i in range(steps):
        past = grid[max(0, i - sampler.history - sampler.spare) : i + 1][::-1]
        rows.append(sampler.left(steps - i).row(process, past, grid[i + 1]))
    joined = _joined(rows)
    if joined is None:
        rules = [rule for row in rows for rule in (row.step, row.correct) if rule is not None]
        values = max(sampler.history, *(len(rule.weights) - 1 for rule in rules))
        states = max(sampler.kept, *(row.back for row in rows if row.correct is not None), 0)
        return Planned(sampler, grid, tuple(rows), values, states)
    return Planned(sampler, grid, joined, max(len(row.step.weights) for row in joined) - 1, 0)


def _joined(rows: list[Row]) -> tuple[Row, ...] | None:
    r"""The same steps without corrections, if each goes back one step: None otherwise, or if there is none.

    A predictor takes :math:`y_t = a x_r + \sum_j w_j f_{j+1}` from the corrected state at r; with f_0 known the
    corrector has :math:`x_t = a x_r + \sum_j v_j f_j = y_t + \sum_j (v_j - w_{j-1}) f_j`. So x_t need not be formed:
    the step from it is one from y_t with other weights, and no state is kept.
    """
    if not any(row.correct for row in rows):
        return None
    found = rows[:1]
    for before, row in itertools.pairwise(rows):
        correct, scale = row.correct, row.step.scale
        if correct is None:
            found.append(row)
            continue
        numbers = (scale, *correct.weights, *before.step.weights, *row.step.weights)
        if row.back != 1 or row.again or correct.scale != before.step.scale or not _numbers(numbers):
            return None
        after = (0.0, *before.step.weights)
        parts = itertools.zip_longest(row.step.weights, correct.weights, after, fillvalue=0.0)
        found.append(replace(row, step=Rule(scale, tuple(u + scale * (v - w) for u, v, w in parts)), correct=None))
    return tuple(found) if rows[0].correct is None else None


def _numbers(values: tuple[Scalar, ...]) -> TypeGuard[tuple[float, ...]]:
    return all(isinstance(v, float) for v in values)
