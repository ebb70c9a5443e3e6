"""The bound from every T: sums of terms, closed forms of normal data, and samples that start there."""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, denoisers, likelihood, processes, worlds
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.distributions import Dense, Normal, kl
from support import log_prob_gap

DOUBLE = torch.float64
PROCESS = processes.VP()


def gaussian():
    """One component with a mean and correlations."""
    return worlds.random_mixture(3, components=1, seed=2)


def test_fitted_start():
    """Normal data: the law at T itself; variances alone give its diagonal; of a mixture, the moments of x_T."""
    world, t = gaussian(), torch.tensor(0.3, dtype=DOUBLE)
    law = likelihood.fitted_start(PROCESS, t, world.mean, world.cov)
    x = world.sample(100, 1, process=PROCESS, t=t)
    torch.testing.assert_close(law.log_prob(x), world.log_prob(x, PROCESS, t))
    flat = likelihood.fitted_start(PROCESS, t, world.mean, world.cov.diagonal())
    torch.testing.assert_close(flat.cov.diagonal((3,)), law.cov.diagonal((3,)))
    torch.testing.assert_close(flat.mean, PROCESS.alpha(t) * world.mean[None])
    other, n = worlds.random_mixture(2, seed=1), 100_000
    drawn = other.sample(n, 5, process=PROCESS, t=t)
    fitted = likelihood.fitted_start(PROCESS, t, other.mean, other.cov)
    std = fitted.cov.diagonal((2,)).sqrt()
    assert ((drawn.mean(0) - fitted.mean[0]).abs() < 4.5 * std / math.sqrt(n)).all()
    torch.testing.assert_close(
        torch.cov(drawn.T), fitted.cov.matrix[0], rtol=0, atol=4.5 * float(std.max()) ** 2 * 0.01
    )


@pytest.mark.parametrize("start", ["prior", "diagonal", "full"])
def test_it_is_the_bound_from_each_time(start):
    """From three T: the same as ``bound`` on the rest of the grid with that start, but for draws; 4 errors."""
    world = worlds.random_mixture(2, seed=1)
    denoiser, x = denoisers.dirac(world.denoiser(PROCESS)), world.sample(400, 3)
    found = likelihood.start_time(denoiser, x, start=start, steps=20)
    for i in (0, 7, 15):
        t = found.grid[i]
        cov = {"prior": None, "diagonal": world.cov.diagonal(), "full": world.cov}[start]
        law = None if cov is None else likelihood.fitted_start(PROCESS, t, world.mean, cov)
        direct = likelihood.bound(denoiser, x, grid=found.below(float(t)), start=law, seed=9)
        torch.testing.assert_close(found.prior[i], direct.prior.mean())
        apart = float(found.path[i] - (direct.terms.sum(1) + direct.decoder).mean())
        assert abs(apart) < 4 * math.sqrt(2) * direct.standard_error
    assert len(str(found).splitlines()) > 10


def test_three_terms_of_normal_data():
    """The mismatch in closed form, within 4.5 errors; 0 with the fitted start; the gap is what point beliefs cost.

    :math:`G(T) = \\sum ½ \\sum_i (r_i - 1 - \\log r_i)` has no cross terms for round data: β/β̃ = σ_t²/σ_s².
    """
    world = worlds.GaussianMixture([1.0], [[1.0, -0.5]], [1.0])
    exact, n = world.denoiser(PROCESS), 4000
    x = world.sample(n, 3)
    cut, full = (
        likelihood.start_time(denoisers.dirac(exact), x, start=start, truth=exact, steps=12)
        for start in ("prior", "full")
    )
    for i, t in enumerate(cut.grid[:-1]):
        law = Normal(PROCESS.alpha(t) * world.mean[None], Dense(torch.eye(2, dtype=DOUBLE)[None]))
        known = float(kl(law, PROCESS.prior((2,))))
        spread = 3 * math.sqrt(2 * known + 1e-12)  # the log ratio is linear in x_T with variance 2·KL
        assert abs(float(cut.mismatch[i]) - known) < 4.5 * spread / math.sqrt(n) + 1e-9
        assert abs(float(full.mismatch[i])) < 1e-9
    s2 = PROCESS.sigma2(full.grid[:-1])
    ratio = s2[:-1] / s2[1:]
    gap = torch.cat(((ratio - 1 - torch.log(ratio)).flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=DOUBLE)))
    assert full.gap is not None
    torch.testing.assert_close(cut.gap + cut.mismatch, cut.total - cut.entropy, rtol=1e-12, atol=1e-12)
    assert float((full.gap - gap).abs().max()) < 0.25  # 4.5 errors of 4000 draws of entropy-sized terms
    assert full.best == float(full.grid[-2])  # without a mismatch the least is at the smallest T


def test_a_fitted_start_allows_a_smaller_time():
    """A mixture under point beliefs: the least bound is lower, and at a smaller T; and sampling from there works."""
    world = worlds.ring(8, 1.0, 0.08)
    exact, x = world.denoiser(PROCESS), world.sample(1500, 3)
    cut, full = (
        likelihood.start_time(denoisers.dirac(exact), x, start=start, truth=exact, steps=60)
        for start in ("prior", "full")
    )
    assert full.best < 0.3 < cut.best
    assert float(full.total.min()) < float(cut.total.min()) - 0.01
    t = full.grid[int((full.mismatch < 0.005).nonzero().max())]
    assert float(t) < 0.7
    n = 4000
    start = likelihood.fitted_start(PROCESS, t, world.mean, world.cov).sample(Noise(0, n))
    drawn = langevin.sample(exact, "ancestral", grid=full.below(float(t)), start=start, n=n)
    assert log_prob_gap(world, drawn) < 5


def test_bad_requests_are_named():
    world = gaussian()
    denoiser, x = denoisers.dirac(world.denoiser(PROCESS)), world.sample(5, 1)
    with pytest.raises(UserError, match="start must be"):
        likelihood.start_time(denoiser, x, start="flow")
    with pytest.raises(UserError, match="truth"):
        likelihood.start_time(denoiser, x, truth=denoiser)
    bare = NetworkDenoiser(torch.nn.Linear(3, 3), PROCESS, AffineParameterization(), (3,), data=DataInfo("x", (3,)))
    with pytest.raises(UserError, match="moments"):
        likelihood.start_time(bare, x, start="full")
    with pytest.raises(UserError, match="cov must be"):
        likelihood.fitted_start(PROCESS, 0.5, world.mean, torch.ones(2))
