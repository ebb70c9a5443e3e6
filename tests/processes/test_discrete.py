"""Chains against brute force: every matrix is multiplied out, every posterior summed over a joint table."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import linalg

from langevin import Noise, UserError
from langevin.distributions import Categorical, Compound, Dirac, FiniteSet
from langevin.processes import Absorbing, Chain, DiscretisedGaussian, FiniteChain, Neighbours, Uniform

STEPS = 6


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


def random_rows(*shape, seed=0):
    return torch.softmax(2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double(), -1)


def replacement_matrices(states, pi, steps=STEPS):
    """Q_n of α(t) = 1 − t on n/N: r I + (1 − r) 1πᵀ with r = α_n/α_{n−1}."""
    eye = torch.eye(states, dtype=torch.float64)
    ratios = [(steps - n) / (steps - n + 1) for n in range(1, steps + 1)]
    return torch.stack([r * eye + (1 - r) * pi.expand(states, states) for r in ratios])


def cosine_matrices(states, pi):
    """α(t) = cos²(½π (t + 0.008)/1.008) over its value at 0, at t = n/N, written out in numbers."""
    alpha = [math.cos(math.pi / 2 * (n / STEPS + 0.008) / 1.008) ** 2 for n in range(STEPS + 1)]
    kept = [b / a for a, b in itertools.pairwise(alpha)]
    return torch.stack([r * torch.eye(states).double() + (1 - r) * pi.expand(states, states) for r in kept])


def gaussian_matrices(states, low, high):
    """D3PM's app. A.2.3 a number at a time."""
    q = torch.zeros(STEPS, states, states, dtype=torch.float64)
    for n in range(STEPS):
        beta = (low + (high - low) * n / (STEPS - 1)) / STEPS
        weigh = lambda m, beta=beta: math.exp(-4 * m**2 / ((states - 1) ** 2 * beta))
        total = sum(weigh(m) for m in range(-(states - 1), states))
        for i in range(states):
            for j in range(states):
                q[n, i, j] = weigh(i - j) / total if i != j else 0.0
            q[n, i, i] = 1 - q[n, i].sum()
    return q


POINTS = [[0.0, 0.0], [1.0, 0.0], [1.2, 0.1], [3.0, 0.5]]
NEIGHBOURS = Neighbours(4, POINTS, 2)


def neighbour_matrices():
    """exp of the rates by SciPy; who is near whom by hand: 0 has 1 and 2, 1 has 2 and 0, 2 has 1 and 0, 3 has 2, 1."""
    near = f64([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]])
    rates = (near + near.T) / 4
    rates = rates - torch.diag(rates.sum(1))
    a = NEIGHBOURS.integrated_rate(torch.arange(STEPS + 1).double() / STEPS)
    return torch.stack([f64(linalg.expm((rates * (b - c)).numpy())) for b, c in zip(a[1:], a)])


MASK = f64([0.0, 0.0, 0.0, 1.0])
EVEN = torch.full((3,), 1 / 3, dtype=torch.float64)
CHAINS: dict[str, tuple[Chain, torch.Tensor]] = {
    "absorbing": (Absorbing(3), replacement_matrices(4, MASK)),
    "uniform": (Uniform(3), replacement_matrices(3, EVEN)),
    "random": (FiniteChain(random_rows(STEPS, 4, 4)), random_rows(STEPS, 4, 4)),
    "cosine": (Uniform(3, "cosine"), cosine_matrices(3, EVEN)),
    "discretised-gaussian": (DiscretisedGaussian(4, STEPS, 0.5, 9.0), gaussian_matrices(4, 0.5, 9.0)),
    "neighbours": (NEIGHBOURS, neighbour_matrices()),
    "random, a state no data have": (FiniteChain(random_rows(STEPS, 4, 4), 3), random_rows(STEPS, 4, 4)),
    "a table of absorbing": (FiniteChain(replacement_matrices(4, MASK), 3), replacement_matrices(4, MASK)),
    "a table of uniform": (FiniteChain(replacement_matrices(3, EVEN)), replacement_matrices(3, EVEN)),
}
EACH = pytest.mark.parametrize("name", CHAINS)
KNOTS = [(0, 1), (0, STEPS), (1, 3), (2, 3), (3, STEPS), (STEPS - 1, STEPS)]
TOL = {"rtol": 0, "atol": 4e-16}


def within(name, atol=4e-16):
    """Rounding; exponentials of rates are rounded in about 300 operations on their way, SciPy's and ours."""
    return {"rtol": 0, "atol": 1e-13 if name == "neighbours" else atol}


def product(matrices, m, n):
    q = torch.eye(matrices.shape[1], dtype=torch.float64)
    for i in range(m, n):
        q = q @ matrices[i]
    return q


