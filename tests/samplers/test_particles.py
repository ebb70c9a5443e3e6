"""Particles reach the tilted law: against closed forms, by slopes over their number, with unbiased evidence.

It is one file, of more than 400 lines, since closed forms and steps by hand tilt the same few worlds, which stand at
its head.
"""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, guidance, operators, processes, samplers, worlds
from langevin.denoisers import dirac, independent, unit
from langevin.samplers.particles import (
    POTENTIALS,
    Gradient,
    Own,
    Reward,
    effective,
    fk_steering,
    smc,
    smc_posterior,
    smc_product,
    systematic,
    twisted_smc,
)

SHARP = worlds.random_mixture(2, 3, rms=0.7, seed=1)
WORLD = worlds.GaussianMixture(
    SHARP.log_weights.exp(), SHARP.means, SHARP.basis @ torch.diag_embed(SHARP.values + 0.04) @ SHARP.basis.mT
)
"""No direction is finer than 0.2, so that weights have short tails, and 64 populations a standard error."""
FLOW, VP = processes.RectifiedFlow(), processes.VP()
LINEAR = torch.tensor([0.8, -0.5], dtype=torch.float64)
TABLE = worlds.TokenTable(torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(0)))
TWOS = lambda x: (x == 2).sum(1).double()
UNIFORM = torch.linspace(1, 0, 9, dtype=torch.float64)
"""From t = 1 itself, where the prior of the flow is its marginal to the bit."""


def covariances(world):
    return torch.einsum("kij,kj,klj->kil", world.basis, world.values, world.basis)


def quadratic_tilt(world, a, b):
    r"""log Z and the mixture ∝ p(x) exp(aᵀx − ½ b |x|²), with S = (C⁻¹ + b I)⁻¹ and h = C⁻¹m + a a component:

    log w' = log w − ½ log det(I + bC) + ½ hᵀSh − ½ mᵀC⁻¹m,  mean Sh, covariance S.
    """
    inverse = torch.linalg.inv(covariances(world))
    s = torch.linalg.inv(inverse + b * torch.eye(2, dtype=torch.float64))
    h = (inverse @ world.means[..., None])[..., 0] + a
    square = lambda m, v: torch.einsum("ki,kij,kj->k", v, m, v)
    log_det = torch.logdet(s) - torch.logdet(covariances(world))
    log_weights = world.log_weights + 0.5 * (log_det + square(s, h) - square(inverse, world.means))
    tilted = worlds.GaussianMixture(torch.softmax(log_weights, 0), (s @ h[..., None])[..., 0], s)
    return float(torch.logsumexp(log_weights, 0)), tilted


