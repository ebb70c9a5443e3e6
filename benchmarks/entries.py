"""The solvers that ``solvers.py`` runs: those of the registry on every grid, and those of the peers."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import exact
import langevin
import peers
import tables
from exact import PROCESSES, Problem
from langevin import Noise, samplers
from langevin._registry import lookup
from langevin.processes import ScalarGaussian
from langevin.samplers import Sampler


@dataclasses.dataclass(frozen=True)
class Entry:
    """A solver with a grid, ready to be run on a problem.

    Args:
        name: as the tables say it.
        family: ``"langevin"`` or the peer's package.
        grid: the grid's name; ``"own"`` for the sampler's own, else empty.
        stochastic: whether it draws noise.
        run: ``(problem, budget, end) -> (y at the end, evaluations a sample, whether it asked for more than a mean)``.
    """

    name: str
    family: str
    grid: str
    stochastic: bool
    run: Callable[[Problem, int, str], tuple[Tensor, float, bool]]


# --- ours -------------------------------------------------------------------------------------------------------------


def times_of(problem: Problem, sampler: Sampler, grid: str, steps: int, end: str) -> Tensor:
    """A grid of so many steps from t_max to ``end``, ``"t_min"`` or ``"0"``."""
    process = problem.process

    def make(n: int) -> Tensor:
        if grid == "own":
            own = sampler.default_grid(process, n)
            return default_grid(problem, n) if own is None else own
        return lookup("grids", grid).make(process, n)

    times = make(steps).clone()
    if end == "0":
        return times
    if float(times[-1]) == 0 and len(times) > 2 and float(times[-2]) <= process.t_min * (1 + 1e-9):
        times = make(steps + 1)[:-1].clone()  # it has t_min among its times: one evaluation less to get there
    times[-1] = process.t_min
    if not (times.diff() < 0).all():
        raise langevin.UserError(f"grid {grid!r} has no times above t_min")
    return times


def default_grid(problem: Problem, steps: int) -> Tensor:
    """What ``langevin.sample`` takes when the sampler has no grid of its own."""
    return samplers.default_grid(problem.process, steps)


def travel(
    problem: Problem,
    sampler: Sampler,
    times: Tensor,
    samples: int,
    *,
    known: str = "covariance",
    draw: int = 0,
    limit: float = math.inf,
) -> tuple[Tensor, float, bool]:
    """The loop from the problem's start, without gradients; ``limit`` is in evaluations a sample."""
    denoiser, counter = problem.denoiser(limit * samples, known)
    noise = Noise(2 * problem.seed + 1 + draw, samples)
    with torch.no_grad():
        *_, state = samplers.trajectory(denoiser, sampler, grid=times, start=problem.start[:samples], noise=noise)
    return problem.to_y(state.x, float(times[-1])), counter.evaluations(samples), counter.whole > 0


def tolerance_of(sampler: Sampler) -> list[str]:
    """Fields that hold tolerances; an adaptive solver spends its budget through them."""
    return [
        f.name for f in dataclasses.fields(sampler) if f.name in ("rtol", "atol", "tolerance", "rel_tol", "abs_tol")
    ]


class Ours:
    """A sampler of the registry on a grid, with as many steps as a budget of evaluations allows."""

    def __init__(self, make: Callable[[Problem], Sampler], grid: str, known: str = "covariance") -> None:
        self.make, self.grid, self.known = make, grid, known
        self.steps: dict[tuple[str, int, str], int | None] = {}

    def __call__(self, problem: Problem, budget: int, end: str) -> tuple[Tensor, float, bool]:
        sampler = self.make(problem).for_model(problem.denoiser(known=self.known)[0])
        sampler.check(problem.process)
        if tolerance_of(sampler):
            return self.adaptive(problem, sampler, budget, end)
        if hasattr(sampler, "evaluations"):
            return self.total(problem, sampler, budget, end)
        key = (problem.process_name, budget, end)
        if key not in self.steps:
            self.steps[key] = self.affordable(problem, sampler, budget, end)
        steps = self.steps[key]
        if steps is None:
            raise peers.Unsupported("one step costs more than the budget")
        times = times_of(problem, sampler, self.grid, steps, end)
        return travel(problem, sampler, times, problem.samples, known=self.known)

    def total(self, problem: Problem, sampler: Any, budget: int, end: str) -> tuple[Tensor, float, bool]:
        """A solver that is made for a number of evaluations: the largest it keeps within the budget."""
        for number in range(budget + 1, 0, -1):
            made = dataclasses.replace(sampler, evaluations=number)
            times = times_of(problem, made, self.grid, budget, end)
            if travel(problem, made, times, 1, known=self.known)[1] <= budget:
                return travel(problem, made, times, problem.samples, known=self.known)
        raise peers.Unsupported("one step costs more than the budget")

    def affordable(self, problem: Problem, sampler: Sampler, budget: int, end: str) -> int | None:
        """The largest number of steps whose evaluations stay within the budget."""
        times = lambda n: times_of(problem, sampler, self.grid, n, end)
        cost = lambda n: travel(problem, sampler, times(n), 1, known=self.known)[1]
        if cost(budget) <= budget:
            return budget + 1 if cost(budget) < budget and cost(budget + 1) <= budget else budget
        low, high = 0, budget
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if cost(middle) <= budget else (low, middle)
        return low or None

    def adaptive(self, problem: Problem, sampler: Sampler, budget: int, end: str) -> tuple[Tensor, float, bool]:
        """At the tolerance that spends most of the budget on average without passing it."""
        fields, best = tolerance_of(sampler), None
        times = times_of(problem, sampler, "own", 1, end)
        low, high = -9.0, 2.0
        for _ in range(8):
            middle = (low + high) / 2
            looser = dataclasses.replace(sampler, **dict.fromkeys(fields, 10**middle))
            try:
                best, high = travel(problem, looser, times, problem.samples, limit=budget), middle
            except (exact.Spent, langevin.UserError):  # the budget, the step limit, or a tolerance it does not take
                low = middle
        if best is None:
            raise peers.Unsupported("no tolerance is loose enough for the budget")
        return best


