"""Heavy balls: the published coefficients, the order on grids that are not uniform, the limits of β."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers, worlds
from support import thinned

F64 = torch.float64


def run(rule, process, grid, start, world):
    *_, last = langevin.trajectory(world.denoiser(process), rule, grid=grid, start=start)
    return last.x


@pytest.mark.parametrize("order", [1, 2])
def test_published_formulas_on_uniform_steps(order):
    """EDM on uniform σ, where y = x and ρ = σ: HB and GHVB2 of arXiv:2307.11118 written out, from the third step on.

    The first directions differ only in how the average starts: the paper's from zero memory, ours from the first ε̂, so
    the formulas are compared given the same v.
    """
    process, world, beta = processes.EDM(sigma_max=4.0), worlds.ring(), 0.7
    denoiser = world.denoiser(process)
    grid = torch.linspace(1.0, 0.2, 9, dtype=F64)
    x = world.sample(4, 1, process=process, t=1.0)
    rule = samplers.HeavyBall(beta, order)
    delta = 4.0 * (grid[1] - grid[0])
    # started as if it had run for ever: the average of a constant direction is late by (1 − β)/β steps
    eps = process.noise(x, denoiser(x, grid[0]), grid[0])
    v, tau = eps, 4.0 * grid[0] - delta - (1 - beta) / beta * delta
    state = samplers.State(x, grid[0], (v, tau))
    for t, s in itertools.pairwise(grid):
        eps = process.noise(x, denoiser(x, t), t)
        new = (1 - beta) * v + beta * eps
        direction = new if order == 1 else ((2 + beta) * new - (2 - beta) * v) / (2 * beta)
        x, v = x + delta * direction, new
        state = rule.step(state, s, denoiser, None)
        torch.testing.assert_close(state.x, x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("first", [1.0, 0.9])
def test_where_there_is_no_signal_or_no_noise_it_is_ddim(first):
    """A step from α = 0 has no ρ to average over: DDIM, and the average starts after it."""
    process, world, rule = processes.RectifiedFlow(), worlds.ring(), samplers.HeavyBall(0.7)
    denoiser, grid = world.denoiser(process), torch.tensor([first, 0.6, 0.3], dtype=F64)
    x = world.sample(4, 1, process=process, t=first)
    state = rule.step(samplers.State(x, grid[0]), grid[1], denoiser, None)
    plain = samplers.DDIM().step(samplers.State(x, grid[0]), grid[1], denoiser, None)
    torch.testing.assert_close(state.x, plain.x, rtol=1e-12, atol=1e-12)
    assert (state.memory is None) == (first == 1.0)
    again = rule.step(state, grid[2], denoiser, None)
    assert again.x.isfinite().all()
    still = rule.step(samplers.State(x, torch.tensor(0.0, dtype=F64)), torch.tensor(0.0, dtype=F64), denoiser, None)
    torch.testing.assert_close(still.x, x, rtol=0, atol=1e-12)


def test_without_momentum():
    """β = 1: DDIM at order 1; at order 2 Adams–Bashforth in ρ, whose coefficients on unequal steps are Lagrange's."""
    process, world = processes.VP(), worlds.ring()
    start = world.sample(4, 1, process=process, t=1.0)
    grid = samplers.grids.karras(process, 7)
    ddim = run(samplers.DDIM(), process, grid, start, world)
    torch.testing.assert_close(run(samplers.HeavyBall(1.0, 1), process, grid, start, world), ddim, rtol=1e-9, atol=1e-9)
    adams = run(samplers.Multistep("eps", "ratio", 2), process, grid, start, world)
    torch.testing.assert_close(
        run(samplers.HeavyBall(1.0, 2), process, grid, start, world), adams, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(("beta", "order", "claim"), thinned([(0.9, 2, 2), (0.5, 1, 1), (0.5, 2, 2)], 2))
def test_order_on_a_curved_grid(beta, order, claim):
    """Steps that shrink threefold along the way: the order is kept, since averages carry the σ they belong to."""
    from support import flow_reference

    process = processes.VP()
    world = worlds.random_mixture(2, components=3, rms=0.7, seed=1)
    ends = process.time(torch.tensor([-4.0, 4.0], dtype=F64))
    start = world.sample(16, 1, process=process, t=ends[0])
    truth = flow_reference(world.denoiser(process), start, float(ends[0]), float(ends[1]))
    errors = []
    for n in (128, 256, 512):
        u = torch.linspace(0, 1, n + 1, dtype=F64)
        grid = process.time(-4 + 8 * (u + u**2) / 2)
        errors.append(float((run(samplers.HeavyBall(beta, order), process, grid, start, world) - truth).abs().median()))
    assert abs(math.log(errors[0] / errors[-1]) / math.log(4) - claim) < 0.25, errors


def test_refuses():
    for beta in (0.0, 1.5):
        with pytest.raises(UserError, match="beta must lie in"):
            samplers.HeavyBall(beta)
    with pytest.raises(UserError, match="order must be 1 or 2"):
        samplers.HeavyBall(order=3)
