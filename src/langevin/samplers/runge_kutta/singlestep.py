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
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..._errors import UserError
from ...denoisers import Denoiser
from ...distributions import Noise
from ...processes import Process, ScalarGaussian, expand, require
from ..linear.step import Scalar, combine
from ..loop import OnGrid, State

StageWeights = tuple["Tensor | float", ...]
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
        """The variable in which the nodes divide the step."""
        return "log-snr"

    @property
    @abstractmethod
    def nodes(self) -> tuple[float, ...]:
        """c_1, c_2, … in (0, 1], where the denoiser is asked after t itself."""

    @abstractmethod
    def weights(self, z: Tensor) -> tuple[StageWeights, ...]:
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