def tables(name, m, n):
    """(Q̄_s, Q_{s→t}, Q̄_t), the first and last over the data states."""
    chain, matrices = CHAINS[name]
    k = chain.classes
    return product(matrices, 0, m)[:k], product(matrices, m, n), product(matrices, 0, n)[:k]


@EACH
@pytest.mark.parametrize(("m", "n"), KNOTS)
def test_marginal_and_transition(name, m, n):
    chain, _ = CHAINS[name]
    _, step, whole = tables(name, m, n)
    x0, x_s = torch.arange(chain.classes)[:, None], torch.arange(chain.states)[:, None]
    torch.testing.assert_close(chain.marginal(x0, n / STEPS).probs[:, 0], whole, **within(name))
    torch.testing.assert_close(chain.transition(x_s, m / STEPS, n / STEPS).probs[:, 0], step, **within(name))
    torch.testing.assert_close(chain.transition_column(x_s, m / STEPS, n / STEPS)[:, 0], step.T, **within(name))
    torch.testing.assert_close(chain.likelihood(x_s, n / STEPS)[:, 0], whole.T, **within(name))
    weights = random_rows(5, 1, chain.classes, seed=3)
    torch.testing.assert_close(chain.forward(weights, n / STEPS)[:, 0], weights[:, 0] @ whole, **within(name))


@EACH
@pytest.mark.parametrize(("m", "n"), KNOTS)
def test_bridge_is_bayes_rule(name, m, n):
    """q(x_s = j | x_t, x_0 = k) = Q̄_s[k, j] Q[j, x_t] / Q̄_t[k, x_t] wherever x_t can come from k."""
    chain, _ = CHAINS[name]
    before, step, whole = tables(name, m, n)
    for k in range(chain.classes):
        for x in range(chain.states):
            if whole[k, x] == 0:
                continue
            law = chain.bridge(torch.tensor([[x]]), torch.tensor([[k]]), n / STEPS, m / STEPS)
            torch.testing.assert_close(law.probs[0, 0], before[k] * step[:, x] / whole[k, x], **within(name))


@EACH
@pytest.mark.parametrize(("m", "n"), KNOTS)
def test_reverse_of_the_true_belief_is_the_true_posterior(name, m, n):
    """E_belief[bridge] = p(x_s | x_t) of the joint table p(x_0) Q̄_s Q, to rounding; the published ratio is not."""
    chain, _ = CHAINS[name]
    before, step, whole = tables(name, m, n)
    data = random_rows(chain.classes, seed=5)
    joint = (data[:, None] * before)[:, :, None] * step  # (x_0, x_s, x_t)
    torch.testing.assert_close(joint.sum(1), data[:, None] * whole, **within(name))
    pair = joint.sum(0)
    x_t = torch.nonzero(pair.sum(0) > 0)[:, 0]
    belief = joint.sum(1)[:, x_t] / joint.sum((0, 1))[x_t]
    law = chain.reverse(x_t[:, None], Categorical(belief.T[:, None]), n / STEPS, m / STEPS)
    torch.testing.assert_close(law.probs[:, 0], (pair[:, x_t] / pair.sum(0)[x_t]).T, **within(name, 1e-15))


@EACH
@pytest.mark.parametrize(("m", "n"), KNOTS)
def test_reverse_of_any_belief(name, m, n):
    """A wrong belief: the mean of the bridges it allows, data that cannot have led to x_t left out."""
    chain, _ = CHAINS[name]
    before, step, whole = tables(name, m, n)
    belief = random_rows(chain.states, chain.classes, seed=6)
    x_t = torch.arange(chain.states)
    law = chain.reverse(x_t[:, None], Categorical(belief[:, None]), n / STEPS, m / STEPS)
    for x in range(chain.states):
        able = whole[:, x] > 0
        if not able.any():  # a token that has no place at t = 1 stays
            assert law.probs[x, 0].tolist() == [float(j == x) for j in range(chain.states)]
            continue
        bridges = before[able] * step[:, x] / whole[able, x][:, None]
        expected = (belief[x, able][:, None] * bridges).sum(0) / belief[x, able].sum()
        torch.testing.assert_close(law.probs[x, 0], expected, **within(name, 1e-15))
    torch.testing.assert_close(law.probs.sum(-1), torch.ones_like(law.probs[..., 0]), **within(name, 1e-15))


@EACH
def test_bridge_keeps_the_marginal(name):
    """Σ_{x_t} q(x_s | x_t, x_0) q(x_t | x_0) = q(x_s | x_0)."""
    chain, _ = CHAINS[name]
    for m, n in KNOTS:
        before, _, whole = tables(name, m, n)
        for k in range(chain.classes):
            x_t = torch.nonzero(whole[k] > 0)
            bridges = chain.bridge(x_t, torch.full_like(x_t, k), n / STEPS, m / STEPS).probs[:, 0]
            torch.testing.assert_close(whole[k, x_t[:, 0]] @ bridges, before[k], **within(name, 1e-15))


