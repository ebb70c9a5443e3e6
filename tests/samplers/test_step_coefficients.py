"""On a grid known beforehand a step is a row of numbers: the same step as the one that asks the process each time."""

from __future__ import annotations

import pytest
import torch

import langevin
from langevin import Noise, processes, samplers, worlds
from langevin.denoisers import unit
from langevin.samplers.linear.step import Linear, combine
from langevin.samplers.runge_kutta.singlestep import Staged

PROCESSES = {
    "vp": processes.VP(), "sub-vp": processes.SubVP(), "edm": processes.EDM(), "flow": processes.RectifiedFlow(),
    "ddpm": processes.DDPM(),
}  # fmt: skip


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize(
    ("sampler", "kind"),
    [
        (samplers.DDPM(), Linear),
        (samplers.DDPMLarge(), Linear),
        (samplers.Ancestral(eta=0.5, belief=unit), Linear),
        (samplers.EulerMaruyama(), Linear),
        (samplers.EulerMaruyama(eta=0.3), Linear),
        (samplers.Euler(), Linear),
        (samplers.Heun(), Staged),
    ],
    ids=lambda v: getattr(v, "__name__", repr(v)),
)
def test_a_plan_is_the_same_step(process, sampler, kind):
    """Down to clean data, with one time for all and one a sample: equal to rounding (an ulp a step, grown < 1e3)."""
    world = worlds.ring(8)
    denoiser = world.denoiser(process)
    grid = torch.cat((torch.linspace(0.95, 0.05, 7, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)))
    start = world.sample(5, 1, process=process, t=grid[0])
    assert isinstance(sampler.plan(process, grid), kind)
    *_, planned = langevin.trajectory(denoiser, sampler, grid=grid, start=start, noise=Noise(3, 5))
    state, own = samplers.State(start, grid[0]), samplers.State(start, grid[:1].expand(5))
    for i, s in enumerate(grid[1:], 1):
        state = sampler.step(state, s, denoiser, Noise(3, 5).step(i))
        own = sampler.step(own, s.expand(5), denoiser, Noise(3, 5).step(i))
    mixed = sampler.step(samplers.State(start, grid[:1].expand(5)), grid[1], denoiser, Noise(3, 5).step(1)).x
    other = sampler.step(samplers.State(start, grid[0]), grid[1:2].expand(5), denoiser, Noise(3, 5).step(1)).x
    torch.testing.assert_close(mixed, other, rtol=1e-12, atol=1e-12)
    size = float(start.abs().max())
    torch.testing.assert_close(planned.x, state.x, rtol=0, atol=1e-12 * size)
    torch.testing.assert_close(own.x, state.x, rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize(
    "sampler", [samplers.DDIM(), samplers.DDPM(), samplers.Euler(), samplers.Multistep("eps", order=1)], ids=repr
)
def test_a_sample_that_stands_still_stays_beside_others_that_move(sampler):
    process, world = processes.VP(), worlds.ring()
    x, t = world.sample(2, 1, process=process, t=0.5), torch.tensor([0.5, 0.5], dtype=torch.float64)
    moved = sampler.step(
        samplers.State(x, t), torch.tensor([0.5, 0.3]).double(), world.denoiser(process), Noise(0, 2)
    ).x
    torch.testing.assert_close(moved[0], x[0], rtol=0, atol=1e-12)
    assert (moved[1] - x[1]).abs().max() > 1e-3


@pytest.mark.parametrize("sampler", [samplers.Euler(), samplers.Heun(), samplers.DDPM()], ids=repr)
def test_other_processes_take_the_long_way(sampler):
    """Rows are for processes of one scalar; elsewhere the process is asked."""
    process = processes.PhaseSpace()
    grid = torch.linspace(0.9, 0.1, 3, dtype=torch.float64)
    assert sampler.plan(process, grid) is sampler


@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_combine_is_its_sum(scale):
    """scale·x + Σ w f for numbers, and for one a sample: to an ulp."""
    x, f, g = (Noise(seed, 3).normal((2,)) for seed in (1, 2, 3))
    for first in (1.0, 0.75, -1.0):
        for second in (1.25, 0.0):
            expected = scale * x + first * f + second * g
            torch.testing.assert_close(combine(scale, x, (first, second), (f, g)), expected, rtol=1e-14, atol=1e-14)
            each = torch.full((3, 1), scale).double(), torch.full((3, 1), first).double()
            torch.testing.assert_close(combine(each[0], x, (each[1], second), (f, g)), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    "make",
    [samplers.GaussianRemainder, samplers.UniPC, samplers.DDIM, samplers.DEIS, samplers.DPMSolver, samplers.Heun],
)
def test_a_plan_is_kept_to_its_end(make, monkeypatch):
    """No coefficient is computed on the way along a grid that was planned."""
    process, world = processes.VP(), worlds.ring()
    denoiser = world.denoiser(process)
    sampler = make().for_model(denoiser)
    grid = sampler.default_grid(process, 5)
    grid = samplers.grids.karras(process, 5) if grid is None else grid
    planned = sampler.plan(process, grid)

    def never(*_):
        raise AssertionError("the table was left")

    monkeypatch.setattr(type(planned), "coefficients", never)
    start = world.sample(3, 1, process=process, t=process.t_max)
    *_, last = langevin.trajectory(denoiser, sampler, grid=grid, start=start)
    assert last.x.isfinite().all()
