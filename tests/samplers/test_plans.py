"""A sampler settled on a grid may be shared: what it keeps of a model is never another model's."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from langevin import Noise, processes, samplers, worlds
from langevin.samplers import GaussianRemainder, State, Tuned
from langevin.samplers.tuned import Knots, Use

PROCESS, STEPS = processes.EDM(), 4
WORLDS = [worlds.random_mixture(3, components=2, rms=rms, seed=seed) for rms, seed in ((0.4, 0), (1.5, 1))]


def tuned() -> Tuned:
    """A table that was not learned, for whatever moments a model has."""
    u = torch.linspace(2.0, -3.0, STEPS, dtype=torch.float64)
    zeros = [torch.zeros(i + 1, dtype=torch.float64) for i in range(STEPS)]
    table = Knots(float(u[0]) + 0.5, u, None, torch.zeros(STEPS, dtype=torch.float64), zeros, zeros).table()
    return Tuned(table, Use(PROCESS))


def walk(sampler: samplers.Sampler, grid: torch.Tensor, world: worlds.World):
    """The states of a planned sampler, as the loop takes them."""
    denoiser, times = world.denoiser(PROCESS), grid.unbind()
    noise = Noise(0, 5)
    state = State(noise.normal((3,)) * PROCESS.sigma(times[0]), times[0])
    for s in times[1:]:
        state = sampler.step(state, s, denoiser, noise)
        yield state.x


@pytest.mark.parametrize("make", [GaussianRemainder, tuned])
def test_models_that_share_a_plan_do_not_share_what_it_keeps(make):
    """Step by step in turn, to the bit as alone; found: a tuned plan kept the first model's moments for every other."""
    sampler = make()
    grid = sampler.default_grid(PROCESS, STEPS)
    alone = [list(walk(sampler.plan(PROCESS, grid), grid, world)) for world in WORLDS]
    assert not torch.equal(alone[0][-1], alone[1][-1])
    shared = sampler.plan(PROCESS, grid)
    for pair, expected in zip(zip(*(walk(shared, grid, world) for world in WORLDS)), zip(*alone)):
        assert all(map(torch.equal, pair, expected))


@pytest.mark.parametrize("make", [GaussianRemainder, tuned])
def test_threads_that_share_a_plan(make):
    """Two models in two threads that change places as often as the interpreter lets them."""
    sampler = make()
    grid = sampler.default_grid(PROCESS, STEPS)
    alone = [list(walk(sampler.plan(PROCESS, grid), grid, world))[-1] for world in WORLDS]
    shared = sampler.plan(PROCESS, grid)
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(40):
            if not torch.equal(list(walk(shared, grid, WORLDS[which]))[-1], alone[which]):
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
