"""DPM-Solver-fast: the orders it takes one after another, and what it spends."""

from __future__ import annotations

import pytest
import torch

import langevin
from langevin import processes, samplers, worlds
from langevin.samplers import State
from langevin.samplers.runge_kutta.dpm_solver import InTurn
from support import oracle

F64 = torch.float64
WORLD = worlds.random_mixture(3, components=4, rms=0.7, seed=1)


def at(t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=F64)


@pytest.mark.parametrize("evaluations", [1, 2, 3, 4, 5, 6, 7, 8, 20, 21, 22])
def test_fast_spends_its_evaluations(evaluations):
    """As many calls as asked for, in the orders of the paper (§3.4: 3, …, 3, then 2 and 1, or the remainder)."""
    process = processes.VP()
    denoiser = oracle(WORLD, process, "eps")
    rule = samplers.DPMSolverFast(evaluations)
    x = langevin.sample(denoiser, rule, n=2)
    assert denoiser.counter.calls == evaluations == sum(rule.orders)
    assert x.isfinite().all()
    budget = evaluations - 1
    whole, rest = divmod(budget, 3)
    paper = [3] * (whole - 1) + [2, 1] if rest == 0 else [3] * whole + [rest]
    assert list(rule.orders[:-1]) == (paper if budget else [])


def test_fast_on_its_grid_is_its_parts():
    """Step by step with DPM-Solver-3, -2, -1 on a grid uniform in log-SNR."""
    process, rule = processes.VP(), samplers.DPMSolverFast(13)
    assert rule.orders == (3, 3, 3, 2, 1, 1)
    times = rule.default_grid(process, 10)
    gaps = process.log_snr(times[:-1]).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(5), rtol=1e-9, atol=0)
    x = WORLD.sample(8, 1, process=process, t=1.0)
    denoiser = WORLD.denoiser(process)
    state = State(x, times[0])
    for order, s in zip(rule.orders, times[1:]):
        state = samplers.DPMSolver(order).step(state, s, denoiser, None)
    assert langevin.sample(denoiser, rule, start=x).equal(state.x)


def test_fast_without_a_plan_is_its_third_order():
    process, denoiser = processes.VP(), WORLD.denoiser(processes.VP())
    state = State(WORLD.sample(4, 1, process=process, t=0.9), at(0.9))
    moved = samplers.DPMSolverFast(9).step(state, at(0.5), denoiser, None).x
    assert torch.equal(moved, samplers.DPMSolver(3).step(state, at(0.5), denoiser, None).x)


def test_in_turn_goes_on_with_the_last():
    process, denoiser = processes.VP(), WORLD.denoiser(processes.VP())
    x, grid = WORLD.sample(4, 1, process=process, t=0.9), torch.tensor([0.9, 0.6, 0.4, 0.2, 0.1], dtype=torch.float64)
    rule = InTurn((samplers.DPMSolver(3), samplers.DPMSolver(1)))
    state = State(x, grid[0])
    for order, s in zip((3, 1, 1, 1), grid[1:]):
        state = samplers.DPMSolver(order).step(state, s, denoiser, None)
    assert langevin.sample(denoiser, rule, start=x, grid=grid).equal(state.x)
