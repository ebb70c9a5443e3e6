"""Adaptive solvers of the probability flow: every sample takes the steps that its own error asks for.

A result depends on no other sample of the batch: step sizes, rejections and the end are a sample's own, carried as
times ``(B,)``; a round asks the denoiser once a stage about those still on their way.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor

from ..._errors import UserError, check_integer
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Dirac, Noise
from ...processes import ProbabilityFlow, Process, ScalarGaussian, expand, require
from ..loop import P, Sampler, State
from .dpm_solver import DPMSolver
from .singlestep import check_start


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
class Adaptive(Sampler[P]):
    """The flow between the two ends of a step, by as many steps of its own as the tolerance asks for.

    A method gives the variable in which it steps, what it learns at a state, a try and the rule for the next size. The
    grid is where states are wanted; two ends are enough. The flow has no speed at t = 0, so a step to 0 is integrated
    to ``t_min`` and one evaluation more takes it to clean data; where the variable is infinite at t = 1, the same is
    done from there to ``t_max``. A tolerance below the rounding of the network buys short steps and nothing else.

    Args:
        rtol, atol: tolerances of a step of its own, > 0.
        max_steps: tries of a sample within one step of the grid, ≥ 1. A sample that needs more is an error that says
            where it stood; nothing is returned half-done.
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
    def variable(self, process: P, t: Tensor) -> Tensor:
        """The variable in which step sizes are meant; infinite where the method has no step."""

    @abstractmethod
    def time(self, process: P, value: Tensor) -> Tensor:
        """The inverse of ``variable``."""

    @abstractmethod
    def learn(self, denoiser: Denoiser[P], x: Tensor, t: Tensor) -> Tensor:
        """One evaluation at ``(B, *state)``, ``(B,)``: what a step starts from."""

    @abstractmethod
    def size(self, denoiser: Denoiser[P], x: Tensor, t: Tensor, s: Tensor, first: Tensor) -> Tensor:
        """The first step to try, > 0 in units of the variable, ``(B,)``."""

    @abstractmethod
    def attempt(self, denoiser: Denoiser[P], x: Tensor, t: Tensor, u: Tensor, first: Tensor, kept: Tensor) -> Attempt:
        """A step from t to u."""

    @abstractmethod
    def factor(self, error: Tensor, again: Tensor) -> Tensor:
        """The next size over this one; ``again`` where the step before this try was rejected."""

    def default_grid(self, process: Process, steps: int) -> Tensor:
        """From the process's noisiest time to 0 in one step: the others are its own."""
        return torch.tensor([process.t_max, 0.0], dtype=torch.float64)

    def step(self, state: State, s: Tensor, denoiser: Denoiser[P], noise: Noise) -> State:
        check_start(state.t, s)
        process, x = denoiser.process, state.x
        begin, end = self._ends(process, state.t, s)
        at = state.t
        belief = None
        if bool((begin != at).any()):
            x, belief = _plain(denoiser, x, at, begin)
        if bool((end != begin).any()):
            x = self._cross(denoiser, x, begin.expand(len(x)), end.expand(len(x)))
        if bool((s != end).any()):
            x, belief = _plain(denoiser, x, end, s)
        return state.move(x, s, belief=belief)

    def _ends(self, process: P, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Where the integration of a step from t to s begins and ends: at a finite variable, and not beyond s."""
        t, s = torch.broadcast_tensors(t, s)
        low, high = torch.minimum(t, s), torch.maximum(t, s)
        inner_low = torch.where(self.variable(process, low).isfinite(), low, torch.full_like(low, process.t_min))
        inner_high = torch.where(self.variable(process, high).isfinite(), high, torch.full_like(high, process.t_max))
        crossed = inner_low >= inner_high
        down = s <= t
        begin, end = torch.where(down, inner_high, inner_low), torch.where(down, inner_low, inner_high)
        return torch.where(crossed, t, begin), torch.where(crossed, t, end)

    def _cross(self, denoiser: Denoiser[P], x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        process = denoiser.process
        now, goal = self.variable(process, t), self.variable(process, s)
        way = torch.sign(goal - now)
        active = way.nonzero()[:, 0]
        x, t, now, kept = x.clone(), t.clone(), now.clone(), x.clone()
        part = _Part(denoiser, len(x))
        first = torch.zeros_like(x)
        first[active] = self.learn(part(active), x[active], t[active])
        size, again = torch.zeros_like(now), torch.zeros_like(now, dtype=torch.bool)
        size[active] = self.size(part(active), x[active], t[active], s[active], first[active])
        for _ in range(self.max_steps):
            span = (goal - now)[active].abs()
            last = size[active] >= span
            length = torch.where(last, span, size[active])
            ahead = torch.where(last, goal[active], now[active] + way[active] * length)
            u = torch.where(last, s[active], self.time(process, ahead))
            if bool((u == t[active]).any()):
                self._stop(t[active], torch.full_like(u, torch.inf), u == t[active], "with no smaller step left")
            d = part(active)
            x_a, t_a = x[active], t[active]
            tried = self.attempt(d, x_a, t_a, u, first[active], kept[active])
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


class _Part(Generic[P]):
    """The denoiser for some of the samples; for all of them it is the denoiser itself."""

    def __init__(self, denoiser: Denoiser[P], count: int) -> None:
        self.denoiser, self.count = denoiser, count

    def __call__(self, index: Tensor) -> Denoiser[P]:
        return self.denoiser if len(index) == self.count else self.denoiser.rows(index)


def _plain(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Dirac]:
    """A step of DDIM from t to s, and the belief at t."""
    belief = Dirac(denoiser(x, t).mean)
    return denoiser.process.reverse(x, belief, t, s, 0.0).mean, belief


def _rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).sqrt()


@dataclass(frozen=True)
class DPMSolverAdaptive(Adaptive[ScalarGaussian]):
    r"""DPM-Solver-12 and -23 (Lu et al. 2022, arXiv:2206.00927 appendix C).

    A step of half log-SNR h is made by two solvers that share their evaluations; with x' of the lower order and x'' of
    the higher,

    .. math:: E = \left\| \frac{x' - x''}{\max(ε_a, ε_r \max(|x'|, |x'_{prev}|))} \right\|_2 / \sqrt D,
              \quad h ← θ h E^{-1/p}

    E ≤ 1 accepts x''. Here the norm, and so the step, is a sample's own, a rejected step keeps its first evaluation,
    and h grows at most ``growth`` times: an E so small that it would grow more is the rounding of the network.

    Args:
        order: p of the higher solver: 2 (DPM-Solver-1 and -2) or 3 (-2 and -3).
        rtol, atol: ε_r and ε_a; as published for data in [−1, 1].
        first: the first h tried.
        safety: θ in (0, 1).
        growth: of h from one try to the next, > 1; infinite as published.
    """

    rtol: float = 0.05
    atol: float = 0.0078
    order: int = 3
    first: float = 0.05
    safety: float = 0.9
    growth: float = 10.0
    needs = ScalarGaussian, "adaptive DPM-Solver"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (2, 3):
            raise UserError(f"order must be 2 (DPM-Solver-12) or 3 (DPM-Solver-23), got {self.order}")
        if not 0 < self.first < float("inf"):
            raise UserError(f"first must be a finite number > 0, got {self.first}")
        if not 0 < self.safety < 1:
            raise UserError(f"safety must lie in (0, 1), got {self.safety}")
        if not self.growth > 1:
            raise UserError(f"growth must be > 1, got {self.growth}")

    def variable(self, process: ScalarGaussian, t: Tensor) -> Tensor:
        # Beyond t_max the signal is nothing but rounding: the integration begins at t_max
        return torch.where(t > process.t_max, -torch.inf, process.log_snr(t) / 2)

    def time(self, process: ScalarGaussian, value: Tensor) -> Tensor:
        t: Tensor = process.time(2 * value)
        return t

    def learn(self, denoiser: Denoiser[ScalarGaussian], x: Tensor, t: Tensor) -> Tensor:
        return denoiser(x, t).mean

    def size(self, denoiser: Denoiser[ScalarGaussian], x: Tensor, t: Tensor, s: Tensor, first: Tensor) -> Tensor:
        return torch.full_like(t, self.first)

    def attempt(
        self, denoiser: Denoiser[ScalarGaussian], x: Tensor, t: Tensor, u: Tensor, first: Tensor, kept: Tensor
    ) -> Attempt:
        process = denoiser.process
        high = DPMSolver(self.order)
        low = DPMSolver(1) if self.order == 2 else DPMSolver(2, r1=high.nodes[0])
        states, means = [x], [first]
        for stage in high.stages(process, t, u):
            if len(states) > 1:
                means.append(denoiser(states[-1], stage.u).mean)
            states.append(stage(states, means))
        lower = low.stages(process, t, u)[-1](states, means)
        scale = (self.rtol * torch.maximum(lower.abs(), kept.abs())).clamp_min(self.atol)
        return Attempt(states[-1], _rms((lower - states[-1]) / scale).to(t), None, lower)

    def factor(self, error: Tensor, again: Tensor) -> Tensor:
        return (self.safety * error.clamp_min(1e-30) ** (-1 / self.order)).clamp_max(self.growth)


_PROOF = "exact: tests/laws, tests/samplers/test_adaptive.py"


@register("samplers", "dpm-12", title="DPM-Solver-12, adaptive", arxiv="2206.00927", proof=_PROOF)
def DPMSolver12(rtol: float = 0.05, atol: float = 0.0078, max_steps: int = 1000) -> DPMSolverAdaptive:
    """DPM-Solver of order 2 with the error seen by order 1 (arXiv:2206.00927 appendix C)."""
    return DPMSolverAdaptive(rtol, atol, max_steps, order=2)


@register("samplers", "dpm-23", title="DPM-Solver-23, adaptive", arxiv="2206.00927", proof=_PROOF)
def DPMSolver23(rtol: float = 0.05, atol: float = 0.0078, max_steps: int = 1000) -> DPMSolverAdaptive:
    """DPM-Solver of order 3 with the error seen by order 2 (arXiv:2206.00927 appendix C)."""
    return DPMSolverAdaptive(rtol, atol, max_steps, order=3)


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


@dataclass(frozen=True)
class ExplicitRungeKutta(Adaptive):
    r"""An embedded Runge–Kutta pair on dx/dt of the probability flow (arXiv:2011.13456 §4.3, appendix D.4).

    Coefficients, first step and control of the step are those of SciPy's ``solve_ivp`` (Hairer, Nørsett & Wanner,
    Solving Ordinary Differential Equations I, II.4), for each sample on its own; a sample's steps are those that SciPy
    would take for it alone. Any process with a ``velocity`` will do, phase space among them.

    Args:
        pair: ``"rk45"`` (Dormand & Prince, 6 evaluations a try) or ``"dop853"`` (12 evaluations a try).
        rtol, atol: the error allowed a step is atol + rtol·max(|x_t|, |x_u|), in RMS over a sample.
    """

    pair: str = "rk45"
    needs = ProbabilityFlow, "an ODE solver"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pair not in ("rk45", "dop853"):
            raise UserError(f"pair must be 'rk45' or 'dop853', got {self.pair!r}")

    def variable(self, process: Any, t: Tensor) -> Tensor:
        return torch.where(t == 0, torch.inf, t)

    def time(self, process: Any, value: Tensor) -> Tensor:
        return value

    def learn(self, denoiser: Denoiser, x: Tensor, t: Tensor) -> Tensor:
        return require(denoiser.process, ProbabilityFlow, "an ODE solver").velocity(x, denoiser(x, t), t)

    def size(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, first: Tensor) -> Tensor:
        scale = self.atol + x.abs() * self.rtol
        d0, d1 = _rms(x / scale), _rms(first / scale)
        small = (d0 < 1e-5) | (d1 < 1e-5)
        h0 = torch.where(small, 1e-6, 0.01 * d0 / d1.clamp_min(1e-300)).to(t)
        h0 = torch.minimum(h0, (s - t).abs())
        u = t + torch.sign(s - t) * h0
        change = self.learn(denoiser, x + expand(u - t, x) * first, u) - first
        d2 = _rms(change / scale).to(t) / h0
        most = torch.maximum(d1.to(t), d2)
        h1 = torch.where(most <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), (0.01 / most) ** (1 / (_table(self.pair).q + 1)))
        return torch.minimum(torch.minimum(100 * h0, h1), (s - t).abs())

    def attempt(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, first: Tensor, kept: Tensor) -> Attempt:
        table, h = _table(self.pair), u - t
        step = expand(h, x)
        slopes = [first]
        for c, row in zip(table.c[1:], table.a[1:]):
            place = u if c == 1 else t + c * h
            slopes.append(self.learn(denoiser, x + step * _sum(row, slopes), place))
        new = x + step * _sum(table.b, slopes)
        slopes.append(self.learn(denoiser, new, u))
        scale = self.atol + torch.maximum(x.abs(), new.abs()) * self.rtol
        sizes = [_rms(_sum(row, slopes) / scale).to(h) for row in table.errors]
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


def _sum(row: list[float], slopes: list[Tensor]) -> Tensor:
    total = torch.zeros_like(slopes[0])
    for c, slope in zip(row, slopes):
        if c:
            total = total.add_(slope, alpha=c)
    return total


@register("samplers", "rk45", title="Probability flow, RK45", arxiv="2011.13456", proof=_PROOF)
def RK45(rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 1000) -> ExplicitRungeKutta:
    """Dormand and Prince's pair of orders 5 and 4; tolerances of arXiv:2011.13456 appendix D.4."""
    return ExplicitRungeKutta(rtol, atol, max_steps, "rk45")


@register("samplers", "dop853", title="Probability flow, DOP853", arxiv="2011.13456", proof=_PROOF)
def DOP853(rtol: float = 1e-10, atol: float = 1e-12, max_steps: int = 10_000) -> ExplicitRungeKutta:
    """Dormand and Prince's pair of order 8: a reference to measure others by."""
    return ExplicitRungeKutta(rtol, atol, max_steps, "dop853")