def quadrature(log_density, size=401, width=6.0):
    """log ∫ and E[x] of a density in the plane, by the trapezoidal rule, whose error for smooth decaying densities
    falls faster than any power of the spacing (here 0.03, a seventh of the narrowest component)."""
    line = torch.linspace(-width, width, size, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    log_p = torch.nan_to_num(log_density(x), nan=-torch.inf)
    return float(torch.logsumexp(log_p, 0) + 2 * torch.log(line[1] - line[0])), torch.softmax(log_p, 0) @ x


def agrees(particles, log_z, mean, f=None):
    """Evidence and a mean within 4 standard errors, both from the scatter of independent populations.

    The evidence of a population is unbiased, so its mean over populations is normal about the truth. A mean under the
    tilted law is a ratio of such means, R = Σ Z_p E_p / Σ Z_p, whose standard error by the delta method is the standard
    deviation of Z_p (E_p − R) / Z over √P; its bias of 1/(nP) is far below that.
    """
    count = math.sqrt(particles.populations)
    z = (particles.log_evidence - log_z).exp()
    assert abs(float(z.mean()) - 1) < 4 * float(z.std()) / count + 1e-9, (z.mean(), z.std() / count)
    x = particles.x.double() if f is None else f(particles.x)
    weights = torch.softmax(particles.log_weights, 1)
    each = (weights[..., None] * x).sum(1)
    whole = (z[:, None] * each).sum(0) / z.sum()
    error = (z[:, None] * (each - whole) / z.mean()).std(0) / count
    assert bool(((whole - mean).abs() < 4 * error + 1e-9).all()), (whole, mean, error)
    torch.testing.assert_close(whole, particles.mean(None if f is None else lambda v: f(v)), rtol=1e-9, atol=1e-9)
    assert bool((particles.ess >= 1 - 1e-9).all())
    assert bool((particles.ess <= particles.n + 1e-9).all())


def reward(a, b):
    return lambda x: x @ a - 0.5 * b * x.square().sum(1)


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("b", [0.0, 1.5], ids=["linear", "quadratic"])
def test_a_reward_in_closed_form(potential, b):
    """Every potential, since their products telescope to the same tilt; ``sum`` with a fifth of the reward, as its
    weights run away."""
    scale = 0.2 if potential == "sum" else 1.0
    log_z, truth = quadratic_tilt(WORLD, scale * LINEAR, scale * b)
    found = fk_steering(
        WORLD.denoiser(FLOW), reward(LINEAR, b), scale=scale, n=64, grid=UNIFORM, populations=64, potential=potential
    )
    agrees(found, log_z, truth.mean)


@pytest.mark.parametrize("draws", [0, 3])
def test_looking_ahead_by_draws(draws):
    """What is random in ψ_t is a part of the particle: nothing is biased."""
    log_z, truth = quadratic_tilt(WORLD, LINEAR, 1.5)
    found = fk_steering(WORLD.denoiser(FLOW), reward(LINEAR, 1.5), n=64, draws=draws, grid=UNIFORM, populations=64)
    agrees(found, log_z, truth.mean)


@pytest.mark.parametrize("belief", [unit, dirac])
def test_a_base_that_is_not_exact(belief):
    """The law that is tilted is that of the base's own chain: with a reward that is linear and a chain that is Gaussian
    there is a closed form, log Z = aᵀm + ½ aᵀVa with m and V of plain samples, here those of a million draws.

    The world is one normal component, for which x̂_0 is affine in x_t and the chain of either belief Gaussian.
    """
    world = worlds.GaussianMixture(torch.ones(1), torch.tensor([[0.4, -0.2]]), torch.tensor([[0.5, 0.2]]))
    denoiser = belief(world.denoiser(FLOW))
    plain = langevin.sample(denoiser, samplers.Ancestral(), n=200_000, grid=UNIFORM, seed=9, batch=200_000)
    mean, cov = plain.mean(0), torch.cov(plain.T)
    log_z = float(LINEAR @ mean + 0.5 * LINEAR @ cov @ LINEAR)
    for proposal in (None, Gradient()):
        found = fk_steering(denoiser, reward(LINEAR, 0.0), n=64, grid=UNIFORM, populations=64, proposal=proposal)
        # The moments of the plain draws are known to 1/√200,000, a seventh of what 4,096 particles leave: 4 s.e. hold.
        agrees(found, log_z, mean + cov @ LINEAR)


@pytest.mark.parametrize("proposal", ["gradient", "unguided", "conditional", "own"])
def test_the_posterior_of_a_measurement(proposal):
    """Whatever proposes: the gradient of the likelihood, the kernel itself, the mean or the whole kernel of the exact
    conditional denoiser, with which the weights are even."""
    operator = operators.Matrix(torch.tensor([[1.0, 0.5]], dtype=torch.float64))
    y, std = torch.tensor([[0.4]], dtype=torch.float64), 0.15
    truth = WORLD.posterior(operator, y, std)
    a = torch.tensor([1.0, 0.5], dtype=torch.float64)
    each = torch.distributions.Normal(WORLD.means @ a, torch.sqrt(covariances(WORLD) @ a @ a + std**2))
    log_z = float(torch.logsumexp(WORLD.log_weights + each.log_prob(y[0]), 0))
    given = {
        "gradient": {},
        "unguided": {"proposal": None},
        "conditional": {"proposal": truth.denoiser(VP)},
        "own": {"proposal": Own(truth.denoiser(VP))},
    }[proposal]
    found = smc_posterior(WORLD.denoiser(VP), operator, y, std, n=64, steps=12, populations=64, seed=2, **given)
    agrees(found, log_z, truth.mean)


def test_the_optimal_twist_has_even_weights():
    """With ψ_t = p(y | x_t) of the world and its conditional kernel every weight is Z: Doob's transform. To 1e-8, since
    the last step, which is the base's own, goes to x_0 from t_min, where y is not known to a bit."""
    classifier = WORLD.classifier(VP)
    factor = lambda x, t, belief: classifier(x, t)[:, 1]
    conditional = Own(WORLD.denoiser(VP).given(label=1))
    found = smc(WORLD.denoiser(VP), factor, n=100, steps=5, proposal=conditional)
    # Before the last step the weights are p(y) p_T(x_T | y) / p_T(x_T), which the prior alone knows nothing of.
    start = classifier(VP.prior((2,)).sample(Noise(0, 100)), torch.tensor(1.0, dtype=torch.float64))[:, 1]
    assert float(found.ess[0, :-1].min()) > 99
    assert found.log_evidence.item() == pytest.approx(torch.logsumexp(start, 0).item() - math.log(100), abs=0.05)


def test_classifier_guidance_of_a_large_scale():
    """p(x) p(y | x)³, which guidance at scale 3 does not sample, by quadrature."""
    classifier = WORLD.classifier(VP)
    log_z, mean = quadrature(lambda x: WORLD.log_prob(x) + 3 * classifier(x, 0.0)[:, 1])
    guided = guidance.classifier(WORLD.denoiser(VP), classifier, label=1, scale=3.0)
    found = twisted_smc(guided, n=128, steps=12, populations=32, seed=4)
    agrees(found, log_z, mean)
    plain = langevin.sample(guided, samplers.DDIM(), n=2000, steps=60)
    assert (plain.mean(0) - mean).norm() > 0.1


def test_classifier_free_guidance_of_a_large_scale():
    """p(x)⁻¹ p(x | y)², which classifier-free guidance at scale 2 does not sample, by quadrature."""
    log_z, mean = quadrature(lambda x: 2 * WORLD.part(1).log_prob(x) - WORLD.log_prob(x))
    pooled = guidance.classifier_free(WORLD.denoiser(VP), label=1, guidance_scale=2.0)
    found = smc_product(pooled, n=128, steps=16, populations=48, seed=5)
    agrees(found, log_z, mean)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, -0.3), (0.5, 0.5)])
