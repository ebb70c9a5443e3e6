r"""Single-step solvers of the probability flow: Runge–Kutta whose stages are joined by DDIM's transfer.

Every stage goes from x_t to a time u between t and s with a mean of the predictions g_j made so far:

.. math:: x_u = A x_t + B \sum_j w_j g_j, \quad \sum_j w_j = 1

in data prediction, g = x̂_0, A = σ_u/σ_t and B = −α_u (e^{−h} − 1), in noise prediction, g = ε̂, A = α_u/α_t and
B = −σ_u (e^h − 1), with h = ℓ_u − ℓ_t and ℓ = log α/σ. A method is the variable in which its nodes u stand and its
weights w. DPM-Solver's weights integrate polynomials in ℓ against e^{∓ℓ} exactly; the weights of the classical
tableaux in ρ = σ/α (DEIS) and in t (PNDM) are numbers.

Because a prediction is a combination of a state and a belief's mean, a stage is one row of coefficients of the
states and means so far, computed in float64 from (process, t, s) alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise
from ...processes import Process, ScalarGaussian, expand, require
from ..grids import log_snr
from ..linear.step import Scalar, combine
from ..loop import Composite, OnGrid, Sampler, State

_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(16))

PREDICTIONS = ("x0", "eps")


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    r"""The first two moments of τ in [0, 1] under the density ∝ e^{−zτ}, for any finite z, ``()`` or ``(B,)``.

    .. math:: m_1 = \frac1z - \frac1{e^z - 1} = \frac{φ_2(z)}{φ_1(z)}, \quad m_2 = \frac{2 m_1 - z/(e^z - 1)}{z}

    Below |z| = 2 by 16-node Gauss quadrature, whose error is below (z/4)^{32}/32! < 1e-44; above, in closed form,
    where a subtraction loses at most a digit and a half.
    """
    far = z.abs() > 2
    near = torch.where(far, 0.0, z)
    tau = (_NODES + 1) / 2
    density = _WEIGHTS * torch.exp(-near[..., None] * tau)
    density = density / density.sum(-1, keepdim=True)
    wide = torch.where(far, z, 1.0)
    end = 1 / torch.expm1(wide)
    first = 1 / wide - end
    return (
        torch.where(far, first, (density * tau).sum(-1)),
        torch.where(far, 2 * first / wide - end, (density * tau**2).sum(-1)),
    )


Row = tuple["Tensor | float", ...]
"""Weights of the predictions made so far; they sum to 1."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Where the denoiser is asked, and the row that makes the next state from the states and means so far.

    Args:
        u: time of the evaluation, ``()`` or ``(B,)``.
        states: coefficients of x_0, x_1, … (the stages' states).
        means: coefficients of the belief means at them.
    """

    u: Tensor
    states: tuple[Scalar, ...]
    means: tuple[Scalar, ...]

    def __call__(self, states: Sequence[Tensor], means: Sequence[Tensor]) -> Tensor:
        """The next state."""
        shaped = lambda c: expand(c, states[0]) if isinstance(c, Tensor) else c
        weights = [shaped(c) for c in (*self.states[1:], *self.means)]
        values = (*states[1 : len(self.states)], *means[: len(self.means)])
        return combine(shaped(self.states[0]), states[0], weights, values)


def _scalar(c: Tensor) -> Scalar:
    return c if c.ndim else float(c)


class Staged(OnGrid[ScalarGaussian]):
    """A sampler whose step is stages: rows of coefficients of the states and belief means so far."""

    @abstractmethod
    def stages(self, process: ScalarGaussian, t: Tensor, s: Tensor) -> tuple[Stage, ...]:
        """The step from t to s as rows of coefficients."""

    def coefficients(self, process: ScalarGaussian, t: float, s: float) -> tuple[Stage, ...]:
        start, end = torch.tensor((t, s), dtype=torch.float64).unbind()
        check_start(start, end)
        return self.stages(process, start, end)

    def tabulate(
        self, process: ScalarGaussian, grid: tuple[float, ...]
    ) -> Mapping[tuple[float, float], tuple[Stage, ...]]:
        return {pair: self.coefficients(process, *pair) for pair in pairwise(grid)}

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process = denoiser.process
        if state.t.ndim or s.ndim:
            check_start(state.t, s)
            stages = self.stages(process, state.t, s)
        else:
            stages = self.looked_up(process, float(state.t), float(s))
        states, means, first = [state.x], [], None
        for stage in stages:
            belief = denoiser(states[-1], stage.u)
            first = belief if first is None else first
            means.append(belief.mean)
            states.append(stage(states, means))
        return State(states[-1], s, None, first)


@dataclass(frozen=True)
class Singlestep(Staged):
    """What all single-step solvers share; a method gives ``nodes`` and ``weights``.

    A step to t = 0, or from a time of no signal, is DDIM's: its nodes would stand at infinite log-SNR.
    """

    @property
    def prediction(self) -> Literal["x0", "eps"]:
        """What is interpolated."""
        return "eps"

    @property
    def variable(self) -> Literal["log-snr", "rho", "t"]:
        """In what the nodes are shares of the step."""
        return "log-snr"

    @property
    @abstractmethod
    def nodes(self) -> tuple[float, ...]:
        """c_1, c_2, … in (0, 1], where the denoiser is asked after t itself."""

    @abstractmethod
    def weights(self, z: Tensor) -> tuple[Row, ...]:
        """A row for every node and one for the end, of 1, 2, … weights; z = h for noise and −h for data."""

    def check(self, process: Process) -> None:
        require(process, ScalarGaussian, type(self).__name__)

    def times(self, process: ScalarGaussian, t: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        """The nodes as times between t and s, neither of them at infinite log-SNR."""
        if self.variable == "t":
            return tuple(s if c == 1 else t + c * (s - t) for c in self.nodes)
        first, last = process.log_snr(t) / 2, process.log_snr(s) / 2
        if self.variable == "rho":
            # log of ρ_t + c (ρ_s − ρ_t), relative to ρ_t: a step may be long or short
            places = [first - torch.log1p(c * torch.expm1(first - last)) for c in self.nodes]
        else:
            places = [first + c * (last - first) for c in self.nodes]
        return tuple(s if c == 1 else process.time(2 * place) for c, place in zip(self.nodes, places))

    def stages(self, process: ScalarGaussian, t: Tensor, s: Tensor) -> tuple[Stage, ...]:
        """The step from t to s as rows of coefficients."""
        t, s = torch.broadcast_tensors(t, s)
        # α/σ below e^−20 is no signal: what noise prediction divides by it has lost its digits
        plain = torch.stack([_signal(process, t), _signal(process, s)]).isinf().any(0)
        ends = _ratio(process, t, s)
        if bool(plain.all()) or not self.nodes:
            return (Stage(t, (_scalar(ends),), (_scalar(process.alpha(s) - ends * process.alpha(t)),)),)
        # Where a sample takes the plain step, its nodes stay at t: there every prediction is the first one.
        target = torch.where(plain, t, s)
        whole = _rise(process, t, target)
        noise = self.prediction == "eps"
        asked = (t, *(torch.where(plain, t, u) for u in self.times(process, t, target)))
        rows = self.weights(whole if noise else -whole)
        alphas, sigmas = [process.alpha(u) for u in asked], [process.sigma(u) for u in asked]
        made = []
        for i, (u, row) in enumerate(zip((*asked[1:], target), rows)):
            h = _rise(process, t, u)
            if noise:
                kept = torch.where(plain, 1.0, process.alpha(u) / torch.where(plain, 1.0, alphas[0]))
                gain = -process.sigma(u) * torch.expm1(h)
                states = [gain * w / sigma for w, sigma in zip(row, sigmas)]
                means = [-gain * w * alpha / sigma for w, alpha, sigma in zip(row, alphas, sigmas)]
                states[0] = states[0] + kept
            else:
                gain = -process.alpha(u) * torch.expm1(-h)
                states = [torch.zeros_like(h) for _ in row]
                means = [gain * w for w in row]
                states[0] = _ratio(process, t, u)
            if u is target:  # the plain step itself
                states = [torch.where(plain, ends if j == 0 else 0.0, c) for j, c in enumerate(states)]
                mean = process.alpha(s) - ends * process.alpha(t)
                means = [torch.where(plain, mean if j == 0 else 0.0, c) for j, c in enumerate(means)]
            made.append(Stage(asked[i], tuple(map(_scalar, states)), tuple(map(_scalar, means))))
        return tuple(made)


def check_start(t: Tensor, s: Tensor) -> None:
    """Steps towards noise do not start at clean data."""
    if bool(((s > t) & (t == 0)).any()):
        raise UserError("grid must start above 0 to go up: at t = 0 there is no noise to scale (use process.t_min)")


def _signal(process: ScalarGaussian, t: Tensor) -> Tensor:
    """ℓ = log α/σ, −∞ where there is no signal to speak of."""
    half = process.log_snr(t) / 2
    return torch.where(half < -20, -torch.inf, half)


def _ratio(process: ScalarGaussian, t: Tensor, u: Tensor) -> Tensor:
    """σ_u/σ_t, which is 1 for a sample that stands still, at σ = 0 too."""
    return torch.where(u == t, 1.0, process.sigma(u) / process.sigma(t))


def _rise(process: ScalarGaussian, t: Tensor, u: Tensor) -> Tensor:
    """h = ℓ_u − ℓ_t, 0 for a sample that stands still, at infinite ℓ too."""
    return torch.where(u == t, 0.0, (process.log_snr(u) - process.log_snr(t)) / 2)


def _check_prediction(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise UserError(f"prediction must be one of {', '.join(map(repr, PREDICTIONS))}, got {prediction!r}")


@register(
    "samplers",
    "dpm-solver",
    title="DPM-Solver, single step, orders 1–3",
    arxiv="2206.00927",
    proof="exact: tests/laws, tests/samplers/test_singlestep.py; parity: tests/samplers/test_singlestep.py",
)
@dataclass(frozen=True)
class DPMSolver(Singlestep):
    r"""DPM-Solver-1, -2, -3 and DPM-Solver++(2S), (3S): exponential Runge–Kutta in half the log-SNR.

    In noise prediction Lu et al. 2022a (arXiv:2206.00927 eq. 3.7, algorithms 1 and 2; with r_1, r_2 algorithms 4, 5),
    in data prediction Lu et al. 2022b (arXiv:2211.01095 algorithm 1 and appendix). With m_1 from ``moments``, z = h for
    noise and −h for data, and D_i = g_i − g_0, what the transfer is given is

    * order 1: g_0 (DDIM);
    * order 2: g_0 + D_1/(2 r_1) at the end;
    * order 3: g_0 + (r_2/r_1) m_1(r_2 z) D_1 at the second node, g_0 + (m_1(z)/r_2) D_2 at the end;

    and by ``rule="exact"`` the polynomial through all predictions, integrated exactly: at the end of order 2
    g_0 + (m_1/r_1) D_1, of order 3 the parabola through all three; the weight at the second node is then multiplied
    by (r_2 − r_1)/(r_2 (1 − 3r_1/2)), without which only r_2 = 2/3, where it is 1, has order 3.

    Args:
        order: 1, 2 or 3, as many evaluations a step.
        prediction: ``"eps"`` (DPM-Solver) or ``"x0"`` (DPM-Solver++).
        r1: where the first node stands, in (0, 1): 1/2 for order 2 and 1/3 for order 3 if not given.
        r2: the second node of order 3, in (r1, 1]: 2/3, and by the paper's weights no other has order 3.
        rule: ``"paper"`` or ``"exact"``.
    """

    order: int = 3
    prediction: Literal["x0", "eps"] = "eps"
    r1: float | None = None
    r2: float = 2 / 3
    rule: Literal["paper", "exact"] = "paper"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise UserError(f"order must be 1, 2 or 3, got {self.order}")
        _check_prediction(self.prediction)
        if self.rule not in ("paper", "exact"):
            raise UserError(f"rule must be 'paper' or 'exact', got {self.rule!r}")
        if self.r1 is not None and not 0 < self.r1 <= 1:
            raise UserError(f"r1 must lie in (0, 1], got {self.r1}")
        if self.order == 3:
            if not (self.r1 or 1 / 3) < self.r2 <= 1:
                raise UserError(f"r2 must lie in (r1, 1], got {self.r2} with r1 = {self.r1 or 1 / 3:g}")
            if abs((self.r1 or 0) - 2 / 3) < 1e-9:
                raise UserError(f"r1 must not be 2/3 at order 3: the second node then has no order, got {self.r1}")
            if self.rule == "paper" and abs(self.r2 - 2 / 3) > 1e-9:
                raise UserError(f"r2 must be 2/3 by the paper's weights (rule='exact' takes any node), got {self.r2}")

    @property
    def nodes(self) -> tuple[float, ...]:
        return {1: (), 2: (self.r1 or 1 / 2,), 3: (self.r1 or 1 / 3, self.r2)}[self.order]

    def weights(self, z: Tensor) -> tuple[Row, ...]:
        if self.order == 1:
            return ((1.0,),)
        first, second = moments(z)
        exact = self.rule == "exact"
        if self.order == 2:
            (r,) = self.nodes
            k = first / r if exact else 1 / (2 * r)
            return ((1.0,), (1 - k, k))
        r1, r2 = self.nodes
        middle = r2 / r1 * moments(r2 * z)[0]
        if not exact:
            k = first / r2
            return ((1.0,), (1 - middle, middle), (1 - k, 0.0, k))
        middle = middle * (r2 - r1) / (r2 * (1 - 1.5 * r1))
        # Lagrange's basis on (0, r1, r2), integrated: the terms in τ and τ² of each
        k1, k2 = (r2 * first - second) / (r1 * (r2 - r1)), (second - r1 * first) / (r2 * (r2 - r1))
        return ((1.0,), (1 - middle, middle), (1 - k1 - k2, k1, k2))


@register(
    "samplers",
    "dpmpp-2s",
    title="DPM-Solver++(2S)",
    arxiv="2211.01095",
    proof="exact: tests/laws; parity: tests/samplers/test_singlestep.py",
)
def DPMSolverPP2S(r1: float = 0.5) -> DPMSolver:
    """DPM-Solver++(2S) (arXiv:2211.01095 algorithm 1): order 2 in data prediction."""
    return DPMSolver(order=2, prediction="x0", r1=r1)


@register(
    "samplers",
    "dpmpp-3s",
    title="DPM-Solver++(3S)",
    arxiv="2211.01095",
    proof="exact: tests/laws; parity: tests/samplers/test_singlestep.py",
)
def DPMSolverPP3S() -> DPMSolver:
    """DPM-Solver-3 in data prediction."""
    return DPMSolver(order=3, prediction="x0")


@dataclass(frozen=True)
class InTurn(Composite):
    """Step i by ``samplers[i]``, later ones by the last; each knows nothing of the steps before.

    Args:
        samplers: one or more without a memory.
    """

    samplers: tuple[Sampler, ...]

    @property
    def parts(self) -> tuple[Sampler, ...]:
        return self.samplers

    def with_parts(self, *parts: Sampler) -> InTurn:
        return InTurn(parts)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        i = state.memory or 0
        sampler = self.samplers[min(i, len(self.samplers) - 1)]
        return replace(sampler.step(replace(state, memory=None), s, denoiser, noise), memory=i + 1)


@register(
    "samplers",
    "dpm-fast",
    title="DPM-Solver-fast",
    arxiv="2206.00927",
    proof="exact: tests/laws, tests/samplers/test_singlestep.py",
)
@dataclass(frozen=True)
class DPMSolverFast(Sampler[ScalarGaussian]):
    """DPM-Solver with a total number of evaluations (arXiv:2206.00927 §3.4, appendix D.3).

    M = ``evaluations`` − 1 are spent from ``t_max`` to ``t_min`` on ⌊M/3⌋ + 1 steps uniform in log-SNR: all of order 3
    but the last two, 2 and 1, where M is a multiple of 3; else the last alone, M mod 3. One evaluation more takes the
    state at ``t_min`` to clean data. On another grid its last steps have these orders, and all before them order 3; a
    step on its own, outside a grid, has order 3. As steps → ∞ the one last step of order 1 leaves it order 2.

    Args:
        evaluations: in all, ≥ 1; the number of steps follows from it, so ``steps`` need not be given.
        prediction: ``"eps"`` as published, or ``"x0"``.
    """

    evaluations: int = 20
    prediction: Literal["x0", "eps"] = "eps"
    needs = ScalarGaussian, "DPM-Solver-fast"

    def __post_init__(self) -> None:
        if isinstance(self.evaluations, bool) or not isinstance(self.evaluations, int) or self.evaluations < 1:
            raise UserError(f"evaluations must be an integer of at least 1, got {self.evaluations!r}")
        _check_prediction(self.prediction)

    @property
    def orders(self) -> tuple[int, ...]:
        """The orders of the steps on its own grid, whose sum is ``evaluations``."""
        whole, rest = divmod(self.evaluations - 1, 3)
        if rest:
            return (*[3] * whole, rest, 1)
        return (*[3] * (whole - 1), 2, 1, 1) if whole else (1,)

    def default_grid(self, process: Process, steps: int) -> Tensor:
        """``len(orders)`` steps: uniform in log-SNR from ``t_max`` to ``t_min``, then 0."""
        return log_snr(process, len(self.orders))

    def plan(self, process: ScalarGaussian, grid: Tensor) -> Sampler:
        steps = len(grid) - 1
        orders = self.orders if float(grid[-1]) == 0 else self.orders[:-1] or (3,)
        orders = ((3,) * steps + tuple(order for order in orders if order < 3))[-steps:]
        made = (DPMSolver(order, self.prediction) for order in orders)
        return InTurn(tuple(sampler.plan(process, grid[i : i + 2]) for i, sampler in enumerate(made)))

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        return DPMSolver(3, self.prediction).step(state, s, denoiser, noise)


SCHEMES: dict[str, tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]] = {
    "midpoint": ((1 / 2,), ((1,), (0, 1))),
    "heun": ((1,), ((1,), (1 / 2, 1 / 2))),
    "kutta3": ((1 / 2, 1), ((1,), (-1, 2), (1 / 6, 2 / 3, 1 / 6))),
    "rk4": ((1 / 2, 1 / 2, 1), ((1,), (0, 1), (0, 0, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))),
}
"""Classical tableaux as nodes and rows; a row is divided by its node, as weights that sum to 1."""


@dataclass(frozen=True)
class Tableau(Singlestep):
    """A classical Runge–Kutta method on the noise prediction, joined by DDIM's transfer.

    Args:
        scheme: a row of ``SCHEMES``.
        variable: ``"rho"``, in which the transfer is a straight line and the method keeps its order, or ``"t"``, as
            PNDM has it, whose order is 2 unless ρ is linear in t.
    """

    scheme: str = "heun"
    variable: Literal["rho", "t"] = "rho"

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UserError(f"scheme must be one of {', '.join(map(repr, SCHEMES))}, got {self.scheme!r}")
        if self.variable not in ("rho", "t"):
            raise UserError(f"variable must be 'rho' or 't', got {self.variable!r}")

    @property
    def nodes(self) -> tuple[float, ...]:
        return SCHEMES[self.scheme][0]

    def weights(self, z: Tensor) -> tuple[Row, ...]:
        return SCHEMES[self.scheme][1]


_PROOF = "exact: tests/laws; parity: tests/samplers/test_singlestep.py"


@register("samplers", "rho-midpoint", title="DEIS ρRK: midpoint", arxiv="2204.13902", proof=_PROOF)
def RhoMidpoint() -> Tableau:
    """The midpoint rule in ρ = σ/α on the noise prediction (arXiv:2204.13902 §3.3)."""
    return Tableau("midpoint")


@register("samplers", "rho-heun", title="DEIS ρRK: Heun", arxiv="2204.13902", proof=_PROOF)
def RhoHeun() -> Tableau:
    """Heun's method in ρ = σ/α on the noise prediction (arXiv:2204.13902 §3.3); EDM's Heun on any process."""
    return Tableau("heun")


@register("samplers", "rho-kutta3", title="DEIS ρRK: Kutta, order 3", arxiv="2204.13902", proof=_PROOF)
def RhoKutta3() -> Tableau:
    """Kutta's third-order method in ρ (arXiv:2204.13902 §3.3)."""
    return Tableau("kutta3")


@register("samplers", "rho-rk4", title="DEIS ρRK: order 4", arxiv="2204.13902", proof=_PROOF)
def RhoRK4() -> Tableau:
    """The classical fourth-order method in ρ (arXiv:2204.13902 §3.3)."""
    return Tableau("rk4")


@register("samplers", "prk", title="PNDM: pseudo Runge–Kutta", arxiv="2202.09778", proof=_PROOF)
def PRK() -> Tableau:
    """Classical fourth-order weights at t, the middle and s, joined by DDIM's transfer (arXiv:2202.09778 eq. 13)."""
    return Tableau("rk4", variable="t")
