"""DPM-Solver and DPM-Solver++: single-step weights that integrate polynomials in log-SNR exactly.

The multistep solvers (2M, 3M) are in ``linear/multistep.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..._errors import UserError, check_integer
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise
from ...processes import Process, ScalarGaussian
from ...processes.grids import log_snr
from ..loop import Composite, Sampler, State
from .singlestep import Singlestep, StageWeights

_PROOF = "exact: tests/laws, tests/samplers/test_singlestep.py; parity: tests/samplers/test_singlestep.py"

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


def _check_prediction(prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise UserError(f"prediction must be one of {', '.join(map(repr, PREDICTIONS))}, got {prediction!r}")


@register("samplers", "dpm-solver", title="DPM-Solver, single step, orders 1–3", arxiv="2206.00927", proof=_PROOF)
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

    def weights(self, z: Tensor) -> tuple[StageWeights, ...]:
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


@register("samplers", "dpmpp-2s", title="DPM-Solver++(2S)", arxiv="2211.01095", proof=_PROOF)
def DPMSolverPP2S(r1: float = 0.5) -> DPMSolver:
    """DPM-Solver++(2S) (arXiv:2211.01095 algorithm 1): order 2 in data prediction."""
    return DPMSolver(order=2, prediction="x0", r1=r1)


@register("samplers", "dpmpp-3s", title="DPM-Solver++(3S)", arxiv="2211.01095", proof=_PROOF)
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
    proof="exact: tests/laws, tests/samplers/test_dpm_solver_fast.py",
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
        check_integer("evaluations", self.evaluations, 1)
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
