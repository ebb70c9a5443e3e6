"""Classifier guidance: Bayes' rule at scale 1, the published forms of DDIM and DDPM, a trained classifier."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import langevin
from langevin import UserError, processes, samplers, worlds
from langevin.data import DataInfo
from langevin.denoisers import NoisyClassifier, dirac
from langevin.distributions import Dirac
from langevin.guidance import classifier, classifier_free
from laws.table import FAST, PROCESSES, mixture
from support import oracle

WORLD = mixture(2)
PROCESS = processes.VP()
FREE = WORLD.denoiser(PROCESS)
EXACT = WORLD.classifier(PROCESS)


def slope(classify, x, t, label):
    """∇ log p(label | x_t), by hand."""
    x = x.clone().requires_grad_()
    classify(x, t)[:, label].sum().backward()
    return x.grad


@pytest.mark.parametrize("name", FAST)
def test_ddim_as_published(name):
    """Alg. 2 of arXiv:2105.05233: ε̂ = ε − s σ ∇ log p, then DDIM's step; equal to rounding, on every process."""
    process, scale = PROCESSES[name], 3.0
    free, exact = WORLD.denoiser(process), WORLD.classifier(process)
    grid = samplers.grids.karras(process, 6)
    start = WORLD.sample(4, 1, process=process, t=grid[0])
    guided = classifier(free, exact, label=1, scale=scale)
    found = langevin.sample(guided, samplers.DDIM(), start=start, grid=grid)
    x = start
    for t, s in zip(grid[:-1], grid[1:]):  # noqa: RUF007 (tensors)
        noise = process.noise(x, free(x, t), t) - scale * process.sigma(t) * slope(exact, x, t, 1)
        clean = (x - process.sigma(t) * noise) / process.alpha(t)
        x = process.alpha(s) * clean + process.sigma(s) * noise
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)


def test_ddpm_as_published():
    """Alg. 1 of arXiv:2105.05233 shifts the mean of a step by s·Σ·∇ log p, which is ours to first order in the step.

    Ours shifts x̂_0 by σ_t²/α_t s∇, and the step's mean by a of it: a σ_t²/α_t = α_s (1 − e^{λ_t − λ_s}) σ_t²/α_t.
    DDPM's β̃ is σ_s² (1 − e^{λ_t − λ_s}), its β is σ_t² (1 − …): the ratios are α_s σ_t²/(α_t σ_s²) and α_s/α_t. Both
    go to 1 with the step h, so their distance from 1 halves with it.
    """
    t = torch.tensor(0.5, dtype=torch.float64)
    x = WORLD.sample(4, 1, process=PROCESS, t=t)
    gradient = slope(EXACT, x, t, 1)
    guided = dirac(classifier(FREE, EXACT, label=1, scale=2.0))
    plain = dirac(FREE)
    apart = {"small": [], "large": []}
    for h in (0.02, 0.01, 0.005):
        s = t - h
        law = PROCESS.reverse(x, plain(x, t), t, s)
        moved = PROCESS.reverse(x, guided(x, t), t, s).mean - law.mean
        small = law.cov.diagonal((2,)).max()
        large = PROCESS.transition(x, s, t).cov.diagonal((2,)).max()
        a, _, v = PROCESS.bridge_coefficients(t, s)
        torch.testing.assert_close(small, v, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            moved, a * PROCESS.sigma2(t) / PROCESS.alpha(t) * 2 * gradient, rtol=1e-9, atol=1e-12
        )
        for name, variance in (("small", small), ("large", large)):
            apart[name].append(float((moved - 2 * variance * gradient).norm() / moved.norm()))
    for first, second, third in apart.values():
        assert third < 0.1
        assert 1.8 < first / second < 2.2
        assert 1.9 < second / third < 2.1


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_it_is_classifier_free_guidance(scale):
    """With the exact classifier ∇ log p(y | x_t) is the difference of the two scores: the same mean at any scale."""
    x = WORLD.sample(4, 1, process=PROCESS, t=0.4)
    found = classifier(FREE, EXACT, label=torch.tensor([0, 1, 2, 3]), scale=scale)(x, 0.4).mean
    known = classifier_free(FREE, label=[0, 1, 2, 3], guidance_scale=scale)(x, 0.4).mean
    torch.testing.assert_close(found, known, rtol=1e-10, atol=1e-10)


def test_where_alpha_is_zero():
    """A flow's t = 1: x_t is pure noise, σ²/α infinite and ∇ log p zero. Guidance takes its limit, E[x_0 | y].

    The belief is asked at t_max, with α = 1e-3, so that it is off by terms of that size.
    """
    flow = processes.RectifiedFlow()
    guided = classifier(WORLD.denoiser(flow), WORLD.classifier(flow), label=1)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(guided(x, 1.0).mean, WORLD.part(1).mean.expand(4, 2), rtol=0, atol=0.01)
    exact = WORLD.denoiser(flow).given(label=1)(x, 1.0).mean
    torch.testing.assert_close(guided(x, 1.0).mean, exact, rtol=0, atol=0.01)


