"""Energy guidance: down the gradient of a loss of the predicted clean data, one forward and one backward pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import langevin
from langevin import UserError, processes, samplers, worlds
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.guidance import classifier, classifier_free, energy
from laws.table import FAST, PROCESSES, mixture
from support import oracle

WORLD = mixture(2)
PROCESS = processes.VP()
FREE = WORLD.denoiser(PROCESS)


def to_a_point(point):
    return lambda x0: (x0 - point.to(x0)).square().sum(1)


@pytest.mark.parametrize("name", FAST)
def test_the_gradient_goes_through_the_belief(name):
    """x̂_0 − s σ²/α ∇ℓ(x̂_0(x_t)) with dx̂_0/dx_t = Cov α/σ² (Tweedie), so that it is x̂_0 − s·Cov·∇ℓ at x̂_0."""
    process, scale, point = PROCESSES[name], 0.7, torch.tensor([0.5, -1.0])
    free = WORLD.denoiser(process)
    t = process.time(torch.tensor([-3.0, 0.0, 3.0], dtype=torch.float64))
    x = WORLD.sample(3, 1, process=process, t=t)
    found = energy(free, to_a_point(point), scale=scale)(x, t).mean
    belief = free(x, t)
    slope = 2 * (belief.mean - point)
    known = belief.mean - scale * (belief.cov.dense((2,)) @ slope[..., None])[..., 0]
    torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-9)


def test_normal_data_and_a_quadratic_loss():
    """Of N(0, v) and ℓ = |x_0|²/(2τ²): x̂_0' = (1 − c/τ²) x̂_0 with the posterior variance c, in closed form."""
    one = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.full((1,), 0.5))
    t, tau = torch.tensor(0.3, dtype=torch.float64), 0.8
    alpha2, sigma2 = PROCESS.alpha(t) ** 2, PROCESS.sigma2(t)
    variance = 0.5 * sigma2 / (0.5 * alpha2 + sigma2)
    x = torch.tensor([[0.7, -0.2]], dtype=torch.float64)
    law = energy(one.denoiser(PROCESS), lambda x0: x0.square().sum(1) / (2 * tau**2))(x, t)
    plain = one.denoiser(PROCESS)(x, t)
    torch.testing.assert_close(law.mean, (1 - variance / tau**2) * plain.mean, rtol=1e-11, atol=1e-12)
    # its covariance is the derivative of that mean by Tweedie's formula
    torch.testing.assert_close(
        law.cov.dense((2,))[0], (1 - variance / tau**2) * variance * torch.eye(2).double(), rtol=1e-10, atol=1e-12
    )


class Passes(torch.autograd.Function):
    """The identity, which counts backward passes."""

    backwards = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Passes.backwards += 1
        return gradient


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.calls = nn.Linear(2, 2), 0

    def forward(self, x, time, condition=None):
        self.calls += 1
        return Passes.apply(self.body(x))


def test_one_forward_and_one_backward_pass():
    """Ten steps: ten forward passes, ten backward passes; nothing is left on the network's parameters."""
    network = Counted()
    model = NetworkDenoiser(network, PROCESS, AffineParameterization("eps"), (2,))
    Passes.backwards = 0
    langevin.sample(energy(model, to_a_point(torch.ones(2))), samplers.DDIM(), n=4, steps=10)
    assert (network.calls, Passes.backwards) == (10, 10)
    assert all(p.grad is None for p in network.parameters())


def test_it_goes_where_the_loss_is_small():
    """Towards a point, the more so the larger the scale."""
    point = torch.tensor([1.0, 1.0])
    apart = []
    for scale in (0.0, 1.0, 5.0):
        x = langevin.sample(energy(FREE, to_a_point(point), scale=scale), samplers.DDIM(), n=200, steps=20, seed=1)
        apart.append(float((x - point).norm(dim=1).mean()))
    assert apart[0] > 1.2 * apart[1] > 1.2 * 1.2 * apart[2]


def test_any_order():
    """Energy around a classifier, a classifier around classifier-free guidance around energy."""
    loss = to_a_point(torch.ones(2))
    exact = WORLD.classifier(PROCESS)
    x = WORLD.sample(3, 1, process=PROCESS, t=0.4)
    stacked = energy(classifier(FREE, exact, label=1), loss, scale=0.3)
    inner = classifier(FREE, exact, label=1)(x, 0.4)
    known = inner.mean - 0.3 * (inner.cov.dense((2,)) @ (2 * (inner.mean - 1))[..., None])[..., 0]
    torch.testing.assert_close(stacked(x, 0.4).mean, known, rtol=1e-8, atol=1e-8)
    mixed = classifier(classifier_free(energy(FREE, loss), label=1, guidance_scale=2.0), exact, label=2)
    assert mixed(x, 0.4).mean.isfinite().all()
    model = oracle(WORLD, PROCESS, "v", torch.float32)
    deep = classifier_free(energy(model, loss), label=1, guidance_scale=2.0)
    assert langevin.sample(deep, n=3, steps=3).dtype == torch.float32


X = torch.ones(3, 2, dtype=torch.float64)
CHAIN = worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2))

REFUSED = [
    (lambda: energy(FREE, lambda x: x, scale=math.nan), "scale must be a finite number"),
    (lambda: energy(FREE, 3.0), r"loss must be a function of clean data"),
    (lambda: energy(3, lambda x: x), "denoiser must be a denoiser"),
    (lambda: energy(CHAIN, lambda x: x), "needs a process with `alpha"),
    (lambda: energy(WORLD.denoiser(processes.PhaseSpace()), lambda x: x), "needs a process with `alpha"),
    (lambda: energy(FREE, lambda x: x)(X, 0.5), r"loss must return one number a sample, \(3,\), got"),
    (lambda: energy(FREE, lambda x: x.sum())(X, 0.5), r"loss must return one number a sample, \(3,\)"),
    (lambda: energy(FREE, lambda x: 1.0)(X, 0.5), "loss must return one number a sample"),
    (lambda: energy(FREE, lambda x: torch.zeros(3))(X, 0.5), "its gradient is not there"),
    (lambda: energy(FREE, lambda x: (x - x.detach()).norm(dim=1).sqrt())(X, 0.5), "gradient that is not finite"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
