"""Guidance in an interval of noise levels: inside the guided belief, outside the plain one, asked alone."""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.guidance import Interval, classifier_free, interval, noise_level
from laws.table import mixture
from support import oracle

WORLD = mixture(2)
PROCESSES = [processes.VP(), processes.EDM(), processes.RectifiedFlow(), processes.VE(), processes.PhaseSpace()]


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_the_interval_is_one_of_noise_levels(process):
    """At σ/α = 1.001·low and 0.999·high guided, at 0.999·low and 1.001·high plain: on every process the same levels."""
    free = WORLD.denoiser(process)
    plain = free.given(label=1)
    guided = classifier_free(free, label=1, guidance_scale=3.0, interval=(0.3, 5.0))
    inside = classifier_free(free, label=1, guidance_scale=3.0)
    for level, chosen in ((0.2997, plain), (0.3003, inside), (4.995, inside), (5.005, plain)):
        t = process.time(-2 * math.log(level))
        torch.testing.assert_close(float(noise_level(process, t)), level, rtol=1e-9, atol=0)
        x = WORLD.sample(3, 1, process=process, t=t)
        torch.testing.assert_close(guided(x, t).mean, chosen(x, t).mean, rtol=0, atol=0)


def test_ends():
    """t = 0 has level 0 and the flow's t = 1 an infinite one: both belong to (0, ∞)."""
    process = processes.RectifiedFlow()
    assert float(noise_level(process, f64(0.0))) == 0
    assert float(noise_level(process, f64(1.0))) == math.inf
    guided = classifier_free(WORLD.denoiser(process), label=1, guidance_scale=3.0, interval=(0, math.inf))
    assert guided.plain is not guided.guided
    x = torch.zeros(2, 2, dtype=torch.float64)
    known = classifier_free(WORLD.denoiser(process), label=1, guidance_scale=3.0)
    torch.testing.assert_close(guided(x, 1.0).mean, known(x, 1.0).mean, rtol=0, atol=0)


def test_outside_it_costs_one_evaluation():
    """Twenty steps of which some are guided: one evaluation each, one more inside."""
    process = processes.EDM()
    model = oracle(WORLD, process, "edm")
    grid = samplers.grids.karras(process, 20)
    levels = grid[:-1] * process.sigma_max
    count = int(((levels >= 0.3) & (levels <= 5)).sum())
    assert 0 < count < 20
    guided = classifier_free(model, label=1, guidance_scale=3.0, interval=(0.3, 5.0))
    langevin.sample(guided, samplers.DDIM(), n=2, grid=grid)
    assert model.counter.calls == 20 + count
    assert model.network.calls == 20


def test_samples_at_times_of_their_own():
    """Rows inside and outside in one batch: each has its own belief, whole where it is whole, and its own label."""
    process, labels = processes.EDM(), torch.tensor([0, 1, 2])
    free = WORLD.denoiser(process)
    guided = interval(free.given(label=labels), classifier_free(free, label=labels, guidance_scale=3.0), (0.3, 5.0))
    t = process.time(-2 * torch.log(f64([1.0, 0.1, 0.2])))
    x = WORLD.sample(3, 1, process=process, t=t)
    law = guided(x, t)
    alone = [guided.rows(slice(i, i + 1))(x[i : i + 1], t[i]) for i in range(3)]
    for rest in (lambda b: b.mean, lambda b: b.cov.dense((2,))):
        torch.testing.assert_close(rest(law), torch.cat([rest(b) for b in alone]), rtol=1e-12, atol=1e-14)
    noise, s = Noise(3, 3), 0.5 * t
    step = process.reverse(x, law, t, s).sample(noise)
    for i in range(3):
        own = process.reverse(x[i : i + 1], alone[i], t[i], s[i]).sample(noise.rows(slice(i, i + 1)))
        torch.testing.assert_close(step[i : i + 1], own, rtol=1e-12, atol=1e-14)
    outside = law.parts[1]
    assert outside[0].tolist() == [1, 2]


def test_any_two_denoisers():
    """``interval`` takes any two beliefs of one process, and a condition that both take is bound to both."""
    process = processes.VP()
    free = WORLD.denoiser(process)
    both = interval(free, free.given(label=2), (0.5, 2.0)).given(label=1)
    assert isinstance(both, Interval)
    x = WORLD.sample(3, 1, process=process, t=0.3)
    torch.testing.assert_close(both(x, 0.3).mean, free.given(label=1)(x, 0.3).mean, rtol=0, atol=0)


FREE = WORLD.denoiser(processes.VP())
CHAIN = worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2))

REFUSED = [
    (lambda: interval(FREE, FREE, (5.0, 0.3)), r"interval must have 0 <= low < high.*got \(5.0, 0.3\)"),
    (lambda: interval(FREE, FREE, (1.0, 1.0)), "interval must have"),
    (lambda: interval(FREE, FREE, (-1.0, 1.0)), "interval must have"),
    (lambda: interval(FREE, FREE, (math.nan, 1.0)), r"interval\[0\] must be a finite number"),
    (lambda: interval(FREE, FREE, (0.0, math.nan)), "interval must have"),
    (lambda: interval(FREE, FREE, 3.0), r"interval must be a pair \(low, high\)"),
    (lambda: interval(FREE, FREE, (1.0, 2.0, 3.0)), r"interval must be a pair \(low, high\)"),
    (lambda: interval(FREE, 3, (1.0, 2.0)), "guided must be a denoiser"),
    (lambda: interval(FREE, WORLD.denoiser(processes.EDM()), (1.0, 2.0)), "must be of one process and shape"),
    (
        lambda: interval(CHAIN, CHAIN, (0.1, 1.0)),
        "interval needs a process with a noise level σ/α, which Absorbing",
    ),
    (lambda: classifier_free(FREE, label=1, guidance_scale=2.0, interval=(5.0, 0.3)), "interval must have"),
    (lambda: classifier_free(FREE, label=1, guidance_scale=1.0, interval=(5.0, 0.3)), "interval must have"),
    (lambda: classifier_free(CHAIN, label=1, guidance_scale=2.0, interval=(0.3, 5.0)), "noise level"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
