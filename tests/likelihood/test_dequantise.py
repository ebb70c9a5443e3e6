"""Dequantisation: noise within the bins of discrete data, whose likelihoods are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from langevin import Noise, likelihood, processes, worlds
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from support import oracle

EDM = processes.EDM()


LEVELS = torch.linspace(-1, 1, 9, dtype=torch.float64)


def gridded() -> tuple[NetworkDenoiser, torch.Tensor, torch.Tensor]:
    """A law on pairs of 9 levels, the exact belief of it, and all its points with their log probabilities."""
    points = torch.cartesian_prod(LEVELS, LEVELS)
    log_p = -2 * (points - 0.3).square().sum(1) - (points[:, 0] * points[:, 1])
    log_p = torch.log_softmax(log_p, 0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = {}
            self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x, time, condition=None):
            sigma = torch.exp(4 * time.double())[:, None]
            away = (x[:, None] - points).square().sum(-1)
            return torch.softmax(log_p - 0.5 * away / sigma**2, -1) @ points + self.anchor

    mean = log_p.exp() @ points
    cov = (points - mean).mT @ (log_p.exp()[:, None] * (points - mean))
    data = DataInfo("pairs", (2,), levels=9, mean=mean, cov=cov)
    model = NetworkDenoiser(Network(), EDM, AffineParameterization("x0", scale_input=False), (2,), data=data)
    return model, points, log_p


def test_truncated_normal_noise_is_tight():
    """The bound on log P has a gap of the neighbours' share: their noise at Δ away, e^{−Δ²/2σ²} = e^{−32} for σ = Δ/8.

    Beyond the bins are 6e-5 of the model's own noise, 1.3e-4 nats in two coordinates; the rest is the integrator's."""
    model, points, log_p = gridded()
    pick = torch.arange(0, 81, 5)
    found = likelihood.exact(model, points[pick], dequantise="normal", draws=2, evaluations=200)
    assert (found.log_prob - log_p[pick]).abs().max() < 2e-3
    assert "truncated normal" in found.protocol["dequantisation"]
    assert torch.allclose(found.bits_per_dim, -found.log_prob / (2 * math.log(2)))


@pytest.mark.parametrize("law", [likelihood.Uniform(), likelihood.TruncatedNormal(), likelihood.LogisticNormal((2,))])
def test_noise_stays_in_the_bin_and_its_law_has_mass_1(law):
    """E_q[1/q] is the area of the bin, of noise half of which lies outside; 5 standard errors of 20,000 draws."""
    x = torch.zeros(20_000, 2, dtype=torch.float64)
    with torch.no_grad():
        y, log_q = law.sample(x, 0.25, 0.2, Noise(0, len(x)))
    share = torch.exp(-log_q) / 0.25**2
    assert y.abs().max() <= 0.125
    assert abs(float(share.mean()) - 1) <= 5 * float(share.std()) / math.sqrt(len(x)) + 1e-12


def test_uniform_noise_and_the_jacobian():
    """A density that is constant over each bin has P = p·Δ^D: of a uniform law on the square, log P = −D log 9."""
    x = torch.cartesian_prod(LEVELS, LEVELS)[::4]
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.full((1,), 0.25))
    model = replace(oracle(world, EDM, "edm"), data=DataInfo("normal", (2,), levels=9, mean=world.mean, cov=world.cov))
    inside = likelihood.exact(model, x, dequantise="uniform", draws=2, seed=3)
    u = torch.stack([0.25 * (Noise(3, len(x)).fold_in(k).fold_in(0).uniform((2,)) - 0.5) for k in range(2)])
    wanted = torch.stack([world.log_prob(x + v) for v in u]).mean(0) + 2 * math.log(0.25)
    assert torch.allclose(inside.log_prob, wanted, atol=1e-4)
    density = likelihood.exact(model, x)
    assert torch.allclose(density.log_prob, world.log_prob(x), atol=1e-4)
    assert torch.allclose(
        density.bits_per_dim, -(world.log_prob(x) + 2 * math.log(0.25)) / (2 * math.log(2)), atol=1e-4
    )


def test_learned_noise_beats_uniform():
    """Both are lower bounds; for a model that knows the levels uniform noise is hopeless, learned noise near."""
    model, points, log_p = gridded()
    law = likelihood.learn_dequantiser(model, points[torch.multinomial(log_p.exp(), 400, True)], steps=100, batch=32)
    x = points[::9]
    truth = log_p[::9].mean()
    learned = likelihood.exact(model, x, dequantise=law, draws=4).log_prob.mean()
    uniform = likelihood.exact(model, x, dequantise="uniform", draws=4).log_prob.mean()
    assert uniform < truth - 10
    assert truth - 0.3 < learned < truth + 0.05


def test_the_error_of_draws_falls_as_their_root():
    """The standard error of a mean over K draws of the dequantisation: with 16 in place of 4 half of it."""
    model, points, _ = gridded()
    ask = lambda k: likelihood.exact(
        model, points[:40], evaluations=20, draws=k, divergence="exact", dequantise="uniform"
    )
    few, many = (float(ask(k).stderr.square().mean().sqrt()) for k in (4, 16))
    assert 0.35 < many / few < 0.7


@pytest.mark.parametrize("shape", [(3, 4, 4), (5,)])
def test_the_learned_dequantisation_begins_as_one_logit_normal(shape):
    """Its last layer is 0 at first, so u/width + ½ = sigmoid(1.6 e) for every coordinate, with that law's density."""
    from langevin.likelihood.dequantise import LogisticNormal

    width, noise, x = 0.1, Noise(3, 4), torch.zeros(4, *shape, dtype=torch.float64)
    y, log_q = LogisticNormal(shape).sample(x, width, 0.0, noise)
    e = noise.normal((math.prod(shape),))
    share = torch.sigmoid(1.6 * e)
    torch.testing.assert_close(y, (width * (share - 0.5)).reshape(x.shape), rtol=1e-6, atol=1e-9)
    density = -0.5 * (e**2 + math.log(2 * math.pi)) - torch.log(1.6 * share * (1 - share) * width)
    torch.testing.assert_close(log_q, density.sum(1), rtol=1e-6, atol=1e-6)
