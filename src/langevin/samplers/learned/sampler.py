"""A solver whose grid and coefficients were learned for one model and one number of evaluations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from ...denoisers import Denoiser, gaussian_frame
from ...distributions import Noise
from ...numerics.frame import GaussianFrame
from ...processes import Process, ScalarGaussian, require
from ..gaussian.guided import widen
from ..loop import OnGrid, Sampler, State, check_shared_time
from .steps import LearnedSteps, Place
from .table import SolverTable

NARROWEST = 1e-3
"""The least variance of a direction, as a share of the mean one. A coordinate that never varies (a corner of a scan) is
known to a network only to its own error, which a Gaussian of no width would magnify by 1/σ."""

IN_TURN = "in turn"
"""The label of a solver learned for labels of all classes in turn."""


class Memory(NamedTuple):
    """z at the start, the values so far, and z where the last step arrived."""

    start: Tensor
    values: tuple[Tensor, ...]
    arrived: Tensor


@dataclass(frozen=True, eq=False)
class LearnedStep:
    """A step of a table.

    Attributes:
        steps: of the table.
        evaluation: which one is made; −1 for none.
        here, there: where the states at both ends stand.
        as_given: whether the state is where the network is asked.
    """

    steps: LearnedSteps
    evaluation: int
    here: Place
    there: Place
    as_given: bool = False


@dataclass(frozen=True)
class SolverUse:
    """What a table was learned for: it is picked where all of this is so.

    Attributes:
        process: of the model.
        guidance_scale: w.
        label: ``in turn`` for labels of all classes, a label for that one alone, None for no label.
        frame: (std, largest) of the frame that travels with the model, or None.
        assumed: (mean, variance) of every coordinate where the model has none.
        widened: how many times as wide the frame is taken as either says, for guidance.
        errors: (before, after), medians over held-out noises: of the default sampler and of this one.
        made: how it was learned, as plain JSON.
    """

    process: Process
    guidance_scale: float = 1.0
    label: int | str | None = None
    frame: tuple[float, float] | None = None
    assumed: tuple[float, float] | None = None
    widened: float = 1.0
    errors: tuple[float, float] | None = None
    made: Mapping[str, Any] = field(default_factory=dict, compare=False)


@register(
    "samplers",
    "learned",
    title="Learned for a model and a number of evaluations",
    arxiv="2403.01329",
    proof="exact: tests/samplers/test_learned.py, tests/calibration/test_tuning.py",
)
@dataclass(frozen=True)
class LearnedSolver(OnGrid[ScalarGaussian]):
    r"""A non-stationary linear solver with a grid and coefficients of its own for every step.

    The family of Shaul et al. (2024, arXiv:2403.01329 §3), in which every step has its own coefficients on all earlier
    values, here around the flow of the data's Gaussian (:class:`SolverTable` has the equations). It is learned by
    ``langevin.calibration.tune``, and takes the grid it was learned with and no other.

    Without a table it is what all tables start from at one evaluation: the Gaussian remainder at order 1, on any grid,

    .. math:: z_s = z_t + \left(\tfrac1{S_t} - \tfrac1{S_s}\right) q_t.

    Args:
        table: what was learned.
        use: for what.
        frame: of the data; by default that which travels with the model.
    """

    table: SolverTable | None = None
    use: SolverUse | None = None
    frame: GaussianFrame | None = None
    needs = ScalarGaussian, "a learned solver"

    def __repr__(self) -> str:
        if self.table is None:
            return "LearnedSolver()"
        guided = "" if self.use is None or self.use.guidance_scale == 1 else f", guidance {self.use.guidance_scale:g}"
        return f"LearnedSolver({self.table.steps} evaluations{guided})"

    @property
    def gains(self) -> bool:
        """Whether it was nearer than the default sampler on held-out noises, or nobody measured."""
        return self.use is None or self.use.errors is None or self.use.errors[1] < self.use.errors[0]

    def check(self, process: Process) -> None:
        super().check(process)
        if self.use is not None and process != self.use.process:
            raise UserError(f"sampler must be one learned for {process}, got one for {self.use.process}")

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        if self.table is None:
            return None
        if steps != self.table.steps:
            raise UserError(f"steps must be {self.table.steps}, for which this sampler was learned, got {steps}")
        gaussian: ScalarGaussian = require(process, ScalarGaussian, "a learned solver")
        inner = [gaussian.t_max, *gaussian.time(-2 * torch.tensor(self.table.nodes[1:], dtype=torch.float64)).tolist()]
        end = 0.0 if self.table.end is None else float(gaussian.time(-2 * self.table.end))
        return torch.tensor([*inner, end], dtype=torch.float64)

    def fits(self, denoiser: Denoiser, guidance_scale: float) -> bool:
        """Whether it was learned for this process, this guidance scale and what is bound."""
        use, label = self.use, denoiser.condition.get("label")
        if use is None or use.process != denoiser.process or not math.isclose(use.guidance_scale, guidance_scale):
            return False
        if (use.label is None) != (label is None) or denoiser.condition.keys() - {"label"}:
            return False  # it was learned with every other condition absent
        return not isinstance(use.label, int) or label is None or bool((label == use.label).all())

    def for_model(self, denoiser: Denoiser) -> LearnedSolver:
        """The solver with the frame it was learned in."""
        use, size = self.use, math.prod(denoiser.shape)
        if self.frame is not None:
            if len(self.frame.mean) != size:
                raise UserError(
                    f"frame must be of {size} coordinates for data of shape {denoiser.shape}, "
                    f"got {len(self.frame.mean)}"
                )
            return replace(self, frame=self.frame.on(denoiser.device))
        known = gaussian_frame(denoiser, of_class=use is None or use.label != IN_TURN)
        if use is not None and use.assumed is not None:
            mean, variance = (torch.full((size,), v, dtype=torch.float64) for v in use.assumed)
            known = GaussianFrame(mean, variance, spectral=False)
        elif use is not None and use.frame is not None:
            if known is None:
                raise UserError(
                    "a learned solver needs the covariance of the data, which this model does not carry; "
                    "solver.for_model(model) takes it from the model it was learned for"
                )
            if not all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(use.frame, (known.std, known.largest))):
                raise UserError(f"a learned solver was learned with other data than {known}; tune again")
        frame = GaussianFrame.unknown(size) if known is None else known.floor_variances(NARROWEST)
        frame = widen(frame, 1.0 if use is None else use.widened)
        return replace(self, frame=frame.on(denoiser.device))

    def plan(self, process: ScalarGaussian, grid: Tensor) -> Sampler:
        if self.table is None or self.frame is None:
            return self
        self.check(process)
        own = self.default_grid(process, self.table.steps)
        assert own is not None
        if len(grid) != len(own) or not torch.allclose(grid, own, rtol=1e-9, atol=1e-12):
            raise UserError(
                f"grid must be that of the table, {[round(t, 6) for t in own.tolist()][:8]}, got "
                f"{[round(t, 6) for t in grid.tolist()][:8]}; leave out grid, or name another sampler"
            )
        return super().plan(process, grid)

    def tabulate(self, process: ScalarGaussian, grid: tuple[float, ...]) -> Mapping[tuple[Any, ...], LearnedStep]:
        assert self.table is not None
        assert self.frame is not None
        steps = LearnedSteps.of(self.table.tensors(), process, self.frame)
        ends = itertools.pairwise(steps.ends)
        return {
            (t, i, s): LearnedStep(steps, i, *there)
            for i, ((t, s), there) in enumerate(zip(itertools.pairwise(grid), ends))
        }

    def coefficients(self, process: ScalarGaussian, *key: Any) -> None:
        """None: they were learned for a grid, and a step off it, or without the values before it, is of order 1."""

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        if self.frame is None:
            return self.for_model(denoiser).step(state, s, denoiser, noise)
        if self.table is None:
            return self._first_order(state, s, denoiser)
        check_shared_time(state.t, s, "a learned solver")
        memory: Memory | None = state.memory
        asked = len(memory.values) if memory else 0
        known: LearnedStep | None = self.looked_up(denoiser.process, float(state.t), asked, float(s))
        if known is None:
            return self._first_order(state, s, denoiser)
        steps, i, shape = known.steps, known.evaluation, state.x.shape[1:]
        z = steps.along(state.x, known.here)
        if i < 0:  # to where the first question stands
            return State(steps.state(z, known.there, shape).to(state.x.dtype), s)
        if known.as_given:
            belief = denoiser(state.x, state.t)
            q = steps.value(z, i, belief)
        else:
            q, belief = steps.ask(z, i, denoiser, shape)
        # What another sampler or a pipeline moved the state is kept.
        start, values = (z, (q,)) if memory is None else (memory.start + (z - memory.arrived), (*memory.values, q))
        moved = steps.move(start, values, i)
        x = steps.state(moved, known.there, shape).to(state.x.dtype)
        return State(x, s, Memory(start, values, moved), belief)

    def _first_order(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian]) -> State:
        assert self.frame is not None
        process, frame, x = denoiser.process, self.frame, state.x
        column = lambda v: v[:, None] if v.ndim else v
        (a, b), (c, d) = [(column(process.alpha(t)), column(process.sigma(t))) for t in (state.t, s)]
        variances = frame.variances
        here, there = torch.sqrt(a**2 * variances + b**2), torch.sqrt(c**2 * variances + d**2)
        belief = denoiser(x, state.t)
        z = frame.to(x, a) / here
        # From clean data nothing is known of q, which there is a limit.
        ratio = torch.where(b == 0, 0.0, here / torch.where(b == 0, 1.0, b)) ** 2
        q = (variances * a * z / here - frame.to(belief.mean)) * ratio
        moved = (z + (a / here - c / there) * q) * there
        return State(frame.back(moved, c).to(x).reshape(x.shape), s, None, belief)


def find_learned_solver(denoiser: Denoiser, steps: int) -> LearnedSolver | None:
    """The solver that a model carries for these steps, the guidance that is asked for and what is bound; or None.

    One that was no better than the default on held-out noises, as after too short a time, is not taken.
    """
    carried = (solver for solver in denoiser.learned_solvers() if isinstance(solver, LearnedSolver) and solver.gains)
    return next((solver for solver in carried if solver.table is not None and solver.table.steps == steps), None)
