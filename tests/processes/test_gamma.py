"""Gamma noise: its densities against Bayes' rule, its Beta split against the marginal, exact on a finite world."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from langevin import Noise, UserError, worlds
from langevin.processes import DDPM, VE, VP, GammaNoise, PhaseSpace, RectifiedFlow
from support import assert_law

N = 20_000
PROCESSES = {
    "vp": GammaNoise(),
    "skewed": GammaNoise(VP(), 2.0),
    "ve": GammaNoise(VE(0.01, 5.0), 0.5),
    "ddpm": GammaNoise(DDPM(), 0.3),
}
EACH = pytest.mark.parametrize("name", PROCESSES)
PAIRS = [(0.05, 0.2), (0.2, 0.7), (0.7, 0.99), (0.05, 1.0)]


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


def edge(process, x0, t):
    """Where G = 0."""
    return float(process.alpha(t)) * (x0 - process.theta * float(process.concentration(t)))


def cdf(process, x0, t):
    """The cdf of α (x_0 + θ (G − k))."""
    a, k = float(process.alpha(t)), float(process.concentration(t))
    return stats.gamma(k, loc=a * (x0 - process.theta * k), scale=a * process.theta).cdf


@EACH
def test_marginal(name):
    """Mean α x_0, variance σ², skewness 2θα/σ, and the law itself."""
    process = PROCESSES[name]
    for t in (0.05, 0.4, 1.0):
        law = process.marginal(f64([[0.7]]), t)
        alpha, sigma = float(process.base.alpha(f64(t))), float(process.base.sigma(f64(t)))
        # α θ k is up to σ²/(θα) = 1e5, of which 1e-16 is lost
        assert float(law.mean) == pytest.approx(0.7 * alpha, abs=1e-9)
        assert float(law.cov.variance) == pytest.approx(sigma**2, rel=1e-12)
        assert 2 / math.sqrt(float(law.concentration)) == pytest.approx(2 * process.theta * alpha / sigma, rel=1e-12)
        assert_law(law.sample(Noise(1, N)), cdf(process, 0.7, t), [edge(process, 0.7, t)])


@EACH
def test_transition_adds_an_increment(name):
    """x_s by the marginal, then x_t by the transition: the marginal at t."""
    process = PROCESSES[name]
    for s, t in PAIRS:
        x_s = process.marginal(f64([[0.7]]), s).sample(Noise(2, N))
        x_t = process.transition(x_s, s, t).sample(Noise(2, N, 1))
        assert_law(x_t, cdf(process, 0.7, t), [edge(process, 0.7, t)])


@EACH
def test_bridge_is_bayes_rule(name):
    """log q(x_s | x_t, x_0) = log q(x_s | x_0) + log q(x_t | x_s) − log q(x_t | x_0), at states of the process."""
    process = PROCESSES[name]
    x0 = f64([[0.7], [-0.2], [0.0]])
    for s, t in PAIRS:
        if float(process.concentration(s)) < 0.1:
            continue  # G_s itself is not resolved: see above
        x_s = process.marginal(x0, s).sample(Noise(3, 3))
        x_t = process.transition(x_s, s, t).sample(Noise(3, 3, 1))
        bayes = (
            process.marginal(x0, s).log_prob(x_s)
            + process.transition(x_s, s, t).log_prob(x_t)
            - process.marginal(x0, t).log_prob(x_t)
        )
        # lgamma of k is about k log k: at k = 1e6 its difference keeps 1e-16 · 1e7. And G_s and the rest of G_t are
        # read off x to a rounding of x and of k, on which their densities depend as (k − 1)/G.
        k, k_s = float(process.concentration(t)), float(process.concentration(s))
        g_t, g_s = (
            (x / float(process.alpha(u)) - x0) / process.theta + float(process.concentration(u))
            for x, u in ((x_t, t), (x_s, s))
        )
        slope = abs(k_s - 1) / g_s + abs(k - k_s - 1) / (g_t - g_s)
        rounding = 8 * 2**-52 * (float(x_s.abs().max()) / float(process.alpha(s)) / process.theta + k)
        tolerance = 1e-10 + 1e-14 * k * math.log(k + 2) + rounding * float(slope.max())
        torch.testing.assert_close(process.bridge(x_t, x0, t, s).log_prob(x_s), bayes, rtol=1e-10, atol=tolerance)


@EACH
def test_bridge_keeps_the_marginal(name):
    """x_t by the marginal, then x_s by the Beta split: the marginal at s."""
    process = PROCESSES[name]
    x0 = f64([[0.7]])
    for s, t in PAIRS:
        x_t = process.marginal(x0, t).sample(Noise(4, N))
        x_s = process.bridge(x_t, x0.expand(N, 1), t, s).sample(Noise(4, N, 1))
        assert_law(x_s, cdf(process, 0.7, s), [edge(process, 0.7, s)])


@EACH
def test_exact_for_a_finite_world(name):
    """From x_t of a set of points through the whole belief: x_s has the mixture law, and at s = 0 the set's shares."""
    process = PROCESSES[name]
    points, weights = f64([[-1.0], [0.2], [0.7]]), f64([0.5, 0.2, 0.3])
    world = worlds.Empirical(points, weights)
    x = world.sample(N, 5, process=process, t=0.7)
    # through times at which most of G is below the rounding of x: found there, a belief that was not a number
    for i, (t, s) in enumerate([(0.7, 0.2), (0.2, 0.01), (0.01, 1e-4), (1e-4, 0.0)], 1):
        belief = world.denoiser(process)(x, t)
        assert belief.log_weights.exp().isfinite().all()
        x = process.reverse(x, belief, t, s).sample(Noise(5, N, i))
        if s == 0.2:
            mixture = lambda y: sum(float(w) * cdf(process, float(p), 0.2)(y) for w, p in zip(weights, points[:, 0]))
            assert_law(x, mixture, [edge(process, float(p), 0.2) for p in points[:, 0]])
    for w, p in zip(weights, points):
        share = float(((x - p).abs() < 1e-12).double().mean())
        assert abs(share - float(w)) < 5 * math.sqrt(float(w * (1 - w)) / N)


