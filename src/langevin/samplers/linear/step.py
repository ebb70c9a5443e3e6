r"""Linear steps: :math:`x_s = c\,x_t + \sum_j w_j f_j + std\,z` with :math:`f = a\,x_t + b\,E[x_0 | x_t]`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...denoisers import Denoiser
from ...distributions import Distribution, Noise
from ...processes import expand
from ..loop import OnGrid, P, State, check_shared_time

Scalar = float | Tensor
"""A coefficient: a number, or one a sample shaped to multiply the state."""


@dataclass(frozen=True)
class Correction:
    r"""How the arrival at t is corrected once f is known there: :math:`x_t = c\,x_r + \sum_j w_j f_j`.

    Attributes:
        scale: c.
        weights: w_j, the newest value first.
        back: how many steps ago the state x_r was.
        again: whether the belief is asked a second time, at the corrected state.
    """

    scale: float
    weights: tuple[float, ...]
    back: int = 1
    again: bool = False


@dataclass(frozen=True)
class StepCoefficients:
    r"""One step: :math:`x_s = c\,x_t + \sum_j w_j f_j + std\,z`, :math:`f = a\,x_t + b\,E[x_0 | x_t]`.

    Attributes:
        scale: c.
        weights: w_j, of f at t and then of earlier values, newest first.
        std: of the noise added; 0 for none.
        read: (a, b); None for E[x_0 | x_t] itself.
        correct: of the arrival at t; None for none.
    """

    scale: Scalar
    weights: tuple[Scalar, ...]
    std: Scalar = 0.0
    read: tuple[Scalar, Scalar] | None = None
    correct: Correction | None = None


def combine(scale: Scalar, x: Tensor, weights: Sequence[Scalar], values: Sequence[Tensor]) -> Tensor:
    """scale·x + Σ_j weights_j values_j."""
    total = x * scale
    for weight, value in zip(weights, values):
        if isinstance(weight, float):
            total = torch.add(total, value, alpha=weight)
        else:
            total = torch.addcmul(total, value, weight)
    return total


def value_of(c: StepCoefficients, x: Tensor, belief: Distribution) -> Tensor:
    """f = a·x + b·E[x_0 | x_t]."""
    return belief.mean if c.read is None else combine(c.read[1], belief.mean, c.read[:1], (x,))


class Memory(NamedTuple):
    """The history of a linear sampler, newest first.

    Attributes:
        times: at which f is known.
        values: f there.
        states: from which the last steps started.
        arrived: the state the last step returned. What another sampler moved it since is kept by a correction.
    """

    times: tuple[float, ...] = ()
    values: tuple[Tensor, ...] = ()
    states: tuple[Tensor, ...] = ()
    arrived: Tensor | float = 0.0


class Linear(OnGrid[P]):
    """A sampler whose step is linear in the state and in what the belief said: it says only the coefficients.

    Coefficients are float64 and depend on times alone: ``coefficients(process, times, s)`` are those of the step to s
    from times[0], with earlier values at times[1:].
    """

    @property
    def history(self) -> int:
        """How many earlier values are remembered."""
        return 0

    @property
    def kept(self) -> int:
        """How many earlier states a correction may start from."""
        return 0

    @abstractmethod
    def coefficients(self, process: P, times: tuple[float, ...], s: float) -> StepCoefficients:
        """The step to s from times[0], with earlier values at times[1:]."""

    def brownian_time(self, process: P) -> Callable[[Tensor], Tensor]:
        """V of the Brownian motion whose increments, scaled, are the noise of the steps."""
        return lambda t: t

    def left(self, steps: int) -> Linear:
        """The sampler to take when ``steps`` steps are left, this one included."""
        return self

    def tabulate(self, process: P, grid: tuple[float, ...]) -> Mapping[tuple[Any, ...], StepCoefficients]:
        table = {}
        for i, s in enumerate(grid[1:]):
            times = grid[max(0, i - self.history) : i + 1][::-1]
            table[times, s] = self.left(len(grid) - 1 - i).coefficients(process, times, s)
        return table

    def step(self, state: State, s: Tensor, denoiser: Denoiser[P], noise: Noise) -> State:
        x, memory = state.x, state.memory or Memory()
        times: tuple[float, ...] = ()
        values: tuple[Tensor, ...] = ()
        if state.t.ndim or s.ndim:
            c = self._each(denoiser.process, state.t, s, x)
        else:
            now = float(state.t)
            past, values = earlier(memory.times, memory.values, now)
            times = (now, *past)
            c = self.looked_up(denoiser.process, times, float(s))
        belief = denoiser(x, state.t)
        f = value_of(c, x, belief)
        if c.correct is not None and len(memory.states) >= c.correct.back:
            corrected = combine(c.correct.scale, memory.states[c.correct.back - 1], c.correct.weights, (f, *values))
            x = corrected + (x - memory.arrived)
            if c.correct.again:
                belief = denoiser(x, state.t)
                f = value_of(c, x, belief)
        moved = combine(c.scale, x, c.weights, (f, *values))
        if not (isinstance(c.std, float) and c.std == 0):
            path = noise.along_path(state.t, s, self.brownian_time(denoiser.process))
            moved = moved + c.std * path.normal(tuple(x.shape[1:])).to(moved)
        if self.history:
            values, states = (f, *values)[: self.history], (x, *memory.states)[: self.kept]
            return State(moved, s, Memory(times[: self.history], values, states, moved), belief)
        return State(moved, s, None, belief)

    def _each(self, process: P, t: Tensor, s: Tensor, x: Tensor) -> StepCoefficients:
        """The steps of samples at times of their own, as one with ``(B,)`` coefficients."""
        if self.history:
            check_shared_time(t, s, type(self).__name__)
        pairs = zip(t.expand(len(x)).tolist(), s.expand(len(x)).tolist())
        rows = [self.coefficients(process, (one,), other) for one, other in pairs]

        def column(values: Sequence[Scalar]) -> Tensor:
            return expand(torch.tensor(values, dtype=torch.float64), x)

        # A step that stands still has no weights.
        weights = column([c.weights[0] if c.weights else 0.0 for c in rows])
        read = None
        if any(c.read is not None for c in rows):
            a, b = zip(*(c.read or (0.0, 1.0) for c in rows))
            read = column(a), column(b)
        return StepCoefficients(column([c.scale for c in rows]), (weights,), column([c.std for c in rows]), read)


def earlier(
    times: tuple[float, ...], values: tuple[Tensor, ...], now: float
) -> tuple[tuple[float, ...], tuple[Tensor, ...]]:
    """Earlier times and values; those of a step that stood still are the same node, and count once."""
    return (times[1:], values[1:]) if times and times[0] == now else (times, values)