def test_products_and_negations(weights):
    """Whatever the sum of the weights: by quadrature. b is wider than a, so a negation has a law."""
    a = worlds.GaussianMixture(
        torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 0.0], [-0.5, 0.3]]), torch.full((2, 2), 0.1)
    )
    b = worlds.GaussianMixture(torch.ones(2), torch.tensor([[0.6, 0.4], [0.0, -0.6]]), torch.full((2, 2), 0.3))
    log_z, mean = quadrature(lambda x: weights[0] * a.log_prob(x) + weights[1] * b.log_prob(x))
    found = smc_product([a.denoiser(VP), b.denoiser(VP)], weights, n=128, steps=16, populations=32, seed=6)
    agrees(found, log_z, mean)


@pytest.mark.parametrize("chain", [processes.Absorbing(3), processes.Uniform(3)], ids=["absorbing", "uniform"])
@pytest.mark.parametrize("proposal", ["unguided", "guided"])
def test_tokens_against_the_tilted_table(chain, proposal):
    """All 27 sequences, with a reward for every 2; the guided proposal is the kernel of the tilted table itself, or
    rather that of its positions on their own, which reaches every sequence."""
    tilted = TABLE.probs.flatten() * torch.exp(1.5 * TWOS(TABLE.points))
    guided = independent(worlds.TokenTable(tilted.reshape(3, 3, 3)).denoiser(chain))
    given = {} if proposal == "unguided" else {"proposal": guided}
    found = fk_steering(TABLE.denoiser(chain), TWOS, scale=1.5, n=64, steps=6, draws=4, populations=64, **given)
    assert found.x.dtype == torch.int64
    # Of the 27 probabilities the sums over a position each: rare sequences are not normal at 64 populations.
    pair = lambda x, i, j: torch.nn.functional.one_hot(3 * x[..., i] + x[..., j], 9)
    pairs = lambda x: torch.cat([pair(x, 0, 1), pair(x, 1, 2), pair(x, 0, 2)], -1).double()
    agrees(found, float(tilted.sum().log()), (tilted / tilted.sum()) @ pairs(TABLE.points), pairs)


