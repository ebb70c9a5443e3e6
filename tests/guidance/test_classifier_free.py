"""Classifier-free guidance against the published formula, in every parameterisation and on tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from langevin import Noise, UserError, processes, worlds
from langevin.denoisers import AffineParameterization, NetworkDenoiser, dirac, independent
from langevin.distributions import Categorical, Dirac
from langevin.guidance import LinearPooling, classifier_free, linear

WORLD = worlds.random_mixture(2, components=3, rms=0.6, seed=4)


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


class Table(nn.Module):
    """A network whose output is a row of a table by its label; −1 and no label are the last row."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(rows)
        self.config = {"conditions": {"label": len(rows) - 1}}
        self.calls = 0

    def forward(self, x, time, condition=None):
        self.calls += 1
        if condition is None:
            return self.rows[-1].expand_as(x)
        return self.rows[condition["label"]]


def network(process, prediction):
    rows = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return NetworkDenoiser(Table(rows), process, AffineParameterization(prediction), (2,))


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 3.0, 7.5])
@pytest.mark.parametrize("prediction", ["eps", "v", "score", "x0", "flow", "edm"])
def test_published_formula(prediction, scale):
    """net = net_u + w (net_c − net_u), read as one network (arXiv:2207.12598 eq. 6 with its w + 1 for our w)."""
    process = processes.VP()
    denoiser = network(process, prediction)
    rows = denoiser.network.rows
    x, t, label = f64([[0.3, -0.4], [1.0, 0.2], [0.0, 0.1]]), f64([0.1, 0.5, 0.9]), torch.tensor([2, 0, 1])
    pooled = rows[-1] + scale * (rows[label] - rows[-1])
    c, d = AffineParameterization(prediction).mean(process, t)
    known = c[:, None] * x + d[:, None] * pooled
    got = classifier_free(denoiser, label=label, guidance_scale=scale)(x, t)
    torch.testing.assert_close(got.mean, known, rtol=1e-12, atol=1e-12)
    # DDIM's noise and the probability flow are linear in the mean, so they are pooled as well
    eps = lambda belief: process.noise(x, belief, t)
    free, bound = denoiser(x, t), denoiser.given(label=label)(x, t)
    torch.testing.assert_close(eps(got), eps(free) + scale * (eps(bound) - eps(free)), rtol=1e-9, atol=1e-9)


def test_plain_scales_ask_one_network():
    """w = 1 is the conditional belief and w = 0 the unconditional, whole, at one evaluation; other scales ask twice."""
    process = processes.VP()
    x = torch.zeros(3, 2, dtype=torch.float64)
    for scale, evaluations in ((0.0, 1), (1.0, 1), (2.0, 2)):
        denoiser = network(process, "v")
        guided = classifier_free(denoiser, {"label": 1}, guidance_scale=scale)
        guided(x, 0.5)
        assert denoiser.counter.calls == evaluations
        assert denoiser.network.calls == 1
    base = WORLD.denoiser(process)
    x = WORLD.sample(2, 1, process=process, t=0.5)
    for scale, plain in ((0.0, base), (1.0, base.given(label=1))):
        belief = classifier_free(base, label=1, guidance_scale=scale)(x, 0.5)
        torch.testing.assert_close(belief.mean, plain(x, 0.5).mean, rtol=0, atol=0)
        torch.testing.assert_close(belief.cov.dense((2,)), plain(x, 0.5).cov.dense((2,)), rtol=0, atol=0)


