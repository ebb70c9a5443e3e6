"""Variances that a network gives beside the mean: between the two of a table, and as a multiple of a posterior's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from langevin import processes, worlds
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.distributions import Normal
from support import AFFINE as PROCESSES


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


class Channels(nn.Module):
    """Gives the mean's channels and a raw variance."""

    def __init__(self, mean, raw):
        super().__init__()
        self.mean, self.raw = mean, raw

    def forward(self, x, time, condition=None):
        return torch.cat([self.mean.expand_as(x), self.raw.expand_as(x)], 1).to(x.dtype)


@pytest.mark.parametrize("betas", [processes.linear_betas(), processes.cosine_betas(), (0.1, 0.02, 0.3, 0.2)])
@pytest.mark.parametrize("v", [-1.0, -0.2, 0.7, 1.0])
def test_learned_range_is_improved_ddpm(betas, v):
    """One step of the table: the variance of ``reverse`` is exp(f log β + (1 − f) log β̃), f = (v + 1)/2 (eq. 15).

    At n = 1, where β̃ is 0, the paper's code takes the second step's; a network is float32, which f inherits.
    """
    process, total = processes.DDPM(betas), len(betas)
    denoiser = NetworkDenoiser(
        Channels(f64(0.1), f64(v)), process, AffineParameterization("eps"), (2,), variance="range"
    )
    alpha_bar = torch.cumprod(1 - f64(betas), 0)
    before = torch.cat([f64([1.0]), alpha_bar[:-1]])
    small = (1 - before) / (1 - alpha_bar) * f64(betas)
    x = torch.zeros(1, 2, dtype=torch.float64)
    for n in sorted({1, 2, 3, total // 2, total}):
        t, s = f64(n / total), f64((n - 1) / total)
        law = process.reverse(x, denoiser(x, t), t, s)
        low = small[max(n, 2) - 1]
        f = (v + 1) / 2
        known = math.exp(f * math.log(betas[n - 1]) + (1 - f) * math.log(low))
        # where the range is below β̃ (n = 1 of a table whose β falls) a variance can't be: it is 0
        torch.testing.assert_close(law.cov.diagonal((2,)), f64(known).expand(1, 2), rtol=1e-6, atol=0)


def test_learned_range_is_exact_at_every_stride():
    """Data N(0, s²): the posterior variance lies in the range, and every stride then has the exact p(x_s | x_t)."""
    process, spread = PROCESSES["ddpm"], 0.64
    t = f64(0.4)
    alpha2, sigma2 = process.alpha(t) ** 2, process.sigma(t) ** 2
    posterior = spread * sigma2 / (alpha2 * spread + sigma2)
    a, _, small = process.bridge_coefficients(t, t - 1e-3)
    beta = process.transition(torch.zeros(1, 1).double(), t - 1e-3, t).cov.variance
    fraction = torch.log((small + a**2 * posterior) / small) / torch.log(beta / small)
    assert 0 < float(fraction) < 1
    mean = process.alpha(t) * spread / (alpha2 * spread + sigma2)
    x = f64([[0.7]])

    class Posterior(nn.Module):
        def forward(self, state, time, condition=None):
            return torch.cat([mean * x, (2 * fraction - 1).expand(1, 1)], 1)

        def parameters(self, recurse=True):
            return iter([nn.Parameter(torch.zeros(1, dtype=torch.float64))])

    denoiser = NetworkDenoiser(Posterior(), process, AffineParameterization("x0"), (1,), variance="range")
    belief = denoiser(x, t)
    torch.testing.assert_close(belief.cov.diagonal((1,)), posterior.expand(1, 1), rtol=1e-9, atol=0)
    exact_world = worlds.GaussianMixture(f64([1.0]), f64([[0.0]]), f64([[[spread]]])).denoiser(process)
    for s in (0.0, 0.1, 0.35, 0.399):
        law, truth = (process.reverse(x, d(x, t), t, s) for d in (denoiser, exact_world))
        torch.testing.assert_close(law.mean, truth.mean, rtol=1e-9, atol=0)
        torch.testing.assert_close(law.cov.diagonal((1,)), truth.cov.diagonal((1,)), rtol=1e-8, atol=0)


def test_learned_range_is_continuous_below_the_second_knot():
    """A converted network is asked between knots: a hair above the first knot is as at the first knot."""
    process = PROCESSES["ddpm"]
    denoiser = NetworkDenoiser(
        Channels(f64(0.1), f64(-0.5)), process, AffineParameterization("eps"), (2,), variance="range"
    )
    x = torch.zeros(1, 2, dtype=torch.float64)
    values = [float(denoiser(x, f64(t)).cov.variance[0, 0]) for t in (0.001, 0.001 * (1 + 1e-9), 0.0010001)]
    assert values[1] == pytest.approx(values[0], rel=1e-4)
    assert values[2] == pytest.approx(values[0], rel=1e-3)


def test_learned_range_of_a_continuous_process():
    """The cosine schedule itself, between steps of 1/1000: the table made of it, where that is not clipped."""
    x, times = torch.zeros(5, 2, dtype=torch.float64), f64([0.001, 0.002, 0.3, 0.5, 0.9])
    laws = [
        NetworkDenoiser(Channels(f64(0.1), f64(-0.3)), process, AffineParameterization("v"), (2,), variance="range")(
            x, times
        )
        for process in (PROCESSES["cosine"], PROCESSES["ddpm-cosine"])
    ]
    torch.testing.assert_close(laws[0].cov.diagonal((2,)), laws[1].cov.diagonal((2,)), rtol=1e-7, atol=0)
    end = NetworkDenoiser(
        Channels(f64(0.1), f64(-0.3)), PROCESSES["cosine"], AffineParameterization("v"), (2,), variance="range"
    )
    assert torch.isfinite(end(x[:1], 1.0).cov.diagonal((2,))).all()


def test_posterior_variance():
    """exp(raw) σ²σ_d²/(σ² + α²σ_d²): at raw = 0 the posterior of normal data, log 2 twice it."""
    process, t = PROCESSES["vp"], f64([0.2, 0.9])
    x = torch.zeros(2, 2, dtype=torch.float64)
    sigma2, alpha2 = process.sigma(t) ** 2, process.alpha(t) ** 2
    known = (0.36 * sigma2 / (sigma2 + alpha2 * 0.36))[:, None].expand(2, 2)
    for raw, factor in ((0.0, 1.0), (math.log(2), 2.0)):
        network = Channels(f64(0.1), f64(raw))
        denoiser = NetworkDenoiser(
            network, process, AffineParameterization("v", sigma_data=0.6), (2,), variance="posterior"
        )
        belief = denoiser(x, t)
        assert isinstance(belief, Normal)
        torch.testing.assert_close(belief.cov.diagonal((2,)), factor * known, rtol=1e-6, atol=0)
        plain = NetworkDenoiser(
            network, process, AffineParameterization("v", sigma_data=0.6), (2,), variance="posterior"
        ).parameterization
        c, d = plain.mean(process, t)
        torch.testing.assert_close(belief.mean, (d * 0.1)[:, None].expand(2, 2), rtol=1e-6, atol=0)
        assert c.shape == (2,)