@pytest.mark.parametrize("weights", [(-1.0, 2.0), (0.7, 0.8)])
def test_products_of_tables(weights):
    """Of two laws of one token of five, for which a belief about each position is whole."""
    a, b = (worlds.TokenTable(torch.rand(5, generator=torch.Generator().manual_seed(i)) + 0.2) for i in (1, 2))
    truth = a.probs ** weights[0] * b.probs ** weights[1]
    for chain in (processes.Absorbing(5), processes.Uniform(5)):
        parts = [independent(world.denoiser(chain)) for world in (a, b)]
        found = smc_product(parts, weights, n=64, steps=6, populations=64)
        hot = lambda x: torch.nn.functional.one_hot(x[..., 0], 5).double()
        agrees(found, float(truth.sum().log()), truth / truth.sum(), hot)


def test_the_error_falls_as_one_over_the_root():
    """RMS error over 200 populations of 32, 128 and 512 particles: log–log slope −½.

    An RMS of R values is known to 1/√(2R) = 5 %, so a slope between ends a factor 16 apart to √2·0.05 / log 16 = 0.026;
    the bias, of order 1/n, adds (n·sd)⁻² to the square: less than 3 % at 32. Four standard errors and that: 0.12.
    """
    _, truth = quadratic_tilt(WORLD, LINEAR, 1.5)
    counts, errors = (32, 128, 512), []
    for n in counts:
        found = fk_steering(
            WORLD.denoiser(FLOW), reward(LINEAR, 1.5), n=n, grid=UNIFORM[::2], populations=200, seed=n, threshold=0.9
        )
        each = (torch.softmax(found.log_weights, 1)[..., None] * found.x).sum(1)
        errors.append(float((each - truth.mean).square().sum(1).mean().sqrt()))
    slope = math.log(errors[-1] / errors[0]) / math.log(counts[-1] / counts[0])
    assert abs(slope + 0.5) < 0.12, (slope, errors)


def test_the_error_of_guidance_falls_as_one_over_the_root():
    """p(x) p(y | x)³ of an exact classifier: RMS error over 150 populations of 32, 128 and 512, log–log slope −½.

    Guided at scale 1, whose particles have the law p(x | y), and weighted by what is left, p(y | x)² ≤ 1. An RMS of R
    values is known to 1/√(2R) = 6 %, so a slope between ends a factor 16 apart to √2·0.06 / log 16 = 0.03; the bias, of
    order 1/n, adds less than 1/32 to the square at 32 particles: 0.006. Four standard errors and that: 0.13. Guidance
    at scale 3 itself is off by a bias that no number of samples takes away: at 512 it is more than five times the RMS.
    """
    classifier = WORLD.classifier(VP)
    mass = lambda x: classifier(x, 0.0)[:, 1]
    _, mean = quadrature(lambda x: WORLD.log_prob(x) + 3 * mass(x))
    guided = guidance.classifier(WORLD.denoiser(VP), classifier, label=1, scale=1.0)
    counts, errors = (32, 128, 512), []
    for n in counts:
        found = twisted_smc(guided, tilt=lambda x: 3 * mass(x), n=n, steps=6, populations=150, seed=n)
        each = (torch.softmax(found.log_weights, 1)[..., None] * found.x).sum(1)
        errors.append(float((each - mean).square().sum(1).mean().sqrt()))
    slope = math.log(errors[-1] / errors[0]) / math.log(counts[-1] / counts[0])
    assert abs(slope + 0.5) < 0.13, (slope, errors)
    strong = guidance.classifier(WORLD.denoiser(VP), classifier, label=1, scale=3.0)
    plain = langevin.sample(strong, samplers.DDIM(), n=2000, steps=40)
    assert (plain.mean(0) - mean).norm() > 5 * errors[-1]


def test_a_constant_factor_is_plain_sampling():
    """Equal weights, no resampling, and the samples of ancestral sampling to the bit."""
    denoiser = WORLD.denoiser(FLOW)
    found = smc(denoiser, lambda x, t, belief: torch.full((len(x),), 2.0), n=50, grid=UNIFORM, threshold=1.0)
    plain = langevin.sample(denoiser, samplers.Ancestral(), n=50, grid=UNIFORM)
    assert torch.equal(found.x[0], plain)
    assert torch.allclose(found.log_weights, torch.full((1, 50), 2.0).double())
    torch.testing.assert_close(found.ess, torch.full((1, 9), 50.0).double())
    assert torch.equal(found.ancestors, torch.arange(50).expand(1, 8, -1))
    assert found.roots.tolist() == [50]


