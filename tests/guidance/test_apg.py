"""Adaptive projected guidance against its algorithm, written out, with and without the momentum."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.guidance import apg, classifier_free, interval, threshold
from langevin.samplers import ReverseMomentum
from laws.table import mixture
from support import oracle

WORLD = mixture(16)
PROCESS = processes.VP()
FREE = WORLD.denoiser(PROCESS)
T = 0.4


def published(conditional, none, scale, eta, radius, previous=None, beta=0.0):
    """Algorithm 1 of arXiv:2410.02416 for one sample: the guided mean, and the difference that is kept."""
    difference = conditional - none
    if previous is not None:
        difference = difference + beta * previous
    kept = difference
    norm = difference.norm()
    difference = difference * min(1.0, radius / float(norm))
    unit = conditional / conditional.norm()
    parallel = (difference @ unit) * unit
    orthogonal = difference - parallel
    return conditional + (scale - 1) * (orthogonal + eta * parallel), kept


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("radius", [0.05, math.inf])
def test_published_algorithm(eta, radius):
    """Each sample by itself, to rounding."""
    x = WORLD.sample(4, 1, process=PROCESS, t=T)
    found = apg(FREE, label=1, guidance_scale=5.0, eta=eta, norm_threshold=radius)(x, T).mean
    positive, none = FREE.given(label=1)(x, T).mean, FREE(x, T).mean
    for i in range(4):
        known, difference = published(positive[i], none[i], 5.0, eta, radius)
        assert float(difference.norm()) > 0.05  # the threshold cuts
        torch.testing.assert_close(found[i], known, rtol=1e-12, atol=1e-13)


def test_it_is_classifier_free_guidance_with_everything_kept():
    x = WORLD.sample(4, 1, process=PROCESS, t=T)
    found = apg(FREE, label=[0, 1, 2, 1], guidance_scale=5.0, eta=1.0)(x, T).mean
    known = classifier_free(FREE, label=[0, 1, 2, 1], guidance_scale=5.0)(x, T).mean
    torch.testing.assert_close(found, known, rtol=1e-12, atol=1e-12)


def test_one_call():
    model = oracle(WORLD, PROCESS, "eps")
    apg(model, label=1, guidance_scale=5.0)(WORLD.sample(4, 1, process=PROCESS, t=T), T)
    assert (model.network.calls, model.counter.calls) == (1, 2)


@pytest.mark.parametrize("beta", [-0.5, 0.3])
def test_momentum(beta):
    """DDIM with the running difference of the paper, by a loop written by hand, against the combinator."""
    grid = samplers.grids.karras(PROCESS, 5)
    start = WORLD.sample(3, 1, process=PROCESS, t=grid[0])
    guided = apg(FREE, label=1, guidance_scale=4.0, eta=0.2, norm_threshold=0.7)
    found = langevin.sample(guided, ReverseMomentum(samplers.DDIM(), beta), start=start, grid=grid)
    x, averages = start, [None] * 3
    for t, s in itertools.pairwise(grid):
        positive, none = FREE.given(label=1)(x, t).mean, FREE(x, t).mean
        rows = []
        for i in range(3):
            row, averages[i] = published(positive[i], none[i], 4.0, 0.2, 0.7, averages[i], beta)
            rows.append(row)
        mean = torch.stack(rows)
        a, b, _ = PROCESS.bridge_coefficients(t, s, 0.0)
        x = a * mean + b * x
    torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-11)


def test_momentum_is_in_the_state():
    """β = 0 changes nothing; a used sampler is as new; splits of the batch do not matter; solvers keep theirs."""
    guided = apg(FREE, label=1, guidance_scale=4.0, norm_threshold=0.7)
    for sampler in (samplers.DPMSolverPP(), samplers.Heun()):
        plain = langevin.sample(guided, sampler, n=5, steps=4, seed=2)
        still = langevin.sample(guided, ReverseMomentum(sampler, 0.0), n=5, steps=4, seed=2)
        torch.testing.assert_close(still, plain, rtol=0, atol=0)
        moving = ReverseMomentum(sampler, -0.6)
        first = langevin.sample(guided, moving, n=5, steps=4, seed=2)
        assert float((first - plain).abs().max()) > 1e-3
        torch.testing.assert_close(langevin.sample(guided, moving, n=5, steps=4, seed=2), first, rtol=0, atol=0)
        split = langevin.sample(guided, moving, n=5, steps=4, seed=2, batch=2)
        torch.testing.assert_close(split, first, rtol=1e-9, atol=1e-9)


def test_momentum_finds_apg_inside_other_functions():
    """Under a threshold, and in an interval outside of which no difference is taken."""
    free = WORLD.denoiser(processes.EDM())
    guided = apg(free, label=1, guidance_scale=4.0)
    inner = threshold(interval(free.given(label=1), guided, (0.3, 5.0)), 0.9)
    x = langevin.sample(inner, ReverseMomentum(samplers.DDIM(), -0.6), n=3, steps=8)
    assert float((x - langevin.sample(inner, samplers.DDIM(), n=3, steps=8)).abs().max()) > 1e-4


def test_its_own_rows_of_a_momentum():
    guided = langevin.guidance.with_momentum(
        apg(FREE, label=[0, 1, 2], guidance_scale=4.0), torch.randn(3, 16, dtype=torch.float64), []
    )
    x = WORLD.sample(3, 1, process=PROCESS, t=T)
    part = guided.rows(torch.tensor([2, 0]))(x[[2, 0]], T).mean
    torch.testing.assert_close(part, guided(x, T).mean[[2, 0]], rtol=1e-12, atol=1e-12)


def one_step_at_own_times():
    t, s = torch.tensor([0.5, 0.4], dtype=torch.float64), torch.tensor([0.3, 0.2], dtype=torch.float64)
    state = samplers.State(torch.zeros(2, 16, dtype=torch.float64), t)
    ReverseMomentum(samplers.DDIM()).step(state, s, apg(FREE, label=1, guidance_scale=2.0), Noise(0, 2))


CHAIN = worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2))

REFUSED = [
    (lambda: apg(FREE, label=1, guidance_scale=math.nan), "guidance_scale must be a finite number"),
    (lambda: apg(FREE, label=1, guidance_scale=1000), r"guidance_scale must lie in \[-100, 100\]"),
    (lambda: apg(FREE, label=1, guidance_scale=2.0, eta=math.inf), "eta must be a finite number"),
    (lambda: apg(FREE, label=1, guidance_scale=2.0, norm_threshold=0), "norm_threshold must be > 0"),
    (lambda: apg(FREE, guidance_scale=2.0), "condition must be given"),
    (lambda: apg(FREE, label=7, guidance_scale=2.0), r"label must lie in \[0, 4\)"),
    (lambda: apg(CHAIN, label=1, guidance_scale=2.0), "apg needs a process of real data"),
    (lambda: ReverseMomentum(3), "sampler must be a sampler"),
    (lambda: ReverseMomentum(samplers.DDIM(), math.nan), "beta must be a finite number"),
    (
        lambda: langevin.sample(FREE, ReverseMomentum(samplers.DDIM()), n=1, steps=2),
        "reverse momentum needs a denoiser under guidance.apg",
    ),
    (one_step_at_own_times, "one time for all samples"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