@functools.cache
def grids_of(process: ScalarGaussian) -> list[str]:
    """Registered grids that a process allows without further settings."""
    found = []
    for method in langevin.methods("grids"):
        try:
            samplers.check_grid(method.make(process, 5))
        except Exception:
            continue
        found.append(method.name)
    return found


def is_stochastic(sampler: Sampler) -> bool:
    """Whether other noise from the same start ends elsewhere."""
    problem = Problem("2-D", "EDM", 0, samples=2)
    sampler = sampler.for_model(problem.denoiser(known="covariance")[0])
    times = times_of(problem, sampler, "own", 4, "t_min")
    sampler = dataclasses.replace(sampler, **dict.fromkeys(tolerance_of(sampler), 1e-2))
    one, two = (travel(problem, sampler, times, 2, draw=draw)[0] for draw in (0, 1))
    return not torch.equal(one, two)


def same_as_own(sampler: Sampler, grid: str) -> bool:
    """Whether a named grid is the sampler's own on every process of the benchmark, where it exists."""
    for process in PROCESSES:
        problem = Problem("2-D", process, 0, samples=2)
        if grid in grids_of(problem.process):
            one, two = (times_of(problem, sampler, name, 7, "t_min") for name in (grid, "own"))
            if one.shape != two.shape or not torch.allclose(one, two):
                return False
    return True


def ours() -> tuple[list[Entry], list[str]]:
    """The default, and every sampler of the registry on its own grid and on every grid."""
    entries: list[Entry] = []
    for name, known in (("", "covariance"), (" knowing a spread", "spread"), (" knowing nothing", "nothing")):
        entries.append(Entry(tables.DEFAULT[0] + name, "langevin", "own", False, Ours(default_of, "own", known)))
    noisy = lambda problem: dataclasses.replace(default_of(problem), eta=1.0)  # type: ignore[call-arg]
    if hasattr(default_of(Problem("2-D", "EDM", 0)), "eta"):
        entries.append(Entry(tables.DEFAULT[0] + " with η = 1", "langevin", "own", True, Ours(noisy, "own")))
    refused = []
    names = dict.fromkeys(name for process in PROCESSES.values() for name in grids_of(process))
    for method in langevin.methods("samplers"):
        try:
            sampler = method.make()
            stochastic = is_stochastic(sampler)
        except Exception as error:
            refused.append(f"{method.name} is left out: {error}")
            continue
        for grid in ("own", *names):
            if grid != "own" and (tolerance_of(sampler) or same_as_own(sampler, grid)):
                continue
            make = lambda problem, sampler=sampler: sampler
            entries.append(Entry(method.name, "langevin", grid, stochastic, Ours(make, grid)))
    return entries, refused


def default_of(problem: Problem) -> Sampler:
    """What ``langevin.sample`` takes when no sampler is named."""
    return samplers.default_sampler(problem.process)


# --- theirs -----------------------------------------------------------------------------------------------------------


class Theirs:
    """A peer; where the path ends at 0, its last evaluation is the mean at ρ_min."""

    def __init__(self, peer: peers.Peer) -> None:
        self.peer = peer

    def __call__(self, problem: Problem, budget: int, end: str) -> tuple[Tensor, float, bool]:
        process, calls = problem.process, 0
        table = isinstance(process, langevin.processes.DDPM)
        if self.peer.needs and not table:
            raise peers.Unsupported("lives on a table of β")

        def mean(y: Tensor, rho: float) -> Tensor:
            nonlocal calls
            calls += 1
            return problem.fast(y, rho)

        last = end == "0"
        betas = torch.tensor(process.betas, dtype=torch.float64) if table else None
        path = peers.Path(
            mean,
            problem.start_y,
            problem.rho_max,
            problem.rho_min,
            budget - last,
            None if betas is None else torch.cumprod(1 - betas, 0),
            problem.rms,
        )
        y = peers.run(self.peer, path)
        spent = path.spent[0] if path.spent else calls
        return (problem.fast(y, problem.rho_min), spent + 1, False) if last else (y, spent, False)


def theirs() -> tuple[list[Entry], list[str]]:
    """All peers that are installed."""
    found, missing = peers.peers()
    return [Entry(p.name, p.name.split()[0], "", p.stochastic, Theirs(p)) for p in found], missing
