"""Adaptive solvers of the probability flow: every sample takes the steps that its own error asks for.

How steps are chosen stands in ``numerics/adaptive.py``; here is what of it is a sampler.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Dirac, Noise
from ...numerics.adaptive import AdaptiveMethod, Attempt, EmbeddedRungeKutta, rms
from ...processes import ProbabilityFlow, Process, ScalarGaussian, require
from ..loop import P, Sampler, State
from .dpm_solver import DPMSolver
from .singlestep import check_start


@dataclass(frozen=True)
class Adaptive(AdaptiveMethod[Denoiser[P]], Sampler[P]):
    """The flow between the two ends of a step, by as many steps of its own as the tolerance asks for.

    The grid is where states are wanted; two ends are enough. The flow has no speed at t = 0, so a step to 0 is
    integrated to ``t_min`` and one evaluation more takes it to clean data; where the variable is infinite at t = 1, the
    same is done from there to ``t_max``. A tolerance below the rounding of the network buys short steps and nothing
    else.

    Args:
        rtol, atol: tolerances of a step of its own, > 0.
        max_steps: tries of a sample within one step of the grid, ≥ 1.
    """

    def default_grid(self, process: Process, steps: int) -> Tensor:
        """From the process's noisiest time to 0 in one step: the others are its own."""
        return torch.tensor([process.t_max, 0.0], dtype=torch.float64)

    def step(self, state: State, s: Tensor, denoiser: Denoiser[P], noise: Noise) -> State:
        check_start(state.t, s)
        x = state.x
        begin, end = self._ends(denoiser, state.t, s)
        at = state.t
        belief = None
        if bool((begin != at).any()):
            x, belief = _plain(denoiser, x, at, begin)
        if bool((end != begin).any()):
            x = self.cross(denoiser, x, begin.expand(len(x)), end.expand(len(x)))
        if bool((s != end).any()):
            x, belief = _plain(denoiser, x, end, s)
        return state.move(x, s, belief=belief)

    def _ends(self, denoiser: Denoiser[P], t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Where the integration of a step from t to s begins and ends: at a finite variable, and not beyond s."""
        process = denoiser.process
        t, s = torch.broadcast_tensors(t, s)
        low, high = torch.minimum(t, s), torch.maximum(t, s)
        inner_low = torch.where(self.variable(denoiser, low).isfinite(), low, torch.full_like(low, process.t_min))
        inner_high = torch.where(self.variable(denoiser, high).isfinite(), high, torch.full_like(high, process.t_max))
        crossed = inner_low >= inner_high
        down = s <= t
        begin, end = torch.where(down, inner_high, inner_low), torch.where(down, inner_low, inner_high)
        return torch.where(crossed, t, begin), torch.where(crossed, t, end)


def _plain(denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Dirac]:
    """A step of DDIM from t to s, and the belief at t."""
    belief = Dirac(denoiser(x, t).mean)
    return denoiser.process.reverse(x, belief, t, s, 0.0).mean, belief


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

    def variable(self, field: Denoiser[ScalarGaussian], t: Tensor) -> Tensor:
        process = field.process
        # Beyond t_max the signal is nothing but rounding: the integration begins at t_max
        return torch.where(t > process.t_max, -torch.inf, process.log_snr(t) / 2)

    def time(self, field: Denoiser[ScalarGaussian], value: Tensor) -> Tensor:
        return field.process.time(2 * value)

    def learn(self, field: Denoiser[ScalarGaussian], x: Tensor, t: Tensor) -> Tensor:
        return field(x, t).mean

    def size(self, field: Denoiser[ScalarGaussian], x: Tensor, t: Tensor, s: Tensor, first: Tensor) -> Tensor:
        return torch.full_like(t, self.first)

    def attempt(
        self, field: Denoiser[ScalarGaussian], x: Tensor, t: Tensor, u: Tensor, first: Tensor, kept: Tensor
    ) -> Attempt:
        process = field.process
        high = DPMSolver(self.order)
        low = DPMSolver(1) if self.order == 2 else DPMSolver(2, r1=high.nodes[0])
        states, means = [x], [first]
        for stage in high.stages(process, t, u):
            if len(states) > 1:
                means.append(field(states[-1], stage.u).mean)
            states.append(stage(states, means))
        lower = low.stages(process, t, u)[-1](states, means)
        scale = (self.rtol * torch.maximum(lower.abs(), kept.abs())).clamp_min(self.atol)
        return Attempt(states[-1], rms((lower - states[-1]) / scale).to(t), None, lower)

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


@dataclass(frozen=True)
class ExplicitRungeKutta(EmbeddedRungeKutta[Denoiser], Adaptive):
    r"""An embedded Runge–Kutta pair on dx/dt of the probability flow (arXiv:2011.13456 §4.3, appendix D.4).

    A sample's steps are those that SciPy's ``solve_ivp`` would take for it alone. Any process with a ``velocity`` will
    do, phase space among them.

    Args:
        pair: ``"rk45"`` (Dormand & Prince, 6 evaluations a try) or ``"dop853"`` (12 evaluations a try).
        rtol, atol: the error allowed a step is atol + rtol·max(|x_t|, |x_u|), in RMS over a sample.
    """

    needs = ProbabilityFlow, "an ODE solver"

    def variable(self, field: Denoiser, t: Tensor) -> Tensor:
        return torch.where(t == 0, torch.inf, t)

    def learn(self, field: Denoiser, x: Tensor, t: Tensor) -> Tensor:
        return require(field.process, ProbabilityFlow, "an ODE solver").velocity(x, field(x, t), t)


@register("samplers", "rk45", title="Probability flow, RK45", arxiv="2011.13456", proof=_PROOF)
def RK45(rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 1000) -> ExplicitRungeKutta:
    """Dormand and Prince's pair of orders 5 and 4; tolerances of arXiv:2011.13456 appendix D.4."""
    return ExplicitRungeKutta(rtol, atol, max_steps, "rk45")


@register("samplers", "dop853", title="Probability flow, DOP853", arxiv="2011.13456", proof=_PROOF)
def DOP853(rtol: float = 1e-10, atol: float = 1e-12, max_steps: int = 10_000) -> ExplicitRungeKutta:
    """Dormand and Prince's pair of order 8: a reference to measure others by."""
    return ExplicitRungeKutta(rtol, atol, max_steps, "dop853")
