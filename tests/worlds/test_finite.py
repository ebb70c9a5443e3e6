"""Finite worlds against sums over all their points: images, near duplicates in float32, tokens, phase space."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from langevin import Noise, UserError, processes, worlds
from langevin.distributions import FiniteSet
from langevin.worlds import Empirical, TokenTable

PROCESSES = {
    "vp": processes.VP(),
    "ve": processes.VE(),
    "edm": processes.EDM(),
    "flow": processes.RectifiedFlow(),
    "cosine": processes.Cosine(),
    "ddpm": processes.DDPM(),
}
EACH = pytest.mark.parametrize("name", PROCESSES)


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute(world, x, alpha, sigma):
    """log w_n + log N(x; α x_n, σ²), one pair of points at a time, (B, N)."""
    rows = []
    for row, a, s in zip(x, alpha, sigma):
        density = [stats.norm(float(a) * p.reshape(-1), float(s)).logpdf(row.reshape(-1)).sum() for p in world.points]
        rows.append(world.log_weights + f64(density))
    return torch.stack(rows)


@EACH
@pytest.mark.parametrize("shape", [(4,), (1, 2, 2), (1,)])
def test_belief_is_bayes_rule(name, shape):
    """Weights, mean, covariance and density by sums over the points; as many samples as points and coordinates."""
    process = PROCESSES[name]
    world = Empirical(random(4, *shape), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    t = f64([process.t_min, 0.2, 0.6, 0.98])
    x = world.sample(4, 1, process=process, t=t)
    log_joint = brute(world, x, process.alpha(t), process.sigma(t))
    belief = world.denoiser(process)(x, t)
    assert isinstance(belief, FiniteSet)
    weights = torch.softmax(log_joint, -1)
    # a log density is about d log σ + 40: 1e-16 of that, and the relative 1e-13 of σ at t_min of a difference squared
    torch.testing.assert_close(belief.log_weights.exp(), weights, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(world.log_prob(x, process, t), torch.logsumexp(log_joint, -1), rtol=1e-9, atol=1e-9)
    mean = torch.einsum("bn,n...->b...", weights, world.points)
    torch.testing.assert_close(belief.mean, mean, rtol=1e-9, atol=1e-9)
    apart = (world.points - mean[:, None]).flatten(2)
    cov = torch.einsum("bn,bni,bnj->bij", weights, apart, apart)
    torch.testing.assert_close(belief.cov.dense(shape), cov, rtol=1e-8, atol=1e-9)


@EACH
def test_score_is_the_gradient(name):
    process = PROCESSES[name]
    world = Empirical(random(5, 3))
    t = f64([0.05, 0.5, 0.95])
    x = world.sample(3, 1, process=process, t=t).requires_grad_()
    (gradient,) = torch.autograd.grad(world.log_prob(x, process, t).sum(), x)
    torch.testing.assert_close(world.score(x.detach(), process, t), gradient, rtol=1e-8, atol=1e-8)


def test_chunks_do_not_matter():
    process = PROCESSES["vp"]
    points, t = random(7, 3), torch.linspace(0.1, 0.9, 10, dtype=torch.float64)
    whole = Empirical(points)
    x = whole.sample(10, 1, process=process, t=t)
    for chunk in (1, 3 * 7 * 4):
        small = Empirical(points, chunk=chunk)
        for times in (t, f64(0.4)):
            assert torch.equal(
                small.denoiser(process)(x, times).log_weights, whole.denoiser(process)(x, times).log_weights
            )


def test_near_duplicates_in_float32():
    """|x| ~ 1e3 with a gap of 1e-3, noise of the gap's size: float32 differences are exact where the formula is not.

    x − x_n of two near float32 numbers is exact (Sterbenz) and its square good to 2⁻²⁴, so weights are good to 1e-6;
    ‖x‖² + ‖x_n‖² − 2⟨x, x_n⟩ has a rounding of 2⁻²⁴·2e6 = 0.1, in units of a gap² of 1e-6.
    """
    process = PROCESSES["edm"]
    gap, t = 1e-3, 1e-3 / 80
    points = torch.tensor([[1000.0, 1000.0], [1000.0 + gap, 1000.0], [1000.0, 1000.0 - gap], [-1000.0, 500.0]])
    x = points[[0, 1, 2, 3]] + gap * random(4, 2).float()
    got = Empirical(points).denoiser(process)(x, t).log_weights.exp()
    known = Empirical(points.double()).denoiser(process)(x.double(), t).log_weights.exp()
    assert 0.05 < float(known[0, 0]) < 0.95  # the question is a hard one
    torch.testing.assert_close(got, known, rtol=0, atol=2e-6)
    square = (x**2).sum(1)[:, None] + (points**2).sum(1) - 2 * x @ points.T
    cancelled = torch.softmax(-0.5 * square.double() / float(process.sigma(f64(t))) ** 2, -1)
    assert float((cancelled - known).abs().max()) > 0.5
    assert Empirical(points).sample(2, 1).dtype == torch.float32


def test_float32_points_and_float64_states():
    """The comparison is made in the wider of the two."""
    process = PROCESSES["vp"]
    points = random(5, 3).float()
    x = Empirical(points.double()).sample(4, 1, process=process, t=0.3)
    got = Empirical(points).denoiser(process)(x, 0.3)
    known = Empirical(points.double()).denoiser(process)(x, 0.3)
    torch.testing.assert_close(got.log_weights, known.log_weights, rtol=1e-12, atol=1e-12)
    assert got.mean.dtype == torch.float64


@EACH
def test_ends(name):
    """At t = 0 the nearest point and no nan; at t = 1 finite."""
    process = PROCESSES[name]
    world = Empirical(random(5, 3))
    for x in (world.points, world.points + 1e-3 * random(5, 3, seed=1)):
        belief = world.denoiser(process)(x, 0.0)
        torch.testing.assert_close(belief.mean, world.points, rtol=0, atol=1e-14)
    x = world.sample(4, 1, process=process, t=1.0)
    assert world.denoiser(process)(x, 1.0).mean.isfinite().all()
    assert world.log_prob(x, process, 1.0).isfinite().all()


def test_labels():
    """Points of a label: conditional belief, classifier and draws by their sums."""
    process = PROCESSES["vp"]
    labels = torch.tensor([0, 2, 0, 1, 2])
    world = Empirical(random(5, 2), torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0]), labels)
    x = world.sample(3, 1, process=process, t=0.4)
    weights = world.denoiser(process)(x, 0.4).log_weights.exp()
    posterior = torch.stack([weights[:, labels == k].sum(1) for k in range(3)], 1)
    torch.testing.assert_close(world.classifier(process)(x, 0.4).exp(), posterior, rtol=1e-12, atol=1e-14)
    for k in range(3):
        bound = world.denoiser(process).given(label=k)(x, 0.4).log_weights.exp()
        known = torch.where(labels == k, weights, 0.0) / posterior[:, [k]]
        torch.testing.assert_close(bound, known, rtol=1e-12, atol=1e-14)
    draws, drawn = world.sample(2000, 3, with_labels=True)
    index = (draws[:, None] == world.points).all(-1).int().argmax(1)
    assert torch.equal(labels[index], drawn)
    share = torch.bincount(index, minlength=5) / 2000
    p = world.log_weights.exp()
    assert ((share - p).abs() < 5 * torch.sqrt(p * (1 - p) / 2000)).all()


def test_phase_space():
    """Position and velocity of points against the dense normal density of the state."""
    process = processes.PhaseSpace()
    world = Empirical(random(4, 3))
    z = world.sample(5, 1, process=process, t=0.3)
    assert z.shape == (5, 2, 3)
    gain, sigma = process.gain(0.3), process.cov(0.3)
    log_joint = torch.zeros(5, 4, dtype=torch.float64)
    for b, n in itertools.product(range(5), range(4)):
        mean = (gain[:, None] * world.points[n]).T
        density = stats.multivariate_normal([0, 0], sigma).logpdf((z[b].T - mean).numpy()).sum()
        log_joint[b, n] = math.log(0.25) + density
    belief = world.denoiser(process)(z, 0.3)
    torch.testing.assert_close(belief.log_weights.exp(), torch.softmax(log_joint, -1), rtol=1e-8, atol=1e-9)
    known = torch.logsumexp(log_joint, -1)
    torch.testing.assert_close(world.log_prob(z, process, 0.3), known, rtol=1e-9, atol=1e-9)


# Tokens

TABLE = torch.softmax(2 * random(3, 3, 3, seed=3), 0).double()
CHAINS = {
    "absorbing": processes.Absorbing(3),
    "uniform": processes.Uniform(3),
    "chain": processes.FiniteChain(torch.softmax(2 * random(5, 4, 4), -1), 3),
}


def brute_tokens(world, chain, x, t):
    """p(x_0, x_t) over all sequences by products of the chain's own matrix, (B, K^L)."""
    q = chain.marginal(torch.arange(3)[:, None], t).probs[:, 0]
    rows = []
    for row in x.tolist():
        rows.append(
            [
                float(world.probs[sequence]) * math.prod(float(q[k, j]) for k, j in zip(sequence, row))
                for sequence in itertools.product(range(3), repeat=world.shape[0])
            ]
        )
    return f64(rows)


