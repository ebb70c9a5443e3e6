"""CFG++: DDIM under a scale that depends on the step is the published update."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers, worlds
from langevin.guidance import cfg_plus_plus
from laws.table import FAST, PROCESSES, mixture
from support import oracle

WORLD = mixture(16)
FREE = WORLD.denoiser(processes.VP())
GRID = [1.0, 0.5, 0.0]


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_published_update(name, scale):
    """x_s = α_s x̂_λ + σ_s ε̂_u with x̂_λ = x̂_u + λ (x̂_c − x̂_u) (arXiv:2406.08070 alg. 2), to rounding.

    A step's scale 1/(1 − σ_s α_t/(σ_t α_s)) is about 1/4 of a step in log-SNR, so no more than a digit is lost.
    """
    process = PROCESSES[name]
    free = WORLD.denoiser(process)
    grid = samplers.grids.karras(process, 8)
    start = WORLD.sample(4, 1, process=process, t=grid[0])
    guided = cfg_plus_plus(free, label=1, scale=scale, grid=grid)
    found = langevin.sample(guided, samplers.DDIM(), start=start, grid=grid)
    x = start
    for t, s in itertools.pairwise(grid):
        none, positive = free(x, t).mean, free.given(label=1)(x, t).mean
        noise = (x - process.alpha(t) * none) / process.sigma(t)
        x = process.alpha(s) * (none + scale * (positive - none)) + process.sigma(s) * noise
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_the_scale_of_a_step():
    """λ in the step to clean data, and λ/(1 − σ_s α_t / (σ_t α_s)) elsewhere, in one call for both conditions."""
    process = processes.EDM()
    model = oracle(WORLD, process, "edm")
    grid = torch.tensor([1.0, 0.1, 0.02, 0.0], dtype=torch.float64)
    guided = cfg_plus_plus(model, label=1, scale=0.5, grid=grid)
    torch.testing.assert_close(guided.scales, 0.5 / (1 - grid[1:] / grid[:-1]), rtol=1e-13, atol=0)
    guided(WORLD.sample(2, 1, process=process, t=0.1), 0.1)
    assert (model.network.calls, model.counter.calls) == (1, 2)


REFUSED = [
    (lambda: cfg_plus_plus(FREE, label=1, scale=2.0, grid=GRID), r"scale must lie in \[0, 1\]"),
    (lambda: cfg_plus_plus(FREE, label=1, scale=math.nan, grid=GRID), "scale must be a finite number"),
    (lambda: cfg_plus_plus(FREE, label=1, scale=0.5, grid=[0.0, 1.0]), "grid must be at least two decreasing times"),
    (lambda: cfg_plus_plus(FREE, label=1, scale=0.5, grid=[1.0]), "grid must be at least two"),
    (lambda: cfg_plus_plus(FREE, label=1, scale=0.5, grid="karras"), "grid must be decreasing times"),
    (lambda: cfg_plus_plus(FREE, scale=0.5, grid=GRID), "condition must be given"),
    (lambda: cfg_plus_plus(FREE, label=9, scale=0.5, grid=GRID), "label must lie in"),
    (
        lambda: cfg_plus_plus(FREE, label=1, scale=0.5, grid=GRID)(torch.zeros(1, 16, dtype=torch.float64), 0.7),
        "t must be a time of the grid that cfg_plus_plus was made for.*got 0.7",
    ),
    (
        lambda: cfg_plus_plus(
            worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2)), label=1, scale=0.5, grid=GRID
        ),
        r"CFG\+\+ needs a process with `alpha",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