def test_resampling_by_hand():
    """Threshold 1 resamples at every time, 0 never; the weights' mean is kept, and descendants follow ancestors."""
    denoiser, factor = WORLD.denoiser(FLOW), lambda x, t, belief: belief.mean @ LINEAR
    never = smc(denoiser, factor, n=40, grid=UNIFORM, threshold=0.0)
    always = smc(denoiser, factor, n=40, grid=UNIFORM, threshold=1.0)
    assert torch.equal(never.ancestors, torch.arange(40).expand(1, 8, -1))
    # Importance sampling: the weights are the tilt itself.
    torch.testing.assert_close(never.log_weights, (never.x @ LINEAR).double())
    moved = (always.ancestors != torch.arange(40)).any(-1)[0]
    assert moved[2:].all()  # at first weights are even, and systematic resampling takes every particle once
    assert always.roots.item() < 40
    # The beliefs of those that were taken are those they have: the weights of the last step say so.
    again = smc(Opaque(denoiser), factor, n=40, grid=UNIFORM, threshold=1.0)
    assert torch.equal(again.x, always.x)
    assert torch.equal(again.log_weights, always.log_weights)


class Opaque(langevin.denoisers.Transform):
    """Beliefs that do not come apart by samples."""

    def __call__(self, x_t, t):
        belief = self.base(x_t, t)
        return Closed(belief)


class Closed(langevin.distributions.Distribution):
    def __init__(self, law):
        self.law = law

    def sample(self, noise):
        return self.law.sample(noise)

    @property
    def mean(self):
        return self.law.mean

    def affine(self, scale, shift, variance):
        return self.law.affine(scale, shift, variance)


def test_systematic_counts():
    """Index i is taken ⌊m·w_i⌋ or ⌈m·w_i⌉ times for every u, m·w_i in the mean over u, and never at weight 0."""
    log_weights = torch.log(torch.rand(4, 30, generator=torch.Generator().manual_seed(1)).double() ** 4)
    log_weights[:, 7] = -torch.inf
    log_weights[:, -1] = -torch.inf
    expected = 30 * torch.softmax(log_weights, 1)
    total = torch.zeros_like(expected)
    points = (torch.arange(400).double() + 0.5) / 400
    for u in (*points.tolist(), 1 - 2**-33):
        index = systematic(log_weights, torch.full((4,), u).double())
        assert (index.diff(dim=1) >= 0).all()
        counts = torch.zeros_like(expected).scatter_add(1, index, torch.ones_like(expected))
        assert (counts >= torch.floor(expected - 1e-9)).all()
        assert (counts <= torch.ceil(expected + 1e-9)).all()
        total += counts
    # Each count as a function of u has two jumps: a midpoint rule of 400 points is within 2/400 of its integral.
    torch.testing.assert_close(total / 401, expected, atol=0.02, rtol=0)
    assert systematic(log_weights, torch.full((4,), 0.5).double(), 5).shape == (4, 5)


def test_potentials_by_hand():
    """log G_t of three times, as the products that they reach: the law alone would not tell one from another."""
    psi = torch.tensor([[1.0, 3.0], [2.0, -1.0], [0.5, 2.0]]).double()
    reached = {"difference": psi, "max": [[1, 3], [3, 6], [5, 9]], "sum": [[1, 3], [4, 5], [7.5, 9]]}
    for name, potential in POTENTIALS.items():
        track, goal = None, torch.zeros(2).double()
        for i in range(3):
            track, goal = potential(track, goal, psi[i])
            torch.testing.assert_close(goal, torch.as_tensor(reached[name][i]).double())


def test_the_past_goes_with_the_particle():
    """Of a factor that is v at first and never large again, the potential ``max`` is the ancestor's v at the second
    time: the effective size there is that of the ancestors' weights."""
    start = FLOW.prior((2,)).sample(Noise(0, 30))[:, 0]
    factor = lambda x, t, belief: torch.where(t == 1, x[:, 0], torch.full((len(x),), -50.0).double())
    found = smc(WORLD.denoiser(FLOW), factor, n=30, grid=UNIFORM, threshold=1.0, potential="max")
    torch.testing.assert_close(found.ess[0, 1], effective(start[found.ancestors[0, 0]]))


