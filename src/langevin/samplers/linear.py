"""Steps that are linear in the state and in what the network said: coefficients first, then a few operations a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..denoisers import Denoiser
from ..distributions import Noise
from ..processes import Process, ScalarGaussian, expand
from .loop import Sampler, State

Scalar = float | Tensor
"""A coefficient: a number, or one a sample shaped to multiply the state."""


@dataclass(frozen=True)
class Rule:
    """y = scale·x + Σ_j weights_j f_j, with f_0 the newest value."""

    scale: Scalar
    weights: tuple[Scalar, ...]

    def __call__(self, x: Tensor, values: Sequence[Tensor]) -> Tensor:
        y = x * self.scale
        for weight, value in zip(self.weights, values):
            # add_ in place: y is fresh, and a step's arithmetic is the traffic of these reads and writes
            y = y.add_(value, alpha=weight) if isinstance(weight, float) else y + weight * value
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


@dataclass(frozen=True)
class Memory:
    """The history of a linear sampler, newest first.

    Attributes:
        times: at which the values were asked: numbers, or ``(B,)`` tensors.
        values: what was read there.
        states: the states that the last steps started from, newest first.
        index: steps taken so far on a planned grid.
    """

    times: tuple[float | Tensor, ...]
    values: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    index: int


class Linear(Sampler):
    """A sampler whose step is a ``Row``: it says only the coefficients.

    On a grid known beforehand they are computed once (``plan``); anywhere else, step by step.
    """

    @property
    @abstractmethod
    def history(self) -> int:
        """How many earlier values a step may use."""

    @property
    def kept(self) -> int:
        """How many earlier states a correction may start from."""
        return 0

    @abstractmethod
    def row(self, process: Process, times: tuple[float, ...], s: float) -> Row:
        """The coefficients of the step to s from times[0], with earlier values at times[1:]."""

    def clock(self, process: ScalarGaussian, t: Tensor) -> Tensor:
        """The clock at which the noise of a step is a Brownian motion's, up to a factor: α²/σ², the bridge's."""
        return torch.exp(process.log_snr(t))

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
        batch: list[float | Tensor] = [state.t, *times]
        if all(not isinstance(t, Tensor) or t.ndim == 0 for t in (*batch, s)):
            row = self.row(denoiser.process, tuple(float(t) for t in batch), float(s))
        else:
            row = _stack(self, denoiser.process, batch, s, state.x)
        return _take(self, row, state, s, denoiser, noise, (times, values), -1)


def _past(state: State, history: int) -> tuple[tuple[float | Tensor, ...], tuple[Tensor, ...]]:
    """Earlier times and values; those of a step that stood still are the same node, and count once."""
    memory: Memory | None = state.memory
    if memory is None or history == 0:
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


def _read(row: Row, x: Tensor, mean: Tensor) -> Tensor:
    if row.read is None:
        return mean
    a, b = row.read
    return torch.add(x * a, mean, alpha=b) if isinstance(b, float) else x * a + mean * b


def _take(
    sampler: Linear,
    row: Row,
    state: State,
    s: Tensor,
    denoiser: Denoiser,
    noise: Noise,
    past: tuple[tuple[float | Tensor, ...], tuple[Tensor, ...]],
    index: int,
) -> State:
    x, (times, values) = state.x, past
    states: tuple[Tensor, ...] = () if state.memory is None else state.memory.states
    belief = denoiser(x, state.t)
    known = (_read(row, x, belief.mean), *values)
    if row.correct is not None:
        x = row.correct(states[row.back - 1], known)
        if row.again:
            belief = denoiser(x, state.t)
            known = (_read(row, x, belief.mean), *values)
    moved = row.step(x, known)
    if not (isinstance(row.std, float) and row.std == 0.0):
        process: ScalarGaussian = denoiser.process  # type: ignore[assignment]
        along = noise.over(state.t, s, lambda t: sampler.clock(process, t))
        moved = moved + row.std * along.normal(tuple(x.shape[1:])).to(moved)
    now: float | Tensor = float(state.t) if state.t.ndim == 0 else state.t
    history, kept = sampler.history, sampler.kept
    memory = Memory((now, *times)[:history], known[:history], (x, *states)[:kept], index + 1)
    return State(moved, s, memory, belief)


@dataclass(frozen=True, eq=False)
class Planned(Linear):
    """A linear sampler settled on a grid: ``rows[i]`` is the step from ``times[i]``. Off its grid it is the sampler."""

    sampler: Linear
    times: tuple[float, ...]
    rows: tuple[Row, ...]

    @property
    def history(self) -> int:
        return self.sampler.history

    @property
    def kept(self) -> int:
        return self.sampler.kept

    def row(self, process: Process, times: tuple[float, ...], s: float) -> Row:
        return self.sampler.row(process, times, s)

    def check(self, process: Process) -> None:
        self.sampler.check(process)

    def plan(self, process: Process, grid: Tensor) -> Sampler:
        return self.sampler.plan(process, grid)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        memory: Memory | None = state.memory
        i = 0 if memory is None else memory.index
        ours = 0 <= i < len(self.rows) and not (state.t.ndim or s.ndim)
        if not ours or float(state.t) != self.times[i] or float(s) != self.times[i + 1]:
            return self.sampler.step(state, s, denoiser, noise)
        times, values = ((), ()) if memory is None else (memory.times, memory.values)
        return _take(self.sampler, self.rows[i], state, s, denoiser, noise, (times, values), i)


@lru_cache(maxsize=64)
def _plan(sampler: Linear, process: Process, grid: tuple[float, ...]) -> Planned:
    steps, rows = len(grid) - 1, []
    for i in range(steps):
        past = grid[max(0, i - sampler.history) : i + 1][::-1]
        rows.append(sampler.left(steps - i).row(process, past, grid[i + 1]))
    return Planned(sampler, grid, tuple(rows))
