"""A sampler settled on a grid may be shared: what it keeps of a model is never another model's."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from langevin import Noise, processes, samplers, worlds
from langevin.samplers import GaussianRemainder, LearnedSolver, State
from langevin.samplers.learned.sampler import SolverUse
from langevin.samplers.learned.table import SolverTensors

PROCESS, STEPS = processes.EDM(), 4
WORLDS = [worlds.random_mixture(3, components=2, rms=rms, seed=seed) for rms, seed in ((0.4, 0), (1.5, 1))]


def tuned() -> LearnedSolver:
    """A table that was not learned, for whatever moments a model has."""
    u = torch.linspace(2.0, -3.0, STEPS, dtype=torch.float64)
    zeros = [torch.zeros(i + 1, dtype=torch.float64) for i in range(STEPS)]
    table = SolverTensors(float(u[0]) + 0.5, u, None, torch.zeros(STEPS, dtype=torch.float64), zeros, zeros).table()
    return LearnedSolver(table, SolverUse(PROCESS))


def walk(sampler: samplers.Sampler, grid: torch.Tensor, world: worlds.World):
    """The states of a planned sampler, as the loop takes them."""
    denoiser, times = world.denoiser(PROCESS), grid.unbind()
    noise = Noise(0, 5)
    state = State(noise.normal((3,)) * PROCESS.sigma(times[0]), times[0])
    for s in times[1:]:
        state = sampler.step(state, s, denoiser, noise)
        yield state.x


@pytest.mark.parametrize("make", [GaussianRemainder, tuned])
def test_models_that_share_a_sampler_do_not_share_what_it_takes_of_them(make):
    """What is taken of a model is the plan's, not the sampler's: steps in turn are those of each alone."""
    sampler = make()
    grid = sampler.default_grid(PROCESS, STEPS)
    plans = [sampler.for_model(world.denoiser(PROCESS)).plan(PROCESS, grid) for world in WORLDS]
    alone = [list(walk(plan, grid, world)) for plan, world in zip(plans, WORLDS)]
    assert not torch.equal(alone[0][-1], alone[1][-1])
    assert sampler == make()
    off = [list(walk(sampler, grid, world)) for world in WORLDS]
    if make is GaussianRemainder:  # off a plan a learned solver takes steps of order 1
        for pair, expected in zip(zip(*off), zip(*alone)):
            for one, other in zip(pair, expected):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [GaussianRemainder, tuned])
def test_threads_that_share_a_sampler(make):
    """Two models in two threads that change places as often as the interpreter lets them."""
    sampler = make()
    grid = sampler.default_grid(PROCESS, STEPS)
    alone = [list(walk(sampler.for_model(w.denoiser(PROCESS)).plan(PROCESS, grid), grid, w))[-1] for w in WORLDS]
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(40):
            plan = sampler.for_model(WORLDS[which].denoiser(PROCESS)).plan(PROCESS, grid)
            if not torch.equal(list(walk(plan, grid, WORLDS[which]))[-1], alone[which]):
                wrong.append(which)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong
