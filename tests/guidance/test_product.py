"""Products of whole beliefs against closed forms: the belief of the product law, at every noise level."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.denoisers import dirac, gaussian, independent
from langevin.distributions import (
    Blocks,
    Categorical,
    Dense,
    Diagonal,
    Dirac,
    FiniteSet,
    GaussianMixture,
    Levels,
    LowRank,
    Normal,
)
from langevin.guidance import classifier, product
from laws.table import CHAINS, FAST, PHASES, PROCESSES, mixture
from support import oracle, sliced_w2, w2_floor


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def random(dim, components, seed):
    """A mixture none of whose directions is finer than 0.2."""
    world = worlds.random_mixture(dim, components=components, rms=0.7, seed=seed)
    covariances = torch.einsum("kij,kj,klj->kil", world.basis, world.values + 0.04, world.basis)
    return worlds.GaussianMixture(world.log_weights.exp(), world.means, covariances)


def product_world(members, weights):
    """The mixture ∏ p_i^{w_i}, by matrices: members with integer weights are taken that many times."""
    terms = []
    for world, w in zip(members, weights):
        single = len(world.log_weights) == 1
        terms += [(world, float(w))] if single else [(world, 1.0)] * int(w)
    logs, means, covariances = [], [], []
    for chosen in itertools.product(*[range(len(world.log_weights)) for world, _ in terms]):
        p = h = c = 0
        for k, (world, w) in zip(chosen, terms):
            covariance = world.basis[k] @ torch.diag(world.values[k]) @ world.basis[k].T
            inverse = torch.linalg.inv(covariance)
            m = world.means[k]
            p, h = p + w * inverse, h + w * inverse @ m
            c = c + w * (world.log_weights[k] - 0.5 * (m @ inverse @ m + torch.logdet(covariance)))
        covariance = torch.linalg.inv(p)
        logs.append(c + 0.5 * (h @ covariance @ h + torch.logdet(covariance)))
        means.append(covariance @ h)
        covariances.append(covariance)
    return worlds.GaussianMixture(torch.softmax(torch.stack(logs), 0), torch.stack(means), torch.stack(covariances))


CASES = {
    "two mixtures": ([random(3, 4, 1), random(3, 3, 2)], [1, 1]),
    "a square": ([random(3, 3, 1)], [2]),
    "three, one twice": ([random(3, 2, 1), random(3, 3, 2), random(3, 2, 5)], [1, 2, 1]),
    "over a normal": ([random(3, 4, 1), worlds.GaussianMixture(f64(1.0), torch.zeros(1, 3), f64(2.0))], [1, -0.5]),
    "normals": ([random(3, 1, 1), random(3, 1, 2)], [0.7, 1.9]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("process", [*FAST, "phase-space"])
def test_the_belief_of_the_product_law(name, process):
    """Mean, covariance and density of p(x_0 | x_t) of the product world, at times of a batch's own and at one time.

    Precisions of up to a²/r² = e^6 are added and taken away again: nothing but rounding, 1e-16 · e^6 · 1e3.
    """
    members, weights, process = *CASES[name], {**PROCESSES, **PHASES}[process]
    truth = product_world(members, weights)
    found = product([world.denoiser(process) for world in members], weights)
    t = process.time(torch.tensor([-6.0, -2.0, 0.0, 2.0, 6.0], dtype=torch.float64))
    x = truth.sample(5, 3, process=process, t=t)
    for times, states in ((t, x), (t[2], x)):
        law, known = found(states, times), truth.denoiser(process)(states, times)
        torch.testing.assert_close(law.mean, known.mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(law.cov.dense((3,)), known.cov.dense((3,)), rtol=1e-9, atol=1e-9)
        at = known.sample(Noise(0, 5))
        torch.testing.assert_close(law.log_prob(at), known.log_prob(at), rtol=1e-8, atol=1e-8)


def test_any_sampler_draws_from_it():
    """Ancestral steps from the whole belief, and a multistep solver from its mean, in 16 dimensions: at the floor."""
    members, n = [random(16, 3, 3), random(16, 2, 4)], 500
    truth, process = product_world(members, [1, 1]), processes.VP()
    real, floor = truth.sample(n, 77), w2_floor(truth, n, 16)
    both = product([world.denoiser(process) for world in members])
    for sampler, steps in ((samplers.Ancestral(), 3), (samplers.DPMSolverPP(), 40)):
        assert sliced_w2(langevin.sample(both, sampler, n=n, steps=steps, seed=1, batch=n), real) < floor


@pytest.mark.parametrize("weights", [[1, 1], [0.5, 0.5], [1.5, -0.5], [2, 1]])
def test_finite_sets(weights):
    """p(x_n) ∝ p_a^{w_a} p_b^{w_b} of points: with Empirical's own belief, on Gaussian noise and in phase space."""
    points = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logs = torch.randn(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a, b = (worlds.Empirical(points, row.exp()) for row in logs)
    truth = worlds.Empirical(points, torch.softmax(weights[0] * logs[0] + weights[1] * logs[1], 0))
    for process in (processes.VP(), processes.EDM(), PHASES["phase-space"]):
        t = process.time(torch.tensor([-4.0, 0.0, 2.0], dtype=torch.float64))
        x = truth.sample(3, 3, process=process, t=t)
        found = product([a.denoiser(process), b.denoiser(process)], weights)(x, t)
        known = truth.denoiser(process)(x, t)
        torch.testing.assert_close(found.log_weights.exp(), known.log_weights.exp(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("chain", CHAINS)
def test_tokens(chain):
    """Sequences jointly, and positions that are independent: the product of tables, noised, is the product's belief."""
    q = CHAINS[chain]
    a, b = torch.softmax(torch.randn(2, 9, generator=torch.Generator().manual_seed(2)).double(), -1)
    worlds_of = lambda *tables: [worlds.TokenTable(p.reshape(3, 3)).denoiser(q) for p in tables]
    x = torch.cartesian_prod(torch.arange(q.states), torch.arange(q.states))
    x = x[(q.marginal(torch.arange(3)[:, None], 0.5).probs[:, 0].sum(0) > 0)[x].all(1)]
    for weights in ([1, 1], [1.5, -0.5]):
        (truth,) = worlds_of(a ** weights[0] * b ** weights[1])
        found = product(worlds_of(a, b), weights)(x, 0.5)
        torch.testing.assert_close(found.log_weights.exp(), truth(x, 0.5).log_weights.exp(), rtol=1e-8, atol=1e-12)
        singles = [p.reshape(3, 3).sum(1) for p in (a, b)]
        apart = [independent(worlds.TokenTable(p).denoiser(q)) for p in singles]
        single = independent(worlds.TokenTable(singles[0] ** weights[0] * singles[1] ** weights[1]).denoiser(q))
        own = product(apart, weights)(x[:, :1], 0.5)
        torch.testing.assert_close(own.probs, single(x[:, :1], 0.5).probs, rtol=1e-8, atol=1e-12)


def test_evidence_rules_out():
    """A network may give a chance to a token that x_t excludes: the product does not, at any Σ w."""
    q = CHAINS["absorbing"]

    class Fixed(langevin.denoisers.Denoiser):
        process, shape = q, (1,)

        def __call__(self, x_t, t):
            return Categorical(f64(0.5, 0.3, 0.2).expand(len(x_t), 1, 3))

    seen = torch.tensor([[1], [3]])  # a token that is its own, and the mask
    found = product([Fixed(), Fixed()])(seen, 0.5).probs[:, 0]
    square = f64(0.25, 0.09, 0.04)
    torch.testing.assert_close(found, torch.stack([f64(0.0, 1.0, 0.0), square / square.sum()]), rtol=1e-12, atol=1e-14)


def test_laws_of_levels():
    """Each coordinate on three levels: Bayes' rule for the product of priors, written out."""
    values, process = f64(-1.0, 0.0, 1.0), processes.VP()
    t = torch.tensor(0.3, dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    x = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    seen = -0.5 * ((x[..., None] - alpha * values) / sigma) ** 2
    a, b = torch.log_softmax(torch.randn(2, 1, 2, 3, generator=torch.Generator().manual_seed(3)).double(), -1)

    class Fixed(langevin.denoisers.Denoiser):
        def __init__(self, prior):
            self.process, self.shape, self.prior = process, (2,), prior

        def __call__(self, x_t, t):
            return Levels(values, torch.log_softmax(self.prior + seen, -1))

    found = product([Fixed(a), Fixed(b)], [2.0, 1.0])(x, t)
    torch.testing.assert_close(found.log_probs, torch.log_softmax(2 * a + b + seen, -1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["diagonal", "dense", "low rank", "blocks"])
def test_of_laws_themselves(kind):
    """``product`` of normal laws: ∏ N_i^{w_i} by densities, for every form of covariance, in float32 too."""
    g = torch.Generator().manual_seed(4)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    forms = {
        "diagonal": lambda: Diagonal(0.2 + draw(3, 2, 2).square()),
        "dense": lambda: Dense(0.2 * torch.eye(4).double() + (m := draw(1, 4, 4)) @ m.mT),
        "low rank": lambda: LowRank(0.2 + draw(3, 2, 2).square(), draw(3, 1, 2, 2)),
        "blocks": lambda: Blocks(
            0.2 * torch.eye(2).double()[None, :, :, None] + (v := draw(1, 2, 1, 2)) * v.movedim(2, 1)
        ),
    }
    laws, weights = [Normal(draw(3, 2, 2), forms[kind]()) for _ in range(2)], (1.5, 0.4)
    found = product(laws, weights)
    x, y = draw(2, 3, 2, 2)
    log = lambda at: sum(w * law.log_prob(at) for w, law in zip(weights, laws))
    torch.testing.assert_close(found.log_prob(x) - found.log_prob(y), log(x) - log(y), rtol=1e-9, atol=1e-9)
    assert isinstance(found.cov, Diagonal) == (kind == "diagonal")


def test_a_tilted_belief_is_normal():
    """Guided by a classifier a whole belief has two moments: its product is that of normal laws."""
    world, process = mixture(2), processes.VP()
    x = world.sample(4, 1, process=process, t=0.4)
    free = world.denoiser(process)
    tilted = classifier(free, world.classifier(process), label=1)
    found = product([tilted, gaussian(free.given(label=2))])(x, 0.4)
    known = product([free.given(label=1), free.given(label=2)])(x, 0.4)
    torch.testing.assert_close(found.mean, known.mean, rtol=1e-8, atol=1e-8)


def test_evaluations_and_parts():
    """Each member is asked once; labels bound to both; a row's own."""
    world, process = mixture(2), processes.VP()
    both = product([world.denoiser(process), random(2, 2, 4).denoiser(process)])
    assert both.conditions() == ("label",)
    x = world.sample(3, 1, process=process, t=0.4)
    bound = both.given(label=torch.tensor([0, 1, 0]))
    part = bound.rows(torch.tensor([1, 0]))(x[[1, 0]], 0.4)
    torch.testing.assert_close(part.mean, bound(x, 0.4).mean[[1, 0]], rtol=1e-12, atol=1e-12)


PROCESS = processes.VP()
FREE = mixture(2).denoiser(PROCESS)
X = torch.zeros(2, 2, dtype=torch.float64)
MIX = FREE(X, 0.5)
POINTS = torch.tensor([[0.0], [1.0]])
HALF = FiniteSet(POINTS, torch.log(f64(0.5, 0.5))[None])
SURE = FiniteSet(POINTS, torch.log(f64(1.0, 0.0))[None])
OTHER = FiniteSet(POINTS, torch.log(f64(0.0, 1.0))[None])

TWO_SPREADS = GaussianMixture(
    torch.zeros(2, 1), torch.zeros(2, 1, 2).double(), torch.eye(2).double()[None], f64(1, 2, 2, 1).reshape(2, 1, 2)
)
TURNED = Dense(f64(1.0, 0.5, 0.5, 1.0).reshape(1, 2, 2))

REFUSED = [
    (lambda: product([]), "members must be a list of denoisers or of laws"),
    (lambda: product(FREE), "members must be a list"),
    (lambda: product([FREE, FREE], [1.0]), "weights must be 2 numbers"),
    (lambda: product([FREE, FREE], [0, 0]), "weights must not all be 0"),
    (lambda: product([FREE, FREE], [1, math.nan]), "weights must be a finite number"),
    (lambda: product([FREE, 3]), "member 1 must be a denoiser"),
    (lambda: product([FREE, FREE], [1, 0.5])(X, 0.5), "weights of mixtures must be integers >= 0"),
    (lambda: product([FREE, FREE], [2, -1])(X, 0.5), "weights of mixtures must be integers >= 0"),
    (lambda: product([FREE], [6])(X, 0.5), "must have at most 1024 components, got 4096"),
    (lambda: product([oracle(mixture(2), PROCESS, "eps"), FREE])(X, 0.5), "points?, which has no density.*conjunction"),
    (lambda: product([dirac(FREE), dirac(FREE)])(X, 0.5), "got Dirac; the belief of a network is a point"),
    (lambda: product([HALF, MIX]), "of one kind .* got FiniteSet, GaussianMixture"),
    (lambda: product([SURE, OTHER]), "no state in common"),
    (lambda: product([HALF, SURE], [2, -1]), "common support"),
    (lambda: product([HALF, FiniteSet(POINTS + 1, HALF.log_weights)]), "the same points"),
    (
        lambda: product([Categorical(f64(1.0, 0.0)[None, None]), Categorical(f64(0.0, 1.0)[None, None])]),
        "no state in common",
    ),
    (lambda: product([Normal(X, 1.0), Normal(X, 0.5)], [1, -1]), "product is no law: its precision is not positive"),
    (lambda: product([Normal(X, 0.0)], [1]), "product is no law"),
    (
        lambda: product([Levels(f64(0.0, 1.0), torch.zeros(1, 1, 2), variance=0.1)], [1]),
        "the same levels in each, without noise",
    ),
    (lambda: product([TWO_SPREADS, Normal(X, TURNED)]), "differ by a multiple of the identity"),
    (lambda: product([Dirac(X)], [1]), "got Dirac"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