def test_batched_is_sequential():
    """One call of twice the batch is two calls, label by label and time by time."""
    process = processes.VP()
    x, t = WORLD.sample(3, 1, process=process, t=0.5), f64([0.1, 0.5, 0.9])
    denoiser = network(process, "eps")
    guided = classifier_free(denoiser, label=[0, -1, 2], guidance_scale=3.0)
    assert isinstance(guided, LinearPooling)
    apart = linear([part(x, t) for part in guided.parts], guided.weights)
    torch.testing.assert_close(guided(x, t).mean, apart.mean, rtol=1e-14, atol=1e-14)
    # with no label for the second sample guidance changes nothing
    torch.testing.assert_close(guided(x, t).mean[1], denoiser(x, t).mean[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "process",
    [processes.VP(), processes.RectifiedFlow(), processes.PhaseSpace(), processes.DDPM()],
    ids=lambda p: type(p).__name__,
)
def test_exact_worlds_are_pooled_in_their_means(process):
    """(1 − w) x̂_u + w x̂_c of exact beliefs, on every process with a mean; samplers need nothing more."""
    x = WORLD.sample(3, 1, process=process, t=0.5)
    base = WORLD.denoiser(process)
    guided = classifier_free(base, label=[0, 1, 2], guidance_scale=4.0)
    belief = guided(x, 0.5)
    assert isinstance(belief, Dirac)
    known = -3 * base(x, 0.5).mean + 4 * base.given(label=[0, 1, 2])(x, 0.5).mean
    torch.testing.assert_close(belief.mean, known, rtol=1e-12, atol=1e-12)
    assert process.reverse(x, belief, 0.5, 0.2).sample(Noise(0, 3)).shape == x.shape


def test_tokens_are_pooled_in_their_logits():
    """softmax(log p_u + w (log p_c − log p_u)), position by position; a state both rule out stays ruled out."""
    p, q = f64([[[0.5, 0.3, 0.2, 0.0]]]), f64([[[0.1, 0.6, 0.3, 0.0]]])
    for w in (0.5, 1.0, 3.0):
        got = linear([Categorical(p), Categorical(q)], (1 - w, w)).probs
        known = p ** (1 - w) * q**w
        known = torch.where(p > 0, known, 0.0)
        torch.testing.assert_close(got, known / known.sum(-1, keepdim=True), rtol=0, atol=1e-14)
    assert isinstance(linear([Categorical(p), Categorical(q)], (0.5, 0.5)), Categorical)


def test_guidance_on_a_chain():
    """On a token table with a label a sequence, positions on their own: guided to the label, the label is drawn."""
    world = worlds.TokenTable(torch.tensor([[0.4, 0.1], [0.2, 0.3]]))
    process = processes.Absorbing(2)
    guided = classifier_free(independent(world.denoiser(process)), label=2, guidance_scale=8.0)
    masks = torch.full((50, 2), 2)
    x = process.reverse(masks, guided(masks, 1.0), 1.0, 0.0).sample(Noise(0, 50))
    assert (x == torch.tensor([1, 0])).all()


def test_what_a_guided_denoiser_keeps():
    """Its parts, weights, base, process, shape and rows."""
    process = processes.VP()
    base = network(process, "v")
    guided = classifier_free(base, label=[0, 1, 2], guidance_scale=2.0)
    assert guided.parts[0] is base
    assert guided.base is guided.parts[1]  # the one with the largest weight
    assert guided.weights == (-1.0, 2.0)
    assert (guided.process, guided.shape, guided.dtype) == (process, (2,), torch.float64)
    assert guided.device == torch.device("cpu")
    x = WORLD.sample(3, 1, process=process, t=0.5)
    part = guided.rows(torch.tensor([2, 0]))(x[[2, 0]], 0.5).mean
    torch.testing.assert_close(part, guided(x, 0.5).mean[[2, 0]], rtol=1e-13, atol=1e-13)
    twice = dirac(guided)(x, 0.5).mean
    assert torch.equal(twice, guided(x, 0.5).mean)


REFUSED = [
    (lambda: classifier_free(network(processes.VP(), "v"), label=3), r"label must lie in \[0, 3\)"),
    (lambda: classifier_free(network(processes.VP(), "v"), label=3, guidance_scale=0.0), "label must lie in"),
    (lambda: classifier_free(network(processes.VP(), "v"), lable=1), "Did you mean 'label'"),
    (lambda: classifier_free(WORLD.denoiser(processes.VP()), label=1, guidance_scale=math.nan), "guidance_scale must"),
    (lambda: classifier_free(WORLD.denoiser(processes.VP()), label=1, scale=2.0), "did you mean guidance_scale"),
    (lambda: classifier_free(WORLD.denoiser(processes.VP()), label=1, guidance_scale=math.inf), "guidance_scale must"),
    (
        lambda: classifier_free(network(processes.VP(), "v"), label=1, guidance_scale=101),
        r"lie in \[-100, 100\], got 101",
    ),
    (lambda: classifier_free(network(processes.VP(), "v"), label=1, guidance_scale=-1e9), r"lie in \[-100, 100\]"),
    (lambda: linear([Dirac(torch.zeros(1, 1))], (1.0, 2.0)), "weights must be one a belief, got 2 for 1 beliefs"),
    (lambda: linear([], ()), "weights must be one a belief, got 0 for 0 beliefs"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
