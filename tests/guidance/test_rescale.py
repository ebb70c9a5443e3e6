"""Rescaled guidance against the formula of the paper, written out; negative conditions."""

from __future__ import annotations

import pytest
import torch

from langevin import UserError, processes, worlds
from langevin.guidance import LinearPooling, autoguidance, classifier_free, interval, negate, rescale
from langevin.guidance.rescale import Rescaled
from laws.table import mixture
from support import oracle

WORLD = mixture(16)
PROCESS = processes.VP()


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_published_formula(share):
    """x_final = φ x_cfg std(x_pos)/std(x_cfg) + (1 − φ) x_cfg, a sample at a time (arXiv:2305.08891 eq. 15, 16)."""
    free = oracle(WORLD, PROCESS, "v")
    x = WORLD.sample(4, 1, process=PROCESS, t=0.4)
    found = classifier_free(free, label=1, guidance_scale=5.0, rescale=share)(x, 0.4).mean
    positive, none = free.given(label=1)(x, 0.4).mean, free(x, 0.4).mean
    guided = none + 5 * (positive - none)
    for i in range(4):
        ratio = torch.sqrt(positive[i].var(unbiased=False) / guided[i].var(unbiased=False))
        known = share * guided[i] * ratio + (1 - share) * guided[i]
        torch.testing.assert_close(found[i], known, rtol=1e-12, atol=1e-13)
        if share == 1.0:
            torch.testing.assert_close(found[i].std(), positive[i].std(), rtol=1e-12, atol=0)


def test_of_any_linear_guidance():
    """Of classifier-free guidance the same as its setting, to the bit; of autoguidance the strong model's contrast."""
    free = oracle(WORLD, PROCESS, "v")
    x = WORLD.sample(4, 1, process=PROCESS, t=0.4)
    setting = classifier_free(free, label=1, guidance_scale=5.0, rescale=0.7)
    found = rescale(classifier_free(free, label=1, guidance_scale=5.0))
    assert torch.equal(found(x, 0.4).mean, setting(x, 0.4).mean)
    strong = free.given(label=1)
    auto = rescale(autoguidance(strong, free, 5.0), 1.0)(x, 0.4).mean
    torch.testing.assert_close(auto.std(1), strong(x, 0.4).mean.std(1), rtol=1e-12, atol=0)


def test_of_v_at_high_noise():
    """Rescaling the network's v, as published code does, agrees with rescaling x̂_0 up to terms of order α.

    v = α ε̂ − σ x̂_0 for each of the three, so that the ratio of standard deviations differs by O(α); at VP's t = 1
    α = 6.6e-3, and x̂_0 is of order 1: 10 α bounds it. At t = 0.1, where v is mostly ε̂, the two are far apart.
    """
    free = oracle(WORLD, PROCESS, "v")

    def both(t):
        t = torch.tensor(t, dtype=torch.float64)
        x = WORLD.sample(4, 1, process=PROCESS, t=t)
        alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
        velocity = lambda mean: alpha * (x - alpha * mean) / sigma - sigma * mean
        positive, none = free.given(label=1)(x, t).mean, free(x, t).mean
        guided = velocity(none + 5 * (positive - none))
        v = guided * (velocity(positive).std(1, keepdim=True) / guided.std(1, keepdim=True))
        published = alpha * x - sigma * v
        ours = classifier_free(free, label=1, guidance_scale=5.0, rescale=1.0)(x, t).mean
        return float((published - ours).detach().norm() / ours.detach().norm()), float(alpha)

    (near, alpha), (far, _) = both(1.0), both(0.1)
    assert near < 10 * alpha
    assert far > 5 * near