@EACH
def test_belief_is_bayes_rule(name):
    """p(n | x_t) of a finite world against scipy's densities."""
    process = PROCESSES[name]
    points, weights = f64([[-0.1], [0.0], [0.1]]), f64([0.5, 0.2, 0.3])
    world = worlds.Empirical(points, weights)
    x_t = world.sample(6, 1, process=process, t=0.6)
    a, k = float(process.alpha(0.6)), float(process.concentration(0.6))
    loc = a * (points[:, 0] - process.theta * k).numpy()
    log = np.log(weights.numpy()) + stats.gamma.logpdf(x_t.numpy(), k, loc=loc, scale=a * process.theta)
    expected = torch.softmax(torch.as_tensor(log), -1)
    torch.testing.assert_close(world.denoiser(process)(x_t, 0.6).log_weights.exp(), expected, rtol=0, atol=1e-9)
    known = torch.logsumexp(torch.as_tensor(log), -1)
    torch.testing.assert_close(world.log_prob(x_t, process, 0.6), known, rtol=1e-9, atol=1e-9)


@EACH
def test_ends_and_standing_still(name):
    """At t = 0 the data, at s = 0 of a bridge x_0, and s = t the identity."""
    process = PROCESSES[name]
    x, x0 = f64([[0.5, -1.0]]), f64([[0.4, 0.1]])
    assert torch.equal(process.marginal(x0, 0.0).sample(Noise(0, 1)), x0)
    torch.testing.assert_close(process.bridge(x, x0, 0.5, 0.0).sample(Noise(0, 1)), x0, rtol=0, atol=1e-13)
    for t in (0.0, 0.5, 1.0):
        for start in (x, process.marginal(x0, t).sample(Noise(0, 1))):
            moved = process.transition(start, t, t).sample(Noise(0, 1))
            torch.testing.assert_close(moved, start, rtol=1e-12, atol=1e-12)
        x_t = process.marginal(x0, t).sample(Noise(0, 1))
        torch.testing.assert_close(process.bridge(x_t, x0, t, t).sample(Noise(0, 1)), x_t, rtol=1e-9, atol=1e-9)


