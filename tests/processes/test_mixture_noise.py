"""Mixture noise: its laws against sums of normals and quadrature, its bridge against Bayes, exact on a finite world."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

import langevin
from langevin import Noise, UserError, samplers, worlds
from langevin.distributions.levy import TAIL, counts
from langevin.processes import VE, VP, MixtureNoise, PhaseSpace, RectifiedFlow
from support import assert_law

N = 8000
PROCESSES = {
    "vp": MixtureNoise(),
    "heavy": MixtureNoise(VP(), 0.9, 2.0, 3.0),
    "ve": MixtureNoise(VE(0.01, 5.0), 0.3, 0.2, 40.0),
}
EACH = pytest.mark.parametrize("name", PROCESSES)
PAIRS = [(0.05, 0.2), (0.2, 0.7), (0.7, 0.99), (0.05, 1.0)]


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


def parts(process, t, s=0.0):
    """(α_t, variance of the Brownian part, mean number of jumps) from s to t, from the definition in numbers."""
    a, v = float(process.alpha(t)), [(float(process.sigma(u)) / float(process.alpha(u))) ** 2 for u in (s, t)]
    rates = [min(process.share * u / process.size**2, process.jumps) for u in v]
    return a, v[1] - v[0] - (rates[1] - rates[0]) * process.size**2, rates[1] - rates[0]


def components(process, t, s=0.0):
    """Weights and standard deviations of α_t (L_t − L_s), far beyond where the library ends."""
    a, w, rate = parts(process, t, s)
    n = np.arange(200)
    n = n[stats.poisson.pmf(n, rate) > 1e-25]
    return stats.poisson.pmf(n, rate), a * np.sqrt(w + n * process.size**2)


def pdf(process, x, mean, t, s=0.0):
    p, sd = components(process, t, s)
    return (p * np.exp(-0.5 * ((np.asarray(x)[..., None] - mean) / sd) ** 2) / (math.sqrt(2 * math.pi) * sd)).sum(-1)


def cdf(process, mean, t):
    """The cdf of the marginal at t about this mean."""
    p, sd = components(process, t)
    return lambda x: sum(w * special.ndtr((x - mean) / c) for w, c in zip(p, sd))


@EACH
def test_marginal(name):
    """Mean α x_0 and variance σ² of the base, the density and the law of draws; excess kurtosis 3 h⁴ λ (α/σ)⁴."""
    process = PROCESSES[name]
    for t in (0.05, 0.4, 1.0):
        law = process.marginal(f64([[0.7]]), t)
        alpha, sigma = float(process.base.alpha(f64(t))), float(process.base.sigma(f64(t)))
        assert float(law.mean) == pytest.approx(0.7 * alpha, rel=1e-14)
        assert float(law.cov.variance) == pytest.approx(sigma**2, rel=1e-12)
        x = 0.7 * alpha + sigma * f64([[-3.0], [-0.1], [0.0], [1.0], [6.0]])
        # The tail left out is 2⁻⁵³ of the mass, of which a far state may see as much as its density is small.
        known = np.log(pdf(process, x[:, 0], 0.7 * alpha, t))
        np.testing.assert_allclose(law.log_prob(x), known, rtol=1e-11, atol=1e-11)
        x = law.sample(Noise(1, N))
        assert_law(x, cdf(process, 0.7 * alpha, t))
        p, sd = components(process, t)
        kurtosis = 3 * (p * sd**4).sum() / (p * sd**2).sum() ** 2 - 3
        assert kurtosis == pytest.approx(3 * process.size**4 * parts(process, t)[2] * (alpha / sigma) ** 4, rel=1e-9)


@EACH
def test_transition_adds_an_increment(name):
    """x_s by the marginal, then x_t by the transition: the marginal at t, by draws and by quadrature of the densities.

    Chapman–Kolmogorov on 40,001 points: the trapezoid rule of smooth densities whose narrowest has 50 points a standard
    deviation is exact to rounding, and a span of ±40 of them leaves out less.
    """
    process = PROCESSES[name]
    for s, t in PAIRS:
        x_s = process.marginal(f64([[0.7]]), s).sample(Noise(2, N))
        x_t = process.transition(x_s, s, t).sample(Noise(2, N, 1))
        assert_law(x_t, cdf(process, 0.7 * float(process.alpha(t)), t))
    for s, t in PAIRS[1:3]:
        (_, low), (_, high) = components(process, s), components(process, t, s)
        ratio = float(process.alpha(t)) / float(process.alpha(s))
        step = min(low[0], high[0] / ratio) / 20
        grid = f64(np.arange(-20_000, 20_001) * step)[:, None] + 0.7 * float(process.alpha(s))
        at = f64([[0.3]])
        first = process.marginal(f64([[0.7]]), s).log_prob(grid)
        second = process.transition(grid, s, t).log_prob(at.expand_as(grid))
        total = float(((first + second).exp() * step).sum())
        assert math.log(total) == pytest.approx(float(process.marginal(f64([[0.7]]), t).log_prob(at)), abs=1e-9)


@EACH
def test_bridge_is_bayes_rule(name):
    """log q(x_s | x_t, x_0) = log q(x_s | x_0) + log q(x_t | x_s) − log q(x_t | x_0), at states of the process."""
    process = PROCESSES[name]
    x0 = f64([[0.7], [-0.2], [0.0]])
    for s, t in PAIRS:
        x_s = process.marginal(x0, s).sample(Noise(3, 3))
        x_t = process.transition(x_s, s, t).sample(Noise(3, 3, 1))
        bayes = (
            process.marginal(x0, s).log_prob(x_s)
            + process.transition(x_s, s, t).log_prob(x_t)
            - process.marginal(x0, t).log_prob(x_t)
        )
        # The densities' quadratic forms are below 100, known to a rounding of x relative to their width: 1e-13 · 100.
        torch.testing.assert_close(process.bridge(x_t, x0, t, s).log_prob(x_s), bayes, rtol=1e-10, atol=1e-10)


@EACH
def test_bridge_keeps_the_marginal(name):
    """x_t by the marginal, then x_s by the bridge: the marginal at s."""
    process = PROCESSES[name]
    x0 = f64([[0.7]])
    for s, t in PAIRS:
        x_t = process.marginal(x0, t).sample(Noise(4, N))
        x_s = process.bridge(x_t, x0.expand(N, 1), t, s).sample(Noise(4, N, 1))
        assert_law(x_s, cdf(process, 0.7 * float(process.alpha(s)), s))


@EACH
def test_exact_for_a_finite_world(name):
    """The belief of points is Bayes' rule; through it, and by the default sampler, come the points in their shares."""
    process = PROCESSES[name]
    points, weights = f64([[-1.0], [0.2], [0.7]]), f64([0.5, 0.2, 0.3])
    world = worlds.Empirical(points, weights)
    denoiser, a = world.denoiser(process), float(process.alpha(0.6))
    x_t = world.sample(6, 1, process=process, t=0.6)
    joint = weights.numpy() * np.stack([pdf(process, x_t[:, 0], a * float(p), 0.6) for p in points], -1)
    known = joint / joint.sum(-1, keepdims=True)
    np.testing.assert_allclose(denoiser(x_t, 0.6).log_weights.exp(), known, rtol=0, atol=1e-10)
    for steps in (1, 4):
        start = world.sample(N // 4, 5, process=process, t=1.0)
        x = langevin.sample(denoiser, start=start, steps=steps)
        nearest = (x - points[:, 0]).abs().argmin(1)
        torch.testing.assert_close(x, points[nearest], rtol=0, atol=1e-9)
        share = torch.bincount(nearest, minlength=3) / len(x)
        assert ((share - weights).abs() < 5 * torch.sqrt(weights * (1 - weights) / len(x))).all()


@EACH
def test_ends_and_standing_still(name):
    """At t = 0 the data, at s = 0 of a bridge x_0, and s = t the identity."""
    process = PROCESSES[name]
    x, x0 = f64([[0.5, -1.0]]), f64([[0.4, 0.1]])
    assert torch.equal(process.marginal(x0, 0.0).sample(Noise(0, 1)), x0)
    assert torch.equal(process.bridge(x, x0, 0.5, 0.0).sample(Noise(0, 1)), x0)
    for t in (0.0, 0.5, 1.0):
        x_t = process.marginal(x0, t).sample(Noise(0, 1))
        torch.testing.assert_close(process.transition(x_t, t, t).sample(Noise(0, 1)), x_t, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(process.bridge(x_t, x0, t, t).sample(Noise(0, 1)), x_t, rtol=1e-12, atol=1e-12)


@EACH
def test_time_stays_with_its_sample(name):
    process = PROCESSES[name]
    x0 = f64([[0.5, -1.0], [0.2, 0.3]])
    s, t = f64([0.1, 0.6]), f64([0.9, 0.7])
    x_t, noise = process.marginal(x0, t).sample(Noise(0, 2)), Noise(1, 2)
    for answer in (
        lambda x, x0, t, s: process.marginal(x0, t),
        lambda x, x0, t, s: process.transition(x0, s, t),
        lambda x, x0, t, s: process.bridge(x, x0, t, s),
    ):
        both = answer(x_t, x0, t, s)
        for i in range(2):
            alone, row = answer(x_t[i : i + 1], x0[i : i + 1], t[i], s[i]), slice(i, i + 1)
            torch.testing.assert_close(both.mean[row], alone.mean, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(both.cov.diagonal((2,))[row], alone.cov.diagonal((2,)), rtol=1e-9, atol=0)
            torch.testing.assert_close(both.sample(noise)[row], alone.sample(noise.rows(row)), rtol=1e-12, atol=1e-12)


def test_counts_leave_out_less_than_a_rounding():
    """P(N ≥ counts) ≤ 2⁻⁵³ by scipy, for means up to the most, and no count fewer would do."""
    for rate in (1e-3, 0.5, 8.0, 40.0, 1000.0):
        assert stats.poisson.sf(counts(rate) - 1, rate) <= TAIL < stats.poisson.sf(counts(rate) - 2, rate)


def test_a_step_may_be_of_floats():
    """In float32 the mean of a bridge is that of float64, to some roundings of states of size 1.

    A rounding of x_t counts α_s/α_t times in G_t, of which the bridge leaves V_s/V_t: α_t σ_s² / (α_s σ_t²) ≤ 1.
    """
    process = PROCESSES["vp"]
    x0 = f64([[0.5, -1.0]])
    for s, t in PAIRS:
        x_t = process.marginal(x0, t).sample(Noise(6, 1))
        exact, found = process.bridge(x_t, x0, t, s), process.bridge(x_t.float(), x0.float(), t, s)
        assert found.sample(Noise(0, 1)).dtype == torch.float32
        torch.testing.assert_close(found.mean.double(), exact.mean, rtol=0, atol=64 * 2**-24)


REFUSED = [
    (lambda: MixtureNoise(share=0.0), r"share must lie in \(0, 1\), got 0.0"),
    (lambda: MixtureNoise(share=1.0), r"share must lie in \(0, 1\), got 1.0"),
    (lambda: MixtureNoise(size=0.0), "size must be > 0, got 0.0"),
    (lambda: MixtureNoise(size=math.inf), "size must be > 0"),
    (lambda: MixtureNoise(jumps=0.0), r"jumps must lie in \(0, 1000\], got 0.0"),
    (lambda: MixtureNoise(jumps=1001.0), r"jumps must lie in \(0, 1000\]"),
    (lambda: MixtureNoise(RectifiedFlow()), r"base must keep alpha\(1\) > 0 for MixtureNoise, got RectifiedFlow"),
    (lambda: MixtureNoise(PhaseSpace()), "base must be a scalar-Gaussian process, got PhaseSpace"),
    (lambda: MixtureNoise().bridge(torch.ones(1, 1), torch.ones(1, 1), 0.5, 0.1, 0.0), "eta must be 1 for MixtureN"),
    (lambda: samplers.sample(worlds.Empirical(torch.ones(1, 2)).denoiser(MixtureNoise()), "ddim"), "DDIM needs a proc"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