def test_what_it_leaves():
    """φ = 0 is plain guidance; w = 1 the belief of the condition, whole; a constant event stays finite."""
    free = WORLD.denoiser(PROCESS)
    plain = classifier_free(free, label=1, guidance_scale=3.0, rescale=0.0)
    assert type(plain) is LinearPooling
    x = WORLD.sample(3, 1, process=PROCESS, t=0.4)
    belief = classifier_free(free, label=1, guidance_scale=1.0, rescale=0.7)(x, 0.4)
    torch.testing.assert_close(belief.cov.dense((16,)), free.given(label=1)(x, 0.4).cov.dense((16,)), rtol=0, atol=0)
    one = worlds.GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.full((2,), 0.1))
    single = classifier_free(one.denoiser(PROCESS), label=1, guidance_scale=3.0, rescale=1.0)
    known = classifier_free(one.denoiser(PROCESS), label=1, guidance_scale=3.0)
    at = torch.tensor([[0.3], [-0.2]], dtype=torch.float64)
    torch.testing.assert_close(single(at, 0.4).mean, known(at, 0.4).mean, rtol=0, atol=0)
    unconditional = classifier_free(free, label=1, guidance_scale=0.0, rescale=1.0)
    assert isinstance(unconditional, Rescaled)


def test_negative_condition():
    """x̂_n + w (x̂_c − x̂_n) with the negative condition n in the place of none; one call, two evaluations."""
    free = oracle(WORLD, PROCESS, "eps")
    x = WORLD.sample(4, 1, process=PROCESS, t=0.4)
    guided = classifier_free(free, label=[0, 1, 2, 0], guidance_scale=3.0, negative={"label": 3})
    found = guided(x, 0.4).mean
    assert (free.network.calls, free.counter.calls) == (1, 2)
    good, bad = free.given(label=[0, 1, 2, 0])(x, 0.4).mean, free.given(label=3)(x, 0.4).mean
    torch.testing.assert_close(found, bad + 3 * (good - bad), rtol=1e-12, atol=1e-12)
    away = classifier_free(free, label=1, guidance_scale=0.0, negative={"label": 3})
    torch.testing.assert_close(away(x, 0.4).mean, bad, rtol=1e-12, atol=1e-12)


FREE = WORLD.denoiser(PROCESS)

REFUSED = [
    (lambda: classifier_free(FREE, label=1, guidance_scale=2.0, rescale=1.5), r"rescale must lie in \[0, 1\], got 1.5"),
    (lambda: classifier_free(FREE, label=1, guidance_scale=2.0, rescale=-0.1), "rescale must lie in"),
    (lambda: classifier_free(FREE, label=1, guidance_scale=2.0, rescale="a"), "rescale must be a finite number"),
    (lambda: classifier_free(FREE, label=1, guidance_scale=2.0, negative=3), "negative must be a condition such as"),
    (lambda: classifier_free(FREE, label=1, guidance_scale=2.0, negative={}), "negative must be a condition such as"),
    (lambda: classifier_free(FREE, label=1, guidance_scale=2.0, negative={"label": 9}), "label must lie in"),
    (lambda: classifier_free(FREE, label=1, guidance_scale=2.0, negative={"image": 9}), "'image' is not one"),
    (
        lambda: classifier_free(
            worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2)),
            label=1,
            guidance_scale=2.0,
            rescale=0.5,
        ),
        "rescale must be 0 for tokens",
    ),
    (lambda: rescale(classifier_free(FREE, label=1, guidance_scale=2.0), 1.5), r"share must lie in \[0, 1\], got 1.5"),
    (lambda: rescale(classifier_free(FREE, label=1, guidance_scale=2.0), float("nan")), "share must be a finite"),
    (lambda: rescale(classifier_free(FREE, label=1, guidance_scale=1.0)), "guided must be linear guidance"),
    (lambda: rescale(classifier_free(FREE, label=1, guidance_scale=2.0, rescale=0.5)), "got Rescaled"),
    (lambda: rescale(interval(FREE, FREE, (0.3, 5.0))), "guided must be linear guidance.*got Interval"),
    (lambda: rescale(negate(FREE, FREE.given(label=1), 0.5)), "guided must be linear guidance towards its last part"),
    (lambda: rescale(3), "got int"),
    (
        lambda: rescale(
            classifier_free(
                worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2)), label=1, guidance_scale=2.0
            )
        ),
        "guided must not be of tokens",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