@EACH
def test_time_stays_with_its_sample(name):
    process = PROCESSES[name]
    x0 = f64([[0.5, -1.0], [0.2, 0.3]])
    s, t = f64([0.1, 0.6]), f64([0.9, 0.7])
    x_t = process.marginal(x0, t).sample(Noise(0, 2))
    answers = (
        lambda x, x0, t, s: process.marginal(x0, t),
        lambda x, x0, t, s: process.transition(x0, s, t),
        lambda x, x0, t, s: process.bridge(x, x0, t, s),
    )
    for answer in answers:
        both = answer(x_t, x0, t, s)
        for i in range(2):
            alone = answer(x_t[i : i + 1], x0[i : i + 1], t[i], s[i])
            torch.testing.assert_close(both.loc[i], alone.loc[0], rtol=1e-13, atol=0)
            torch.testing.assert_close(both.mean[i], alone.mean[0], rtol=1e-9, atol=1e-12)
            spread = both.cov.diagonal((2,))[i], alone.cov.diagonal((2,))[0]
            torch.testing.assert_close(*spread, rtol=1e-9, atol=1e-12)


def test_a_guess_beyond_the_evidence_is_clamped():
    """x̂_0 above what G_t ≥ 0 allows: G_t = 0, and the step is x̂_0's own end of the support, finite."""
    process = PROCESSES["skewed"]
    x0 = f64([[50.0]])
    law = process.bridge(f64([[0.0]]), x0, 0.5, 0.2)
    assert float(law.scale) == 0
    expected = process.alpha(0.2) * (x0 - process.theta * process.concentration(0.2))
    assert torch.equal(law.sample(Noise(0, 1)), expected)


def test_small_theta_in_floats():
    """The paper's θ = 0.001 in float32: states and bridges are those of float64 to roundings of their size.

    Found: cumulated noise about its edge, α θ k = 10⁵ away, where float32 has steps of 0.016 for noise of variance 1.
    """
    process, x0 = GammaNoise(theta=0.001), f64([[0.5, -1.0]])
    for s, t in PAIRS:
        x_t = process.marginal(x0, t).sample(Noise(6, 1))
        found = process.marginal(x0.float(), t).sample(Noise(6, 1))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), x_t, rtol=0, atol=64 * 2**-24)
        exact, found = process.bridge(x_t, x0, t, s), process.bridge(x_t.float(), x0.float(), t, s)
        torch.testing.assert_close(found.mean.double(), exact.mean, rtol=0, atol=64 * 2**-24)
        drawn = found.sample(Noise(7, 1)).double()
        torch.testing.assert_close(drawn, exact.sample(Noise(7, 1)), rtol=0, atol=64 * 2**-24)


def test_prior_is_the_marginal_of_zero():
    process = PROCESSES["vp"]
    prior = process.prior((2,))
    x = prior.sample(Noise(0, N // 2)).reshape(-1).numpy()
    assert x.size == N
    assert stats.kstest(x, cdf(process, 0.0, 1.0)).pvalue > 1e-4
    assert process.t_min == process.base.t_min


@EACH
def test_prior_has_the_mean_zero(name):
    """Of α θ k = σ²/(θα) ≤ 1e5 a rounding may be left: 1e-11."""
    prior = PROCESSES[name].prior((2,))
    assert float(prior.mean.abs().max()) < 1e-9
    assert float(prior.cov.diagonal((2,)).max()) == pytest.approx(float(PROCESSES[name].sigma(1.0)) ** 2, rel=1e-9)


REFUSED = [
    (lambda: GammaNoise(theta=0.0), "theta must be > 0, got 0.0"),
    (lambda: GammaNoise(theta=math.nan), "theta must be > 0, got nan"),
    (lambda: GammaNoise(theta=math.inf), "theta must be > 0"),
    (lambda: GammaNoise(RectifiedFlow()), r"base must keep alpha\(1\) > 0 for GammaNoise, got RectifiedFlow"),
    (lambda: GammaNoise(PhaseSpace()), "base must be a scalar-Gaussian process, got PhaseSpace"),
    (lambda: GammaNoise().bridge(torch.ones(1, 1), torch.ones(1, 1), 0.5, 0.1, 0.0), "eta must be 1 for GammaNoise"),
    (lambda: GammaNoise().marginal(torch.ones(1, 1), 2.0), r"t must be a time in \[0, 1\]"),
    (lambda: worlds.ring().denoiser(GammaNoise())(torch.ones(1, 2), 0.5), "needs a process with `observe`"),
    (lambda: worlds.ring().score(torch.ones(1, 2), GammaNoise(), 0.5), "needs a process with `score`"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
