"""Strong order: samplers of stochastic equations on one Brownian path, refined."""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers
from langevin.distributions import BrownianPath
from langevin.worlds import random_mixture
from support import thinned

F64 = torch.float64
PROCESSES = {"vp": processes.VP(), "edm": processes.EDM(sigma_max=4.0), "flow": processes.RectifiedFlow()}
RULES = {
    "euler-maruyama": (samplers.EulerMaruyama(), 1.0),
    "euler-maruyama, half the noise": (samplers.EulerMaruyama(eta=0.5), 1.0),
    "ddim, eta 1": (samplers.DDIM(eta=1.0), 1.0),
    "ddpm": (samplers.DDPM(), 1.0),
    "ddpm, variance β": (samplers.DDPMLarge(), 1.0),
    "multistep, order 1": (samplers.Multistep(order=1, eta=0.5), 1.0),
    "multistep, eps": (samplers.Multistep("eps", order=1, eta=1.0), 1.0),
    "reverse-diffusion": (samplers.ReverseDiffusion(), 1.0),
    "dpmpp-2m-sde": (samplers.DPMSolverPPSDE(), 1.0),
}
COUNTS, FINE = (16, 32, 64), 1024


def endpoint(process, rule, steps, samples=48):
    """The state at the end of one path of each sample, in so many steps of a grid that halves the coarsest one."""
    world = random_mixture(2, components=3, rms=0.7, seed=1)
    first, last = 0.8, 0.2
    coarsest = torch.linspace(first, last, COUNTS[0] + 1, dtype=F64)
    path = BrownianPath(4, samples, knots=coarsest)
    start = world.sample(samples, 1, process=process, t=first)
    grid = torch.linspace(first, last, steps + 1, dtype=F64)
    *_, state = langevin.trajectory(world.denoiser(process), rule, grid=grid, start=start, noise=path)
    return state.x


@pytest.mark.parametrize("process", thinned(PROCESSES, 3))
def test_strong_order(process):
    """E|x_n − x_∞| falls like 1/n: the noise of these equations does not depend on the state, so that Euler–Maruyama,
    of strong order ½ in general, is of order 1 (Kloeden & Platen 1992, §10.3).

    The truth is 1,024 steps on the same path, whose own error is 1/16 of that of 64: a slope of 1 is seen as
    log₄ (1/16 − 1/1024)/(1/64 − 1/1024) = 1.035. The mean is over the same 48 paths at every n.
    """
    rule, order = RULES["euler-maruyama"]
    truth = endpoint(PROCESSES[process], rule, FINE)
    errors = [float((endpoint(PROCESSES[process], rule, n) - truth).norm(dim=1).mean()) for n in COUNTS]
    slope = math.log(errors[0] / errors[-1]) / math.log(COUNTS[-1] / COUNTS[0])
    assert abs(slope - order) < 0.25, (slope, errors)


@pytest.mark.parametrize("rule", RULES)
def test_a_refined_grid_walks_the_same_path(rule):
    """The endpoints of 64 and of 128 steps differ by a fraction of what two paths differ by; on plain noise, by all."""
    rule, _ = RULES[rule]
    process = PROCESSES["vp"]
    coarse, fine = endpoint(process, rule, 64), endpoint(process, rule, 128)
    assert (coarse - fine).norm(dim=1).mean() < 0.1 * (coarse - coarse.roll(1, 0)).norm(dim=1).mean()


@pytest.mark.parametrize(
    ("one", "other"),
    thinned([("ddpm", "ddim, eta 1"), ("dpmpp-2m-sde", "ddim, eta 1"), ("reverse-diffusion", "multistep, eps")], 3),
)
def test_rules_of_one_brownian_time_end_in_one_place(one, other):
    """Both solve the reverse SDE, driven by W(σ²/α²), or by W(α²/σ²): they end where its solution does.

    At 1,024 steps the strong error is about 1/1024 of the size of the data; in different Brownian times the paths have
    nothing in common.
    """
    process = PROCESSES["vp"]
    ends = [endpoint(process, RULES[name][0], FINE) for name in (one, other)]
    assert (ends[0] - ends[1]).norm(dim=1).mean() < 0.01


@pytest.mark.parametrize("rule", thinned([r for r in RULES if not r.startswith("euler") and "order 1" not in r], 6))
def test_strong_order_in_log_snr(rule):
    """Exponential integrators of the reverse equation, each in the Brownian time of its noise.

    DDIM at η = 1 is the first of them. The values of x̂_0 along a path are as rough as the path, so that taking two of
    them leaves the strong order at 1.
    """
    rule, order = RULES[rule]
    truth = endpoint(PROCESSES["vp"], rule, FINE)
    errors = [float((endpoint(PROCESSES["vp"], rule, n) - truth).norm(dim=1).mean()) for n in COUNTS]
    slope = math.log(errors[0] / errors[-1]) / math.log(COUNTS[-1] / COUNTS[0])
    assert abs(slope - order) < 0.25, (slope, errors)


def test_sample_takes_a_path():
    """``sample`` splits a path into batches: the same numbers for any split, and for some samples alone."""
    world = random_mixture(4, components=3, seed=1)
    denoiser = world.denoiser(processes.VP())
    draw = lambda **how: langevin.sample(denoiser, samplers.DDIM(eta=1.0), steps=6, **how)
    whole = draw(noise=BrownianPath(2, 7))
    torch.testing.assert_close(draw(noise=BrownianPath(2, 7), batch=3), whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(draw(noise=BrownianPath(2, torch.tensor([5, 2]))), whole[[5, 2]], rtol=1e-9, atol=1e-9)
    assert not torch.equal(draw(seed=2, n=7), whole)


def test_a_grid_too_fine_is_refused():
    denoiser = random_mixture(2, components=3, seed=1).denoiser(processes.VP())
    with pytest.raises(UserError, match="depth must be more than 5"):
        langevin.sample(denoiser, samplers.EulerMaruyama(), steps=40, noise=BrownianPath(0, 3, depth=5))
