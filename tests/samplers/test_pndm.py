"""PNDM beside a peer, its order, its evaluations, and the history that the start leaves."""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers, worlds
from support import flow_reference, oracle

F64 = torch.float64
WORLD = worlds.random_mixture(3, components=4, rms=0.7, seed=1)


def test_beside_a_peer():
    """diffusers' PNDM with its Runge–Kutta start, table in float64, on an exact world.

    The peer's warm-up stands at indices k and k − 25 of a stride of 50, which are knots; its stride is the grid's
    (leading spacing). The last step, from index 0 to the data, is left out: it is a fiftieth of the others, and the
    peer weighs the past as if it were as long. Rounding: 1e-16 · 20 steps · 157.
    """
    diffusers = pytest.importorskip("diffusers")
    process, steps = processes.DDPM(), 20
    peer = diffusers.PNDMScheduler(skip_prk_steps=False, timestep_spacing="leading", set_alpha_to_one=True)
    betas = torch.tensor(process.betas, dtype=F64)
    peer.alphas_cumprod, peer.final_alpha_cumprod = torch.cumprod(1 - betas, 0), torch.ones((), dtype=F64)
    peer.set_timesteps(steps)
    grid = samplers.grids.leading(process, steps)
    denoiser, start = WORLD.denoiser(process), WORLD.sample(16, 1, process=process, t=grid[0])
    x = start
    for index in peer.timesteps[:-1]:
        t = (index.double() + 1) / process.steps
        x = peer.step(process.noise(x, denoiser(x, t), t), index, x).prev_sample
    *_, last = langevin.trajectory(denoiser, samplers.PNDM(), start=start, grid=grid[:-1])
    torch.testing.assert_close(last.x, x, rtol=1e-9, atol=1e-9)


def slope(rule, process, counts):
    """On times uniform in t, as the weights of Adams and Bashforth want."""
    start = WORLD.sample(16, 1, process=process, t=0.8)
    denoiser = WORLD.denoiser(process)
    reference = flow_reference(denoiser, start, 0.8, 0.2)
    errors = []
    for n in counts:
        *_, last = langevin.trajectory(denoiser, rule, grid=torch.linspace(0.8, 0.2, n + 1, dtype=F64), start=start)
        errors.append(float((last.x - reference).abs().median()))
    return math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])


def test_order():
    """2 (arXiv:2202.09778, property 3.1: the transfer is not linear in t); 4 where σ/α is linear in t."""
    assert abs(slope(samplers.PNDM(), processes.VP(), (64, 128, 256)) - 2) < 0.25
    assert abs(slope(samplers.PNDM(), processes.EDM(sigma_max=4.0), (64, 128, 256)) - 4) < 0.35


def test_evaluations():
    """Four in each of the first three steps, one in every other."""
    denoiser = oracle(WORLD, processes.VP(), "eps")
    langevin.sample(denoiser, samplers.PNDM(), n=2, steps=10)
    assert denoiser.counter.calls == 3 * 4 + 7
    assert isinstance(samplers.PNDM(1), samplers.Multistep)


def test_the_start_leaves_the_history_of_its_states():
    """After three first steps, the fourth of ``rest`` uses its values at those states: as computed by hand."""
    process = processes.VP()
    denoiser, grid = WORLD.denoiser(process), torch.linspace(0.9, 0.5, 5, dtype=F64)
    start = WORLD.sample(8, 1, process=process, t=0.9)
    both = samplers.StartWith(samplers.DOP853(1e-12, 1e-13), samplers.PLMS(4), 3)
    states = list(langevin.trajectory(denoiser, both, grid=grid, start=start))
    noises = [process.noise(u.x, denoiser(u.x, u.t), u.t) for u in states[:4]]
    mean = (55 * noises[3] - 59 * noises[2] + 37 * noises[1] - 9 * noises[0]) / 24
    t, s = grid[3], grid[4]
    kept = process.alpha(s) / process.alpha(t)
    expected = kept * states[3].x + (process.sigma(s) - kept * process.sigma(t)) * mean
    torch.testing.assert_close(states[4].x, expected, rtol=1e-11, atol=1e-11)
    # and the first ones are the other sampler's own
    reference = flow_reference(denoiser, start, 0.9, float(grid[3]))
    torch.testing.assert_close(states[3].x, reference, rtol=0, atol=1e-9)


def test_refusals():
    with pytest.raises(UserError, match="steps must be at least 1, got 0"):
        samplers.StartWith(samplers.DDIM(), samplers.PLMS(), 0)
    with pytest.raises(UserError, match="order must be"):
        samplers.PNDM(5)
