"""CFG-Zero*: the velocity of the guided belief is the published combination, zero at the first times."""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers, worlds
from langevin.guidance import cfg_zero_star
from laws.table import FAST, PROCESSES, mixture
from support import oracle

WORLD = mixture(16)
FLOW = processes.RectifiedFlow()
FREE = WORLD.denoiser(FLOW)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_published_velocity(name, scale):
    """v = (1 − w) s* v_u + w v_c, s* = ⟨v_c, v_u⟩/|v_u|² (arXiv:2503.18886 alg. 1), a sample at a time."""
    process = PROCESSES[name]
    free = WORLD.denoiser(process)
    t = process.time(torch.tensor([-3.0, 0.0, 3.0], dtype=torch.float64))
    x = WORLD.sample(3, 1, process=process, t=t)
    found = process.velocity(x, cfg_zero_star(free, label=1, guidance_scale=scale)(x, t), t)
    none, positive = (process.velocity(x, d(x, t), t) for d in (free, free.given(label=1)))
    for i in range(3):
        best = (positive[i] @ none[i]) / (none[i] @ none[i])
        known = (1 - scale) * best * none[i] + scale * positive[i]
        torch.testing.assert_close(found[i], known, rtol=1e-9, atol=1e-9 * float(known.norm()))


def test_nothing_moves_at_the_first_times():
    """v = 0 at and above the noise level: steps of Euler and DDIM stand still on a flow, and nothing is asked.

    From t = 1, where σ/α is infinite, the first step alone with ``math.inf``; at a level of 2.9 (t = 0.744) two steps.
    """
    model = oracle(WORLD, FLOW, "flow")
    grid = torch.tensor([1.0, 0.75, 0.5, 0.0], dtype=torch.float64)
    start = WORLD.sample(4, 1, process=FLOW, t=1.0)
    for level, still in ((math.inf, 1), (2.9, 2), (None, 0)):
        for sampler in (samplers.Euler(), samplers.DDIM()):
            model.counter.calls = 0
            guided = cfg_zero_star(model, label=1, guidance_scale=3.0, zero_above=level)
            states = list(langevin.trajectory(guided, sampler, grid=grid, start=start))
            for i, state in enumerate(states[1:]):
                moved = float((state.x - states[i].x).abs().max().detach())
                assert moved < 1e-12 if i < still else moved > 1e-3
            assert model.counter.calls == 2 * (3 - still)


def test_samples_at_times_of_their_own():
    """One above the level and one below, in one batch."""
    guided = cfg_zero_star(FREE, label=1, guidance_scale=3.0, zero_above=3.0)
    t = torch.tensor([0.9, 0.3], dtype=torch.float64)
    x = WORLD.sample(2, 1, process=FLOW, t=t)
    both = guided(x, t).mean
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], guided(x[i : i + 1], t[i]).mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both[0], x[0], rtol=1e-12, atol=1e-12)  # of a flow, v = 0 is x̂_0 = x_t


REFUSED = [
    (lambda: cfg_zero_star(FREE, label=1, guidance_scale=math.nan), "guidance_scale must be a finite number"),
    (lambda: cfg_zero_star(FREE, label=1, guidance_scale=2.0, zero_above=0.0), "zero_above must be a noise level"),
    (lambda: cfg_zero_star(FREE, label=1, guidance_scale=2.0, zero_above=math.nan), "zero_above must be a noise level"),
    (lambda: cfg_zero_star(FREE, guidance_scale=2.0), "condition must be given"),
    (
        lambda: cfg_zero_star(
            worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2)), label=1, guidance_scale=2.0
        ),
        r"CFG-Zero\* needs a process with `alpha",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
