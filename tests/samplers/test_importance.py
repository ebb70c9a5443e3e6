"""Solvers that reach the posterior where it has no closed form, Poisson noise and JPEG: by importance weights."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from test_inverse import Squared, chain

from langevin import operators as O
from langevin import processes, worlds
from langevin.samplers import SplitGibbs
from langevin.samplers.particles import smc_posterior

VP, EDM = processes.VP(), processes.EDM()
PAIR = worlds.GaussianMixture(
    torch.tensor([0.5, 0.3, 0.2]),
    torch.tensor([[-0.7, 0.2], [0.5, 0.6], [0.3, -0.8]]),
    torch.tensor([[0.1, 0.2], [0.3, 0.06], [0.1, 0.1]]),
)
"""Three components in the plane, none finer than 0.2, so that weights have short tails."""


def weighed(world, log_likelihood, n):
    """log p(y), E[x | y] and the standard error of both, by n draws of the prior, weighted by their likelihoods."""
    x = world.sample(n, 99)
    log_w = log_likelihood(x)
    log_z = float(torch.logsumexp(log_w, 0)) - math.log(n)
    w = torch.softmax(log_w, 0)[:, None]
    mean = (w * x).sum(0)
    error_of_z = math.sqrt(float(n * (w**2).sum()) - 1) / math.sqrt(n)
    return log_z, mean, error_of_z, torch.sqrt((w**2 * (x - mean) ** 2).sum(0))


def weighs_the_same(found, world, log_likelihood, n):
    """Evidence and every mean of ``found`` within 5 standard errors of importance weights, both sides' errors counted.

    Of populations as in ``agrees``; of weights w of n draws the relative error of their mean is √(n Σw² − 1)/√n and
    that of E[x | y] √Σ w²(x − m)². Both are normal here, by the central limit, so that one of 64 numbers is beyond 5
    with a probability of 4e-5. The measurement matters: some mean is moved from the prior's by more than 10 of them.
    """
    log_z, mean, error_of_z, error = weighed(world, log_likelihood, n)
    z = (found.log_evidence - log_z).exp()
    count = math.sqrt(found.populations)
    assert abs(float(z.mean()) - 1) < 5 * math.hypot(float(z.std()) / count, error_of_z)
    each = (torch.softmax(found.log_weights, 1)[..., None] * found.x).sum(1)
    whole = (z[:, None] * each).sum(0) / z.sum()
    own = (z[:, None] * (each - whole) / z.mean()).std(0) / count
    both = torch.sqrt(own**2 + error**2)
    assert bool(((whole - mean).abs() < 5 * both).all()), ((whole - mean) / both).abs().max()
    assert float(((mean - world.mean).abs() / both).max()) > 10


def test_poisson_noise_against_importance_weights():
    """Counts of two sums of the coordinates."""
    operator = O.Matrix(torch.tensor([[0.5, 0.2], [-0.1, 0.4]], dtype=torch.float64))
    noise = O.PoissonNoise(30.0, 1.5)
    y = O.measure(operator, PAIR.sample(1, seed=2), noise, seed=1).y
    found = smc_posterior(PAIR.denoiser(VP), operator, y, noise, n=64, steps=10, populations=64, seed=3)
    counts = lambda x: torch.from_numpy(stats.poisson(30.0 * (x @ operator.values.mT + 1.5)).logpmf(y).sum(1))
    weighs_the_same(found, PAIR, counts, 200_000)


@pytest.mark.parametrize("quality", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_jpeg_against_importance_weights(quality):
    """Three kinds of 8×8 pictures; gradients go straight through the roundings, so they only propose."""
    means = 0.5 * torch.randn(3, 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    world = worlds.GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), means, torch.full((3,), 0.04))
    operator = O.Reshaped(O.JPEG(quality), (1, 8, 8))
    y = O.measure(operator, world.sample(1, seed=4), 2.0, seed=1).y
    found = smc_posterior(world.denoiser(VP), operator, y, 2.0, n=32, steps=8, populations=64, seed=3)
    density = lambda x: torch.from_numpy(stats.norm(operator(x), 2.0).logpdf(y).sum((1, 2, 3)))
    weighs_the_same(found, world, density, 40_000)


@pytest.mark.parametrize(
    ("operator", "noise"),
    [
        (O.Matrix(torch.tensor([[0.5, 0.2], [-0.1, 0.4]], dtype=torch.float64)), O.PoissonNoise(30.0, 1.5)),
        (Squared(torch.tensor([[1.0, 0.5]], dtype=torch.float64)), 0.3),
    ],
    ids=["poisson", "not linear"],
)
def test_split_gibbs_keeps_what_importance_weights_say(operator, noise):
    """The chain of one ρ keeps p(x) N(z; x, ρ²I) p(y | z), by exact draws of x and accepted steps for z.

    That law by weights: pairs of x of the prior and z = x + ρε have the weights p(y | z), here 200,000 of them, of
    which 4,000 are drawn again. After four rounds at ρ = 0.3, which move z by half the data's size, means and squares
    of x are within 5 standard errors of the weights': √(var/4000) of the chain and √Σ w²(f − m)² of the weights.
    """
    rho, n = 0.3, 4000
    m = O.measure(operator, PAIR.sample(1, 6), noise, seed=1)
    x = PAIR.sample(200_000, 3)
    z = x + rho * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w = torch.softmax(m.log_prob(z), 0)
    again = torch.multinomial(w, n, replacement=True, generator=torch.Generator().manual_seed(2))
    assert 1 / float((w**2).sum()) > n
    moved = chain(SplitGibbs(m, langevin=20), rho, x[again], PAIR.denoiser(EDM), 4)
    assert float((moved - x[again]).square().sum(1).mean().sqrt()) > rho
    for power in (1, 2):
        f, found = x**power, moved**power
        mean = (w[:, None] * f).sum(0)
        error = torch.sqrt((w[:, None] ** 2 * (f - mean) ** 2).sum(0) + found.var(0) / n)
        assert ((found.mean(0) - mean).abs() < 5 * error).all()