def test_a_belief_against_the_evidence_says_nothing():
    """A belief that rules out every x_0 the evidence allows: what the chain alone allows is kept, and no nan."""
    chain = Absorbing(3)
    sure = Categorical(f64([[[0.0, 1.0, 0.0]]]))
    law = chain.reverse(torch.tensor([[0]]), sure, 0.5, 0.25)
    assert law.probs[0, 0].tolist() == [1.0, 0.0, 0.0, 0.0]


@EACH
def test_gradients_are_finite(name):
    """The law is differentiated in training (the bound of D3PM): no 0/0 where a belief is ruled out."""
    chain, _ = CHAINS[name]
    x_t = torch.arange(chain.states)[:, None]
    logits = torch.zeros(chain.states, 1, chain.classes, dtype=torch.float64, requires_grad=True)
    for m, n in KNOTS:
        law = chain.reverse(x_t, Categorical(torch.softmax(logits, -1)), n / STEPS, m / STEPS)
        (gradient,) = torch.autograd.grad((law.probs**2).sum(), logits)
        assert gradient.isfinite().all()


def test_a_prompt_at_pure_noise_stays():
    """An unmasked token at t = 1, where the absorbing chain has none, is kept: the limit of t → 1; the masks move."""
    chain = Absorbing(3)
    belief = Categorical(random_rows(1, 2, 3))
    law = chain.reverse(torch.tensor([[2, 3]]), belief, 1.0, 0.5)
    near = chain.reverse(torch.tensor([[2, 3]]), belief, 1 - 1e-12, 0.5)
    assert law.probs[0, 0].tolist() == [0.0, 0.0, 1.0, 0.0]
    torch.testing.assert_close(law.probs, near.probs, rtol=0, atol=1e-11)