@pytest.mark.parametrize("name", CHAINS)
def test_joint_belief_of_tokens(name):
    """p(x_0 | x_t) and p(x_t) over all 27 sequences; the table keeps the order of its axes."""
    chain, world = CHAINS[name], TokenTable(TABLE)
    torch.testing.assert_close(world.probs, TABLE / TABLE.sum(), rtol=1e-13, atol=0)
    t = 0.6
    x = world.sample(6, 1, process=chain, t=t)
    joint = brute_tokens(world, chain, x, t)
    belief = world.denoiser(chain)(x, t)
    posterior = joint / joint.sum(1, keepdim=True)
    torch.testing.assert_close(belief.log_weights.exp(), posterior, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(world.log_prob(x, chain, t), torch.log(joint.sum(1)), rtol=1e-12, atol=1e-12)
    clean = torch.tensor([[0, 1, 2], [2, 2, 0]])
    known = torch.log(world.probs[[0, 2], [1, 2], [2, 0]])
    torch.testing.assert_close(world.log_prob(clean), known, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", CHAINS)
def test_noised_tokens_have_their_law(name):
    """Draws of x_t against p(x_t) over all states: the draw of the sequence and that of its noise are independent."""
    chain, world, n = CHAINS[name], TokenTable(TABLE[0]), 20_000
    x = world.sample(n, 2, process=chain, t=0.4)
    states = torch.cartesian_prod(*[torch.arange(chain.states)] * 2)
    law = world.log_prob(states, chain, 0.4).exp()
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    share = torch.bincount(x[:, 0] * chain.states + x[:, 1], minlength=len(law)) / n
    assert ((share - law).abs() <= 5 * torch.sqrt(law * (1 - law) / n)).all()


@pytest.mark.parametrize("name", CHAINS)
def test_one_reverse_step_of_tokens_is_exact(name):
    """x_s | x_t through the joint belief against the enumerated law over all states: counts to five deviations."""
    chain, world, n = CHAINS[name], TokenTable(TABLE[0]), 20_000
    t, s = 0.6, 0.2
    x_t = world.sample(1, 4, process=chain, t=t)
    before = chain.marginal(torch.arange(3)[:, None], s).probs[:, 0]
    step = chain.transition(torch.arange(chain.states)[:, None], s, t).probs[:, 0]
    law = torch.einsum("kl,ki,lj->ij", world.probs, before, before)
    law = law * step[:, x_t[0, 0]][:, None] * step[:, x_t[0, 1]]
    law = (law / law.sum()).reshape(-1)
    x_t = x_t.expand(n, 2)
    draws = chain.reverse(x_t, world.denoiser(chain)(x_t, t), t, s).sample(Noise(2, n))
    share = torch.bincount(draws[:, 0] * chain.states + draws[:, 1], minlength=law.numel()) / n
    assert ((share - law).abs() <= 5 * torch.sqrt(law * (1 - law) / n)).all()


def test_count():
    """Relative frequencies in the table's own axes; samples have the table's."""
    world = TokenTable(TABLE)
    x = torch.tensor([[0, 1, 2], [0, 1, 2], [2, 0, 0], [1, 1, 1]])
    table = world.count(x)
    assert table.shape == (3, 3, 3)
    assert (float(table[0, 1, 2]), float(table[2, 0, 0]), float(table[1, 1, 1])) == (0.5, 0.25, 0.25)
    n = 20_000
    share, p = world.count(world.sample(n, 1)), world.probs
    assert ((share - p).abs() <= 5 * torch.sqrt(p * (1 - p) / n)).all()


def test_sequences_that_never_occur():
    """Zeros of the table: never drawn, never believed, no nan."""
    world = TokenTable(torch.tensor([[0.5, 0.0], [0.0, 0.5]]))
    assert (world.sample(100, 1)[:, 0] == world.sample(100, 1)[:, 1]).all()
    chain = processes.Uniform(2)
    belief = world.denoiser(chain)(torch.tensor([[0, 1]]), 0.5)
    torch.testing.assert_close(belief.log_weights.exp(), f64([[0.5, 0.0, 0.0, 0.5]]))
    with pytest.raises(UserError, match="of a component with weight > 0"):
        world.denoiser(chain).given(label=1)


POINTS = torch.zeros(3, 2)
REFUSED = [
    (lambda: Empirical(torch.zeros(3)), r"points must have shape \(N, \*shape\) with N >= 1, got \(3,\)"),
    (lambda: Empirical(torch.zeros(0, 2)), r"points must have shape .* got \(0, 2\)"),
    (lambda: Empirical(POINTS / 0), "points must be finite"),
    (lambda: Empirical(POINTS, torch.ones(2)), r"weights must have shape \(3,\)"),
    (lambda: Empirical(POINTS, -torch.ones(3)), r"weights must have shape \(3,\), be >= 0"),
    (lambda: Empirical(POINTS, torch.zeros(3)), "have a positive sum"),
    (lambda: Empirical(POINTS, labels=torch.zeros(2, dtype=torch.int64)), r"labels must be int64 >= 0 of shape \(3,\)"),
    (lambda: Empirical(POINTS, labels=torch.zeros(3)), "labels must be int64"),
    (lambda: Empirical(POINTS, labels=torch.tensor([-1, 0, 1])), "labels must be int64 >= 0"),
    (lambda: Empirical(POINTS).denoiser(processes.VP())(torch.zeros(2, 3), 0.5), r"x must have shape \(B, 2\)"),
    (lambda: Empirical(POINTS).denoiser(processes.GammaNoise())(torch.zeros(2, 3), 0.5), r"x must have shape \(B, 2\)"),
    (lambda: Empirical(POINTS).denoiser(processes.Uniform(3))(torch.zeros(2, 2), 0.5), "must hold int64 tokens"),
    (lambda: TokenTable(torch.ones(2, 3)), r"probs must have one axis a position, all of K classes, got \(2, 3\)"),
    (lambda: TokenTable(torch.tensor(1.0)), r"probs must have one axis a position"),
    (lambda: TokenTable(-torch.ones(2, 2)), "weights must have shape"),
    (lambda: TokenTable(torch.ones(2, 2)).denoiser(processes.Uniform(2))(torch.zeros(1, 3).long(), 0.5), "x must have"),
    (
        lambda: TokenTable(torch.ones(3, 3)).denoiser(processes.Uniform(2))(torch.zeros(1, 2).long(), 0.5),
        r"x0 must hold int64 tokens in \[0, 2\), got 2",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_repr():
    assert repr(worlds.TokenTable(torch.ones(2, 2))) == "TokenTable(shape=(2,), components=4)"
