"""Adaptive integration of dx/dv = f(x, v): every sample takes the steps that its own error asks for.

A result depends on no other sample of the batch: step sizes, rejections and the end are a sample's own, carried as
times ``(B,)``; a round asks the field once a stage about those still on their way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from .._errors import UserError, check_integer


class ByRows(Protocol):
    """What is asked about a batch, and can be asked about some of its samples."""

    def rows(self, index: Tensor, /) -> Any:
        """The same for these samples alone."""


F = TypeVar("F", bound=ByRows)


class Attempt(NamedTuple):
    """A step tried by n samples.

    Attributes:
        x: where it leads, ``(n, *state)``.
        error: ``(n,)`` in units of the tolerance; up to 1 it is accepted.
        last: what was learned at the end, to start the next step from; None if nothing was.
        kept: what the error is measured against in the next step, ``(n, *state)``.
    """

    x: Tensor
    error: Tensor
    last: Tensor | None
    kept: Tensor


@dataclass(frozen=True)
class AdaptiveMethod(ABC, Generic[F]):
    """From one time to another by as many steps as the tolerance asks for, each sample by its own.

    A method gives the variable in which it steps, what it learns of the field F at a state, a try and the rule for the
    next size.

    Args:
        rtol, atol: tolerances of a step, > 0.
        max_steps: tries of a sample, ≥ 1. A sample that needs more is an error that says where it stood; nothing is
            returned half-done.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UserError(f"{name} must be a finite number > 0, got {value}")
        check_integer("max_steps", self.max_steps, 1)

    @abstractmethod
    def variable(self, field: F, t: Tensor) -> Tensor:
        """The variable in which step sizes are meant; infinite where the method has no step."""

    @abstractmethod
    def time(self, field: F, value: Tensor) -> Tensor:
        """The inverse of ``variable``."""

    @abstractmethod
    def learn(self, field: F, x: Tensor, t: Tensor) -> Tensor:
        """One evaluation at ``(B, *state)``, ``(B,)``: what a step starts from."""

    @abstractmethod
    def size(self, field: F, x: Tensor, t: Tensor, s: Tensor, first: Tensor) -> Tensor:
        """The first step to try, > 0 in units of the variable, ``(B,)``."""

    @abstractmethod
    def attempt(self, field: F, x: Tensor, t: Tensor, u: Tensor, first: Tensor, kept: Tensor) -> Attempt:
        """A step from t to u."""

    @abstractmethod
    def factor(self, error: Tensor, again: Tensor) -> Tensor:
        """The next size over this one; ``again`` where the step before this try was rejected."""

    def cross(self, field: F, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """States ``(B, *state)`` at t ``(B,)``, carried to s ``(B,)``."""
        now, goal = self.variable(field, t), self.variable(field, s)
        way = torch.sign(goal - now)
        active = way.nonzero()[:, 0]
        x, t, now, kept = x.clone(), t.clone(), now.clone(), x.clone()
        part = _Part(field, len(x))
        first = torch.zeros_like(x)
        first[active] = self.learn(part(active), x[active], t[active])
        size, again = torch.zeros_like(now), torch.zeros_like(now, dtype=torch.bool)
        size[active] = self.size(part(active), x[active], t[active], s[active], first[active])
        for _ in range(self.max_steps):
            span = (goal - now)[active].abs()
            last = size[active] >= span
            length = torch.where(last, span, size[active])
            ahead = torch.where(last, goal[active], now[active] + way[active] * length)
            u = torch.where(last, s[active], self.time(field, ahead))
            if bool((u == t[active]).any()):
                self._stop(t[active], torch.full_like(u, torch.inf), u == t[active], "with no smaller step left")
            f = part(active)
            x_a, t_a = x[active], t[active]
            tried = self.attempt(f, x_a, t_a, u, first[active], kept[active])
            if not bool(tried.error.isfinite().all()):
                self._stop(t_a, tried.error, ~tried.error.isfinite(), "with an error that is not finite")
            accepted = tried.error <= 1
            taken = active[accepted]
            size[active] = length * self.factor(tried.error, again[active])
            again[active] = ~accepted
            x[taken], kept[taken] = tried.x[accepted], tried.kept[accepted]
            t[taken], now[taken] = u[accepted], ahead[accepted]
            going = active[~(accepted & last)]
            fresh = taken[(now != goal)[taken]]
            if len(fresh):
                more = (
                    self.learn(part(fresh), x[fresh], t[fresh]) if tried.last is None else tried.last[accepted & ~last]
                )
                first[fresh] = more
            if not len(going):
                return x
            error = torch.zeros_like(now)
            error[active] = tried.error
            active = going
        return self._stop(t[active], error[active], torch.ones_like(active, dtype=torch.bool), "at its step limit")

    def _stop(self, t: Tensor, error: Tensor, where: Tensor, why: str) -> Tensor:
        i = int(where.nonzero()[0])
        raise UserError(
            f"{type(self).__name__} stopped {why} at t = {float(t[i]):.6g}, where its error is {float(error[i]):.3g} "
            f"times the tolerance ({int(where.sum())} sample(s) not done); raise max_steps (now {self.max_steps}) or "
            f"loosen rtol, atol (now {self.rtol:g}, {self.atol:g})"
        )


class _Part(Generic[F]):
    """The field for some of the samples; for all of them it is the field itself."""

    def __init__(self, field: F, count: int) -> None:
        self.field, self.count = field, count

    def __call__(self, index: Tensor) -> F:
        found: F = self.field if len(index) == self.count else self.field.rows(index)
        return found


def rms(x: Tensor) -> Tensor:
    """The root mean square over a sample, ``(B,)``."""
    return x.flatten(1).square().mean(1).sqrt()


class _Table(NamedTuple):
    """An embedded explicit Runge–Kutta pair: stages c, rows a, weights b, error weights; q the estimate's order."""

    c: list[float]
    a: list[list[float]]
    b: list[float]
    errors: list[list[float]]
    q: int


@lru_cache
def _table(name: str) -> _Table:
    from scipy.integrate import DOP853, RK45

    pair = {"rk45": RK45, "dop853": DOP853}[name]
    errors = [pair.E] if name == "rk45" else [pair.E5, pair.E3]
    a = [row[:i].tolist() for i, row in enumerate(pair.A[: len(pair.C)])]
    return _Table(pair.C.tolist(), a, pair.B.tolist(), [e.tolist() for e in errors], pair.error_estimator_order)


PAIRS = ("rk45", "dop853")
"""Names of embedded Runge–Kutta pairs."""


@dataclass(frozen=True)
class EmbeddedRungeKutta(AdaptiveMethod[F]):
    """An embedded Runge–Kutta pair, whose ``learn`` is the slope dx/dt.

    Coefficients, first step and control of the step are those of SciPy's ``solve_ivp`` (Hairer, Nørsett & Wanner,
    Solving Ordinary Differential Equations I, II.4), for each sample on its own; a sample's steps are those that SciPy
    would take for it alone.

    Args:
        pair: ``"rk45"`` (Dormand & Prince, 6 evaluations a try) or ``"dop853"`` (12 evaluations a try).
        rtol, atol: the error allowed a step is atol + rtol·max(|x_t|, |x_u|), in RMS over a sample.
    """

    pair: str = "rk45"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pair not in PAIRS:
            raise UserError(f"pair must be {' or '.join(map(repr, PAIRS))}, got {self.pair!r}")

    def variable(self, field: F, t: Tensor) -> Tensor:
        return t

    def time(self, field: F, value: Tensor) -> Tensor:
        return value

    def size(self, field: F, x: Tensor, t: Tensor, s: Tensor, first: Tensor) -> Tensor:
        scale = self.atol + x.abs() * self.rtol
        d0, d1 = rms(x / scale), rms(first / scale)
        small = (d0 < 1e-5) | (d1 < 1e-5)
        h0 = torch.where(small, 1e-6, 0.01 * d0 / d1.clamp_min(1e-300)).to(t)
        h0 = torch.minimum(h0, (s - t).abs())
        u = t + torch.sign(s - t) * h0
        change = self.learn(field, x + _column(u - t, x) * first, u) - first
        d2 = rms(change / scale).to(t) / h0
        most = torch.maximum(d1.to(t), d2)
        h1 = torch.where(most <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), (0.01 / most) ** (1 / (_table(self.pair).q + 1)))
        return torch.minimum(torch.minimum(100 * h0, h1), (s - t).abs())

    def attempt(self, field: F, x: Tensor, t: Tensor, u: Tensor, first: Tensor, kept: Tensor) -> Attempt:
        table, h = _table(self.pair), u - t
        step = _column(h, x)
        slopes = [first]
        for c, row in zip(table.c[1:], table.a[1:]):
            place = u if c == 1 else t + c * h
            slopes.append(self.learn(field, x + step * _sum(row, slopes), place))
        new = x + step * _sum(table.b, slopes)
        slopes.append(self.learn(field, new, u))
        scale = self.atol + torch.maximum(x.abs(), new.abs()) * self.rtol
        sizes = [rms(_sum(row, slopes) / scale).to(h) for row in table.errors]
        error = h.abs() * sizes[0]
        if len(sizes) == 2:  # DOP853 weighs its fifth-order estimate by a third-order one
            fifth, third = sizes[0] ** 2, sizes[1] ** 2
            both = fifth + 0.01 * third
            error = torch.where(both == 0, 0.0, h.abs() * fifth / both.clamp_min(1e-300).sqrt())
        return Attempt(new, error, slopes[-1], new)

    def factor(self, error: Tensor, again: Tensor) -> Tensor:
        wanted = 0.9 * error.clamp_min(1e-300) ** (-1 / (_table(self.pair).q + 1))
        most = torch.where(again, 1.0, 10.0)
        return torch.where(error < 1, torch.minimum(wanted, most), wanted.clamp_min(0.2))


def _column(h: Tensor, x: Tensor) -> Tensor:
    """A number a sample, to multiply states by: ``(B, 1, …)`` of their dtype."""
    return h.to(x).reshape(-1, *[1] * (x.ndim - 1))


def _sum(row: list[float], slopes: list[Tensor]) -> Tensor:
    total = torch.zeros_like(slopes[0])
    for c, slope in zip(row, slopes):
        if c:
            total = total.add_(slope, alpha=c)
    return total
