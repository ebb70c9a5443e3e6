"""DDIM's larger variance σ̂: the formula, its equal among DDPM's, and how much too large it is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.samplers import State

F64 = torch.float64
WORLD = worlds.random_mixture(3, components=4, rms=0.7, seed=1)


def test_the_papers_step():
    """α_s x̂_0 + √(1 − ᾱ_s − σ(1)²) ε̂ + σ̂ z with σ(1) of η = 1 and σ̂ = √(1 − ᾱ_t/ᾱ_s), in ᾱ alone."""
    process = processes.DDPM()
    t, s = torch.tensor(0.6, dtype=F64), torch.tensor(0.4, dtype=F64)
    a_t, a_s = process.alpha(t) ** 2, process.alpha(s) ** 2
    x = WORLD.sample(8, 1, process=process, t=t)
    belief = WORLD.denoiser(process)(x, t)
    one = torch.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))
    noise = process.noise(x, belief, t)
    mean = a_s.sqrt() * belief.mean + torch.sqrt(1 - a_s - one**2) * noise
    expected = mean + torch.sqrt(1 - a_t / a_s) * Noise(0, 8).normal((3,))
    ours = samplers.DDIMHat().step(State(x, t), s, WORLD.denoiser(process), Noise(0, 8)).x
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("process", [processes.VP(), processes.DDPM()], ids=lambda p: type(p).__name__)
def test_it_is_ddpm_with_beta(process):
    """Where variance is preserved σ̂² is DDPM's β on the sub-sequence: the two samplers give the same numbers."""
    grid = samplers.grids.uniform(process, 10)
    hat, large = (
        langevin.sample(WORLD.denoiser(process), rule, n=8, grid=grid)
        for rule in (samplers.DDIMHat(), samplers.DDPMLarge())
    )
    torch.testing.assert_close(hat, large, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.0, "hat"])
@pytest.mark.parametrize("steps", [10, 100])
def test_variance_on_a_gaussian(eta, steps):
    """On N(0, c) every step is linear: the variance that comes out, by the recursion written in ᾱ, against samples.

    20,000 samples: 4.5 · √(2/n) of the variance. In 10 steps uniform in log-SNR the recursion gives 1.57 c for σ̂, too
    much noise, where η = 0 and 1 give 0.59 c and 0.41 c; in 100 steps 1.04, 0.95 and 0.91.
    """
    process, c, n = processes.VP(), 0.25, 20_000
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1), c))
    grid = samplers.grids.log_snr(process, steps)
    variance = 1.0
    for t, s in itertools.pairwise(grid):
        a_t, a_s = (float(process.alpha(u) ** 2) for u in (t, s))
        gain = math.sqrt(a_t) * c / (a_t * c + 1 - a_t)  # x̂_0 = gain · x
        small = (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
        kept = small if eta == "hat" else eta**2 * small
        noise = (1 - math.sqrt(a_t) * gain) / math.sqrt(1 - a_t)  # ε̂ = noise · x
        scale = math.sqrt(a_s) * gain + math.sqrt(max(1 - a_s - kept, 0)) * noise
        added = (1 - a_t / a_s if a_s < 1 else 0.0) if eta == "hat" else kept
        variance = scale**2 * variance + added
    x = langevin.sample(world.denoiser(process), samplers.DDIM(eta), n=n, grid=grid, batch=n)
    assert abs(float(x.var()) / variance - 1) < 4.5 * math.sqrt(2 / n)
    if steps == 10:
        assert (variance > 1.5 * c) == (eta == "hat")


def test_refusals():
    for eta in ("large", -0.1, 1.5):
        with pytest.raises(UserError, match=r"eta must lie in \[0, 1\] or be 'hat', got"):
            samplers.DDIM(eta)
    denoiser = WORLD.denoiser(processes.VP())
    with pytest.raises(UserError, match="eta must be 0"):
        langevin.sample(denoiser, samplers.DDIMHat(), start=torch.zeros(1, 3), grid=[0.1, 0.5])