class Linear(nn.Module):
    """A classifier of the plane by its direction from the origin."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))

    def forward(self, x, time, condition=None):
        return x @ self.weight.T


def test_a_trained_classifier():
    """A ``NoisyClassifier`` of the trainer: one forward pass, one backward, on a network's belief; it moves samples."""
    trained = NoisyClassifier(
        Linear(), PROCESS, DataInfo("plane", (2,), low=None, high=None, classes=tuple("abc")), 0.7
    )
    model = oracle(WORLD, PROCESS, "eps", torch.float32)
    guided = classifier(model, trained, label=0, scale=5.0)
    x = langevin.sample(guided, samplers.DDIM(), n=50, steps=10, seed=1)
    assert x.dtype == torch.float32
    assert trained.counter.calls == model.network.calls == 10
    away = langevin.sample(classifier(model, trained, label=1, scale=5.0), samplers.DDIM(), n=50, steps=10, seed=1)
    assert float(x[:, 0].mean()) > float(away[:, 0].mean()) + 0.3
    assert isinstance(guided(x, 0.5), Dirac)
    assert all(p.grad is None for p in trained.network.parameters())


def test_inside_inference_mode():
    """Gradients are taken where a caller has turned them off, in both ways."""
    x = WORLD.sample(4, 1, process=PROCESS, t=0.4)
    guided = classifier(FREE, EXACT, label=1)
    known = guided(x, 0.4).mean
    with torch.no_grad():
        torch.testing.assert_close(guided(x, 0.4).mean, known, rtol=0, atol=0)
    with torch.inference_mode():
        inside = WORLD.sample(4, 1, process=PROCESS, t=0.4)
        law = guided(inside, 0.4)
        torch.testing.assert_close(law.mean, known, rtol=0, atol=0)
        assert law.cov.dense((2,)).shape == (4, 2, 2)


def test_gradients_through_it():
    """d x̂_0' / dx_t of the guided belief is its covariance times α/σ² (Tweedie), by a backward pass through both."""
    x = WORLD.sample(1, 1, process=PROCESS, t=0.4).requires_grad_()
    t = torch.tensor(0.4, dtype=torch.float64)
    law = classifier(FREE, EXACT, label=1)(x, t)
    rows = torch.stack([torch.autograd.grad(m, x, retain_graph=True)[0][0] for m in law.mean[0]])
    factor = PROCESS.alpha(t) / PROCESS.sigma2(t)
    torch.testing.assert_close(rows, factor * law.cov.dense((2,))[0], rtol=1e-9, atol=1e-9)


class Broken:
    """A classifier that returns what it is told to."""

    def __init__(self, out):
        self.out = out

    def __call__(self, x_t, t):
        return self.out(x_t)


def ask(out, **more):
    return classifier(FREE, Broken(out), **{"label": 0, **more})(torch.ones(3, 2, dtype=torch.float64), 0.5)


CHAIN = worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2))

REFUSED = [
    (lambda: classifier(FREE, EXACT, label=1, scale=math.nan), "scale must be a finite number"),
    (lambda: classifier(FREE, EXACT, label=1, scale=math.inf), "scale must be a finite number"),
    (lambda: classifier(FREE, EXACT, label=-2), "label must be at least 0"),
    (lambda: classifier(FREE, EXACT, label=0.5), "label must hold integers"),
    (lambda: classifier(FREE, EXACT, label=9)(WORLD.sample(2, 1), 0.5), r"label must lie in \[0, 4\), got \[9\]"),
    (lambda: classifier(FREE, EXACT, label=[0, 1])(WORLD.sample(3, 1), 0.5), "given for 2 samples, .* batch has 3"),
    (lambda: classifier(FREE, 3, label=1), r"classifier must be a function of \(x_t, t\)"),
    (lambda: classifier(3, EXACT, label=1), "denoiser must be a denoiser"),
    (lambda: classifier(FREE, WORLD.classifier(processes.EDM()), label=1), "classifier must be of noisy data of VP"),
    (lambda: classifier(CHAIN, lambda x, t: x, label=1), "needs a process with `alpha"),
    (lambda: ask(lambda x: x[:, 0]), r"classifier must return logits \(3, classes\)"),
    (lambda: ask(lambda x: x[:2]), r"classifier must return logits \(3, classes\)"),
    (lambda: ask(lambda x: None), "classifier must return logits"),
    (lambda: ask(lambda x: torch.zeros(3, 2, requires_grad=True)), "its gradient is not there"),
    (lambda: ask(lambda x: torch.zeros(3, 2)), "its gradient is not there"),
    (lambda: ask(lambda x: torch.sqrt(x - 1)), "gradient that is not finite at t = 0.5"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