def test_a_reward_is_looked_ahead_at_by_draws():
    """log of the mean of exp(λ r) over draws, which for a normal belief tends to λ aᵀm + ½ λ² aᵀCa.

    Of 4,000 draws with a log-normal weight of variance e^{v} − 1, v = λ² aᵀCa = 0.24: a standard error of 0.008.
    """
    belief = langevin.distributions.Normal(torch.zeros(1, 2).double(), torch.tensor(0.27).double())
    seen = Reward(lambda x: x @ LINEAR, 1.0, 4000)(torch.zeros(1, 2), torch.tensor(0.5), belief, Noise(0, 1))
    assert abs(seen.item() - 0.5 * 0.27 * float(LINEAR @ LINEAR)) < 4 * 0.009


def test_effective_sample_size():
    weights = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]]).double()
    torch.testing.assert_close(effective(torch.log(weights) - 900), torch.tensor([4.0, 1, 2, 0]).double())


def test_populations_never_meet():
    """A population depends on (seed, index) alone: the same among others, and for any batch."""
    denoiser, factor = WORLD.denoiser(VP), lambda x, t, belief: 3 * belief.mean @ LINEAR
    many = smc(denoiser, factor, n=16, steps=5, populations=5, seed=8)
    few = smc(denoiser, factor, n=16, steps=5, populations=2, seed=8, batch=16)
    torch.testing.assert_close(few.x, many.x[:2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(few.log_weights, many.log_weights[:2], rtol=1e-9, atol=1e-9)
    assert torch.equal(few.ancestors, many.ancestors[:2])
    named = smc(denoiser, factor, n=16, steps=5, populations=torch.tensor([3, 1]), seed=8)
    torch.testing.assert_close(named.x, many.x[[3, 1]], rtol=1e-12, atol=1e-12)
    assert not torch.equal(many.x[0], many.x[1])
    assert not torch.equal(smc(denoiser, factor, n=16, steps=5, seed=9).x, many.x[:1])


def test_draws_of_equal_weight():
    """As many of each particle as its weight says, in random order, by the seed; and what is printed."""
    found = smc(WORLD.denoiser(FLOW), lambda x, t, b: 2 * b.mean @ LINEAR, n=20, grid=UNIFORM, populations=3)
    drawn = found.sample(500, seed=1)
    counts = (drawn[:, None] == found.x.flatten(0, 1)).all(-1).sum(0)
    assert ((counts - 500 * found.weights.flatten()).abs() < 1).all()
    assert torch.equal(drawn, found.sample(500, seed=1))
    assert not torch.equal(drawn, found.sample(500, seed=2))
    half = drawn[:250].mean(0)  # the order is random, so that the first draws are draws of the law too
    assert (half - drawn.mean(0)).norm() < 4 * drawn.std(0).norm() / math.sqrt(250)
    assert repr(found).startswith("Particles(3 populations of n=20, ESS=")
    assert "log evidence" in repr(found)


def test_one_call_serves_factor_gradient_and_move():
    """A twisted step asks the network once, forward and backward; a resampling asks for nothing."""
    calls = []

    class Counted(langevin.denoisers.Transform):
        def __call__(self, x_t, t):
            calls.append(len(x_t))
            return self.base(x_t, t)

    guided = guidance.energy(Counted(WORLD.denoiser(VP)), lambda x: -3 * (x @ LINEAR), scale=2.0)
    found = twisted_smc(guided, n=32, steps=7, threshold=1.0)
    assert calls == [32] * 7
    assert (found.ancestors != torch.arange(32)).any()


def test_networks_in_float32():
    """The precision of the denoiser, particles and weights finite."""
    from support import oracle

    network = oracle(WORLD, VP, "eps", torch.float32)
    found = fk_steering(network, reward(LINEAR.float(), 1.5), n=32, steps=8, proposal=Gradient())
    assert found.x.dtype == torch.float32
    assert found.log_weights.dtype == torch.float64
    assert found.x.isfinite().all()
    pooled = guidance.classifier_free(network, label=1, guidance_scale=2.0)
    assert smc_product(pooled, n=16, steps=8).log_weights.isfinite().all()


def test_particles_may_be_ruled_out_at_the_end():
    """A hard constraint: x > 0 in the first coordinate."""
    factor = lambda x, t, b: torch.where((t > 0) | (x[:, 0] > 0), 0.0, -torch.inf)
    found = smc(WORLD.denoiser(FLOW), factor, n=64, grid=UNIFORM, populations=64)
    right = lambda x: torch.where(x[:, 0] > 0, WORLD.log_prob(x), -torch.inf)
    log_z, mean = quadrature(right, 800)  # the edge lies in the middle of a cell, so the rule is of order 2: 1e-4
    agrees(found, log_z, mean)
    assert (found.sample(100)[:, 0] > 0).all()
    with pytest.raises(UserError, match="every particle has weight 0"):
        smc(WORLD.denoiser(FLOW), lambda x, t, b: torch.where(t > 0, 0.0, -torch.inf).expand(len(x)), n=4, steps=2)


DENOISER = WORLD.denoiser(VP)
FACTOR = lambda x, t, belief: belief.mean[:, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "n must be an integer of at least 1"),
        ({"populations": 0}, "populations must be an integer"),
        ({"populations": torch.tensor([1, -1])}, r"populations must be a number, or int64 indices in \[0"),
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\]"),
        ({"threshold": math.nan}, "threshold must be a finite number"),
        ({"potential": "mean"}, "unknown potential 'mean'"),
        ({"grid": [1.0, 0.5]}, "grid must end at t = 0"),
        ({"steps": 0}, "steps must be an integer"),
        ({"factor": 3}, "factor must be a function"),
        ({"factor": lambda x, t, b: b.mean}, r"factor must return one number a particle, \(8,\)"),
        ({"factor": lambda x, t, b: b.mean[:, 0] * math.nan}, "factor must be finite"),
        ({"factor": lambda x, t, b: b.mean[:, 0] - math.inf}, "factor must be finite"),
        ({"proposal": samplers.DDIM()}, "proposal must be a denoiser.*the step of a sampler has no density"),
        ({"proposal": WORLD.denoiser(FLOW)}, "proposal must be of noisy data of VP"),
        ({"proposal": Gradient(), "factor": lambda x, t, b: torch.zeros(len(x))}, "must be differentiable"),
        ({"denoiser": WORLD}, "denoiser must be a denoiser"),
    ],
)
def test_refusals(given, message):
    settings = {"denoiser": DENOISER, "factor": FACTOR, "n": 8, "steps": 3, **given}
    if "grid" in settings:
        settings.pop("steps")
    with pytest.raises(UserError, match=message):
        smc(settings.pop("denoiser"), settings.pop("factor"), **settings)


