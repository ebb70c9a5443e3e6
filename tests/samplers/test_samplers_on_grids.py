"""A sampler settled on a grid may be shared: what it keeps of a model is never another model's."""

from __future__ import annotations

import sys
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from langevin import Noise, processes, samplers, worlds
from langevin.denoisers import Denoiser
from langevin.distributions import Dirac
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


@pytest.mark.parametrize("make", [GaussianRemainder, samplers.DDIM, tuned])
def test_a_plan_made_in_inference_mode_serves_gradients(make):
    """The table of a grid is kept for the next batch, which may be differentiated through."""
    denoiser = WORLDS[0].denoiser(PROCESS)
    sampler = make().for_model(denoiser)
    grid = sampler.default_grid(PROCESS, STEPS)
    grid = torch.linspace(0.9, 0.1, STEPS + 1, dtype=torch.float64) if grid is None else grid
    start = Noise(0, 2).normal((3,))
    with torch.inference_mode():
        *_, without = samplers.trajectory(denoiser, sampler, grid=grid, start=start)
    *_, last = samplers.trajectory(denoiser, sampler, grid=grid, start=start.requires_grad_())
    last.x.sum().backward()
    assert torch.equal(last.x, without.x)
    assert start.grad is not None


class Operations(TorchDispatchMode):
    """Counts tensor operations."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation is not torch.ops.aten._local_scalar_dense.default
        return operation(*args, **(kwargs or {}))


class Known(Denoiser):
    """A belief that costs nothing."""

    process, shape, dtype = processes.VP(), (4,), torch.float32

    def __call__(self, x_t, t):
        return Dirac(x_t)


@pytest.mark.parametrize(
    ("sampler", "most"),
    [
        (samplers.DDIM(), 2),  # c·x + w·f
        (samplers.create_sampler("dpmpp-2m"), 3),  # one value more
        (samplers.create_sampler("deis"), 6),  # f = a·x + b·x̂_0, and three values
        (samplers.create_sampler("unipc"), 9),  # 3, the correction in 4, and what another sampler moved in 2
        # In and out of float64 for x, x̂_0 and x_s, and a view; q = a·c + b·d; c_s of five values.
        (samplers.default_sampler(processes.VP()), 12),
        (samplers.create_sampler("ddpm"), 39),  # 2, and a draw of noise
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, samplers.Sampler) else str(v),
)
def test_tensor_operations_of_a_step(sampler, most):
    """What a step costs around a small network is the number of its tensor operations."""
    times, start = torch.linspace(0.95, 0.1, 10, dtype=torch.float64), Noise(0, 1).normal((4,)).float()
    states = samplers.trajectory(Known(), sampler, grid=times, start=start)
    with torch.no_grad():
        for _ in range(9):  # the last of them with a full history
            with Operations() as operations:
                next(states)
    assert operations.count <= most
