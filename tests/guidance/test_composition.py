"""Composition of conditions and models, level by level: formulas, known laws, and what a corrector repairs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers, worlds
from langevin.denoisers import convert, independent
from langevin.guidance import LinearPooling, autoguidance, classifier_free, conjunction, linear, negate, product
from laws.table import CHAINS, mixture
from support import oracle, sliced_w2, w2_floor

WORLD, OTHER = mixture(2), worlds.random_mixture(2, components=3, rms=0.6, seed=8)
PROCESS = processes.VP()
FREE = WORLD.denoiser(PROCESS)
T = 0.4
ONE = torch.ones(1, dtype=torch.float64)
X = WORLD.sample(5, 1, process=PROCESS, t=T)


def test_conjunction():
    """ε_u + Σ w_i (ε_i − ε_u) (arXiv:2206.01714 eq. 11), in one call of the network."""
    model = oracle(WORLD, PROCESS, "eps")
    guided = conjunction(model, [{"label": 1}, {"label": [0, 1, 2, 3, 0]}], [2.0, -0.5])
    found = PROCESS.noise(X, guided(X, T), T)
    assert (model.network.calls, model.counter.calls) == (1, 3)
    noise = lambda d: PROCESS.noise(X, d(X, T), T)
    none, first, second = noise(model), noise(model.given(label=1)), noise(model.given(label=[0, 1, 2, 3, 0]))
    torch.testing.assert_close(found, none + 2 * (first - none) - 0.5 * (second - none), rtol=1e-9, atol=1e-9)
    single = conjunction(FREE, [{"label": 1}], [3.0])(X, T).mean
    torch.testing.assert_close(
        single, classifier_free(FREE, label=1, guidance_scale=3.0)(X, T).mean, rtol=1e-12, atol=1e-12
    )
    assert conjunction(FREE, [{"label": 1}, {"label": 2}]).weights == (-1.0, 1.0, 1.0)


def test_negation_of_normal_laws():
    """p_a^{1+w}/p_b^w of normal p_{a,t}, p_{b,t} is normal: its precision-weighted mean gives the same score.

    The score of the negation is (1 + w)(m_a − x)/v_a − w (m_b − x)/v_b with m, v of the noised laws.
    """
    ends = torch.tensor([[0.4, -0.2], [-0.3, 0.5]], dtype=torch.float64)
    variances, w = (0.2, 0.7), 0.5
    parts = [worlds.GaussianMixture(ONE, m[None], v * ONE) for m, v in zip(ends, variances)]
    a, b = (part.denoiser(PROCESS) for part in parts)
    t = torch.tensor(T, dtype=torch.float64)
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    known = torch.zeros_like(X)
    for weight, m, v in zip((1 + w, -w), ends, variances):
        known = known + weight * (alpha * m - X) / (alpha**2 * v + sigma**2)
    torch.testing.assert_close(PROCESS.score(X, negate(a, b, w)(X, t), t), known, rtol=1e-11, atol=1e-11)


def test_negation_pushes_away():
    """Two components, the negated law has one of them: the larger the weight, the fewer samples are left there."""
    pair = worlds.GaussianMixture(torch.ones(2), torch.tensor([[-1.0, 0], [1.0, 0]]), torch.full((2,), 0.05))
    free = pair.denoiser(PROCESS)
    share = lambda d: float((langevin.sample(d, n=400, steps=20, seed=1)[:, 0] < 0).double().mean())
    assert abs(share(free) - 0.5) < 0.1  # 4 standard errors of a share of 400
    shares = [share(negate(free, free.given(label=0), weight)) for weight in (1.0, 4.0)]
    assert shares[0] < 0.4 - 0.1
    assert shares[1] < shares[0] - 0.1


def test_autoguidance():
    """D_0 + w (D_1 − D_0) (arXiv:2406.02507 eq. 3), with a condition bound to both, each its own network."""
    strong, weak = oracle(WORLD, PROCESS, "v"), oracle(OTHER, PROCESS, "eps")
    guided = autoguidance(strong, weak, 2.5).given(label=[0, 1, 2, 0, 1])
    bound = [d.given(label=[0, 1, 2, 0, 1])(X, T).mean for d in (strong, weak)]
    torch.testing.assert_close(guided(X, T).mean, bound[1] + 2.5 * (bound[0] - bound[1]), rtol=1e-12, atol=1e-12)
    assert autoguidance(strong, weak, 1.0) is strong
    assert guided.base.network is strong.network


def test_models_on_several_processes():
    """Reliability-weighted means of three models, one on another process: that one at equal log-SNR."""
    far = OTHER.denoiser(processes.EDM())
    pooled = linear([FREE, FREE.given(label=2), far], [0.5, 0.3, 0.2])
    known = 0.5 * FREE(X, T).mean + 0.3 * FREE.given(label=2)(X, T).mean + 0.2 * convert(far, PROCESS)(X, T).mean
    torch.testing.assert_close(pooled(X, T).mean, known, rtol=1e-12, atol=1e-12)
    exact = 0.5 * FREE(X, T).mean + 0.3 * FREE.given(label=2)(X, T).mean + 0.2 * OTHER.denoiser(PROCESS)(X, T).mean
    torch.testing.assert_close(pooled(X, T).mean, exact, rtol=1e-9, atol=1e-9)
    assert pooled.process == PROCESS
    assert isinstance(pooled, LinearPooling)


def test_conditions_that_every_part_takes():
    """A label is still asked for where all models take one, and refused where one does not."""
    model = oracle(WORLD, PROCESS, "v")
    silent = oracle(WORLD, PROCESS, "v")
    silent.network.config = {}
    assert linear([model, FREE], [0.5, 0.5]).conditions() == ("label",)
    assert linear([model, silent], [0.5, 0.5]).conditions() == ()
    with pytest.raises(UserError, match="not one this model takes"):
        linear([model, silent], [0.5, 0.5]).given(label=1)
    # of guidance by the label, the label is taken; giving it again would condition both sides
    assert classifier_free(model, label=1, guidance_scale=2.0).conditions() == ()


@pytest.mark.parametrize("chain", ["absorbing", "uniform"])
def test_conjunction_of_tokens(chain):
    """In logits: p(x_0 | a) p(x_0 | b) / p(x_0), position by position, and sequence by sequence for joint beliefs."""
    q = CHAINS[chain]
    probs = torch.softmax(torch.randn(9, generator=torch.Generator().manual_seed(1)).double(), 0)
    points = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    world = worlds.Empirical(points, probs, labels=torch.arange(9) // 5)
    masks = torch.full((2, 2), q.states - 1)
    for free in (world.denoiser(q), independent(world.denoiser(q))):
        law = classifier_free(free, label=0, guidance_scale=2.0)(masks, 0.9)
        given, none = free.given(label=0)(masks, 0.9), free(masks, 0.9)
        of = (lambda b: b.probs) if hasattr(law, "probs") else (lambda b: b.log_weights.exp())
        known = torch.where(of(given) > 1e-20, of(given) ** 2 / of(none), 0.0)
        torch.testing.assert_close(of(law), known / known.sum(-1, keepdim=True), rtol=1e-9, atol=1e-12)


def cross(axis):
    """Three narrow modes on an axis, of which the middle one, with a tenth of the mass, is at the origin."""
    means = torch.zeros(3, 2, dtype=torch.float64)
    means[0, axis], means[2, axis] = -1.0, 1.0
    return worlds.GaussianMixture(torch.tensor([0.45, 0.1, 0.45]), means, 0.02 * torch.ones(3, dtype=torch.float64))


def composed_law(a, b, prior):
    """p_a p_b / p for a normal p, a mixture of the products of components: precisions add, here of round components."""
    weights, means, variances = [], [], []
    for i, j in itertools.product(range(3), range(3)):
        own = [
            (a.log_weights[i], a.means[i], 0.02, 1),
            (b.log_weights[j], b.means[j], 0.02, 1),
            (0.0, prior.means[0], 0.6, -1),
        ]
        precision = sum(sign / v for _, _, v, sign in own)
        mean = sum(sign * m / v for _, m, v, sign in own) / precision
        log = sum(sign * (w - 0.5 * (m**2 / v + math.log(v)).sum()) for w, m, v, sign in own)
        weights.append(log + 0.5 * (mean**2 * precision).sum() - math.log(precision))
        means.append(mean)
        variances.append(1 / precision)
    return worlds.GaussianMixture(torch.softmax(torch.stack(weights), 0), torch.stack(means), torch.tensor(variances))


def test_a_corrector_reaches_the_product():
    """Scores added at each level are not those of the noised product; Langevin steps at each level reach it after all.

    p_a has three modes on one axis, p_b on the other; p_a p_b / p has the one they share. Sliced W2 of 500 samples to
    that law (arXiv:2302.11552 §4): steps alone are off by more than five times the Monte-Carlo floor, steps with a
    corrector (ε = 0.4, which widens a normal law by ε/8 = 5 % of 0.1, under the floor) are within it, and so is the
    belief of the product itself, without one.
    """
    a, b, n = cross(0), cross(1), 500
    prior = worlds.GaussianMixture(ONE, torch.zeros(1, 2), 0.6 * ONE)
    truth = composed_law(a, b, prior)
    real, floor = truth.sample(n, 77), w2_floor(truth, n, 16)
    members = [world.denoiser(PROCESS) for world in (a, b, prior)]
    scores = linear(members, [1.0, 1.0, -1.0])

    def distance(denoiser, sampler, steps):
        return sliced_w2(langevin.sample(denoiser, sampler, n=n, steps=steps, seed=3, batch=n), real)

    assert distance(scores, samplers.DDIM(), 30) > 5 * floor
    assert distance(scores, samplers.DDPM().then(samplers.Langevin(10, 0.4)), 40) < floor
    assert distance(product(members, [1, 1, -1]), samplers.Ancestral(), 10) < floor


CHAIN = worlds.TokenTable(torch.ones(2, 2)).denoiser(processes.Absorbing(2))

REFUSED = [
    (lambda: conjunction(FREE, []), "conditions must be a list such as"),
    (lambda: conjunction(FREE, [{}]), "conditions must be a list such as"),
    (lambda: conjunction(FREE, {"label": 1}), "conditions must be a list such as"),
    (lambda: conjunction(FREE, [{"label": 1}], [1.0, 2.0]), "weights must be 1 numbers, one a member, got 2"),
    (lambda: conjunction(FREE, [{"label": 1}], [math.nan]), "weights must be a finite number"),
    (lambda: conjunction(FREE, [{"label": 9}]), "label must lie in"),
    (lambda: conjunction(FREE, [{"caption": 9}]), "'caption' is not one"),
    (lambda: negate(FREE, FREE, -0.5), "weight must be >= 0"),
    (lambda: negate(FREE, FREE, math.nan), "weight must be a finite number"),
    (lambda: negate(FREE, 3, 0.5), "b must be a denoiser"),
    (lambda: negate(FREE, mixture(16).denoiser(PROCESS), 0.5), "members must be of data of one shape"),
    (lambda: autoguidance(FREE, None, 2.0), "weak must be a denoiser"),
    (lambda: autoguidance(FREE, FREE, math.nan), "guidance_scale must be a finite number"),
    (lambda: linear([FREE, FREE], [1.0]), "weights must be 2 numbers, one a member, got 1"),
    (lambda: linear([FREE, CHAIN], [1.0, 1.0]), "convert needs a process with `alpha"),
    (lambda: linear([FREE, WORLD], [1.0, 1.0]), "beliefs must be a list of laws"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