def test_refusals_of_the_rest():
    tokens = TABLE.denoiser(processes.Absorbing(3))
    with pytest.raises(UserError, match="needs a process with"):
        fk_steering(tokens, TWOS, n=4, steps=2, proposal=Gradient())
    with pytest.raises(UserError, match="draws must be at least 1 for tokens"):
        fk_steering(tokens, TWOS, n=4, steps=2, draws=0)
    with pytest.raises(UserError, match="reward must return one number a sample"):
        fk_steering(DENOISER, lambda x: x, n=4, steps=2)
    with pytest.raises(UserError, match="reward must be a function"):
        fk_steering(DENOISER, 1.0, n=4)
    with pytest.raises(UserError, match="guided must be a denoiser guided by a gradient"):
        twisted_smc(DENOISER, n=4)
    with pytest.raises(UserError, match="weights must be one a denoiser"):
        smc_product([DENOISER, DENOISER], (1.0,), n=4)
    with pytest.raises(UserError, match="weights must have a positive sum"):
        smc_product([DENOISER, DENOISER], (1.0, -1.0), n=4)
    with pytest.raises(UserError, match="denoisers must be of one shape on one process"):
        smc_product([DENOISER, WORLD.denoiser(FLOW)], (1.0, 1.0), n=4)
    with pytest.raises(UserError, match="std must be > 0"):
        smc_posterior(DENOISER, operators.Matrix(torch.eye(2)), torch.zeros(1, 2), 0.0, n=4, steps=2)
    with pytest.raises(UserError, match="f must return a value a particle"):
        fk_steering(DENOISER, lambda x: x[:, 0], n=4, steps=2).mean(lambda x: x.sum())