@EACH
def test_time_stays_with_its_sample(name):
    """A time a sample, with as many samples as positions and states."""
    chain, _ = CHAINS[name]
    size = chain.states
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, chain.states, (size, size), generator=generator)
    x0 = torch.randint(0, chain.classes, (size, size), generator=generator)
    belief = random_rows(size, size, chain.classes, seed=2)
    s, t = f64([0, 1, 2, 3])[:size] / STEPS, f64([2, 3, 5, 4])[:size] / STEPS
    answers = (
        lambda x, x0, b, t, s: chain.marginal(x0, t).probs,
        lambda x, x0, b, t, s: chain.transition(x, s, t).probs,
        lambda x, x0, b, t, s: chain.reverse(x, Categorical(b), t, s).probs,
        lambda x, x0, b, t, s: chain.likelihood(x, t),
        lambda x, x0, b, t, s: chain.forward(b, t),
    )
    for answer in answers:
        together = answer(x, x0, belief, t, s)
        for i in range(size):
            alone = answer(x[i : i + 1], x0[i : i + 1], belief[i : i + 1], t[i], s[i])
            torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-15)
    images = x.reshape(size, 1, 2, size // 2) if size == 4 else x.reshape(size, 1, 3, 1)
    flat, shaped = chain.transition(x, s, t).probs, chain.transition(images, s, t).probs
    assert torch.equal(shaped.reshape(flat.shape), flat)


@EACH
def test_a_sample_that_stands_still(name):
    """s = t is the identity, at data and at noise too."""
    chain, _ = CHAINS[name]
    x = torch.arange(chain.states)[:, None]
    for n in (0, 2, STEPS):
        eye = torch.eye(chain.states, dtype=torch.float64)
        torch.testing.assert_close(chain.transition(x, n / STEPS, n / STEPS).probs[:, 0], eye, **TOL)


@pytest.mark.parametrize("name", ["absorbing", "uniform", "random"])
def test_prior(name):
    """Where the chain has forgotten, the prior is the marginal at 1 for any x_0; else its mean over data."""
    chain, _ = CHAINS[name]
    prior = chain.prior((2, 5))
    assert prior.sample(Noise(0, 3)).shape == (3, 2, 5)
    ends = chain.marginal(torch.arange(chain.classes)[:, None], 1.0).probs[:, 0]
    torch.testing.assert_close(prior.probs[0, 1, 4], ends.mean(0), **TOL)
    if name != "random":
        torch.testing.assert_close(ends, prior.probs[0, 0, 0].expand_as(ends), **TOL)


def test_joint_beliefs_stay_joint():
    """x_0 is 00 or 11: reversed to clean data from two masks both positions agree, which no product of laws does."""
    chain = Absorbing(2)
    belief = FiniteSet(torch.tensor([[0, 0], [1, 1]]), f64([[0.5, 0.5]]).log())
    masks = torch.full((2000, 2), 2)
    law = chain.reverse(masks, belief, 1.0, 0.0)
    assert isinstance(law, Compound)
    x = law.sample(Noise(0, 2000))
    assert (x[:, 0] == x[:, 1]).all()
    assert abs(float(x.double().mean()) - 0.5) < 5 * 0.5 / 2000**0.5
    half = chain.reverse(masks, belief, 1.0, 0.5).sample(Noise(1, 2000))
    both = (half < 2).all(1)
    assert (half[both, 0] == half[both, 1]).all()
    assert abs(float((half == 2).double().mean()) - 0.5) < 5 * 0.5 / 4000**0.5


def test_products_are_kept_and_do_not_depend_on_the_order():
    matrices = random_rows(STEPS, 4, 4)
    one, other = FiniteChain(matrices), FiniteChain(matrices)
    pairs = [(m, n) for m in range(STEPS + 1) for n in range(m, STEPS + 1)]
    for m, n in pairs:
        torch.testing.assert_close(one.product(m, n), product(matrices, m, n), **TOL)
    for m, n in reversed(pairs):
        torch.testing.assert_close(other.product(m, n), product(matrices, m, n), **TOL)
    assert one.product(1, 4) is one.product(1, 4)


def test_knots():
    chain = CHAINS["random"][0]
    assert chain.knot(f64([0.0, 1 / 6, 0.5, 1.0])).tolist() == [0, 1, 3, 6]
    assert chain.t_min == 1 / 6
    for beside in (0.35, 0.32):  # above and below a third
        with pytest.raises(UserError, match="t must be a knot n/6"):
            chain.knot(f64([1 / 3, beside]))
    with pytest.raises(UserError, match=r"t must be a knot n/6 of the table, got 0.4"):
        chain.marginal(torch.zeros(1, 1, dtype=torch.int64), 0.4)


TOKEN = torch.zeros(1, 1, dtype=torch.int64)
REFUSED = [
    (lambda: Absorbing(0), "classes must be an integer of at least 1, got 0"),
    (lambda: Uniform(1), "classes must be an integer of at least 2, got 1"),
    (lambda: FiniteChain(torch.ones(2, 3)), r"transitions must have shape \(N, S, S\), got \(2, 3\)"),
    (lambda: FiniteChain(torch.ones(2, 3, 4)), r"transitions must have shape \(N, S, S\), got \(2, 3, 4\)"),
    (lambda: FiniteChain(torch.ones(2, 3, 3)), "transitions must have rows that are >= 0 and sum to 1"),
    (lambda: FiniteChain(f64([[[1.5, -0.5], [0.5, 0.5]]])), "transitions must have rows that are >= 0"),
    (lambda: FiniteChain(f64([[[torch.nan, 1.0], [0.5, 0.5]]])), "transitions must have rows that are >= 0"),
    (lambda: FiniteChain(torch.eye(3)[None], 4), r"classes must lie in \[1, 3\], got 4"),
    (lambda: FiniteChain(torch.eye(3)[None], -1), r"classes must lie in \[1, 3\], got -1"),
    (lambda: CHAINS["random"][0].product(3, 2), "a chain runs from s to t >= s, got knots 3 and 2"),
    (lambda: Absorbing(3).marginal(TOKEN + 3, 0.5), r"x0 must hold int64 tokens in \[0, 3\), got 3"),
    (lambda: Absorbing(3).marginal(TOKEN - 1, 0.5), r"x0 must hold int64 tokens in \[0, 3\), got -1"),
    (lambda: Absorbing(3).transition(TOKEN + 4, 0.1, 0.5), r"x_s must hold int64 tokens in \[0, 4\), got 4"),
    (
        lambda: Absorbing(3).marginal(torch.zeros(1, 1), 0.5),
        r"x0 must hold int64 tokens in \[0, 3\), got torch.float32",
    ),
    (lambda: Absorbing(3).bridge(TOKEN, TOKEN + 3, 0.5, 0.1), r"x0 must hold int64 tokens in \[0, 3\), got 3"),
    (lambda: Absorbing(3).bridge(TOKEN, TOKEN, 0.5, 0.1, 0.0), "eta must be 1 for Absorbing"),
    (lambda: Uniform(3).reverse(TOKEN, Dirac(TOKEN), 0.5, 0.1), "belief must be Categorical or FiniteSet .* got Dirac"),
    (
        lambda: Uniform(3).reverse(TOKEN, Categorical(torch.ones(1, 1, 4) / 4), 0.5, 0.1),
        "belief must be over 3 classes",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
