"""Phase space against matrix exponentials, quadrature and dense Bayes.

It is one file, of more than 400 lines, so that a process stands in its one table once and meets every law.
"""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from langevin import Noise, UserError, worlds
from langevin.distributions import Blocks, Compound, Dense, Diagonal, Dirac, FiniteSet, GaussianMixture, Normal
from langevin.processes import PhaseSpace

ULP = 2.0**-52
DRIFT = np.array([[0.0, 1.0], [-1.0, -2.0]])
KICK = np.array([[0.0, 0.0], [0.0, 4.0]])
PROCESSES = {"paper": PhaseSpace(), "short": PhaseSpace(2.0, 1.0), "long": PhaseSpace(20.0, 0.3)}
EACH = pytest.mark.parametrize("name", PROCESSES)
PAIRS = [(1e-3, 0.01), (0.01, 0.3), (0.3, 0.31), (0.2, 0.9), (1e-3, 1.0), (0.999, 1.0)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


@EACH
def test_flow_and_noise(name):
    """Φ = exp(βF(t − s)) and its noise ∫ β Φ ggᵀ Φᵀ: by 40-point quadrature, 1e-14 for e^(−y)."""
    process = PROCESSES[name]
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for s, t in [(0.0, 0.2), *PAIRS]:
        y = process.beta * (t - s)
        np.testing.assert_allclose(process.flow(s, t), expm(DRIFT * y), rtol=0, atol=1e-14)
        flows = [expm(DRIFT * u) for u in y / 2 * (nodes + 1)]
        noise = sum(w * y / 2 * f @ KICK @ f.T for w, f in zip(weights, flows))
        np.testing.assert_allclose(process.noise_cov(s, t), noise, rtol=1e-10, atol=1e-14)


def test_prior_is_a_standard_normal_law():
    """N(0, I) in x and v, which the marginal of any data comes to."""
    prior = PhaseSpace().prior((3,))
    assert prior.mean.shape == (1, 2, 3)
    torch.testing.assert_close(prior.mean, torch.zeros_like(prior.mean))
    torch.testing.assert_close(prior.cov.dense((2, 3))[0], torch.eye(6, dtype=torch.float64))


@EACH
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_roots_of_a_transition_are_those_of_its_covariance(name, s, t):
    """R Rᵀ = C of q(x_t | x_s), to the rounding of C's own small entries."""
    law = PROCESSES[name].transition(random(1, 2, 1), s, t)
    root, cov = law.cov.root[0, ..., 0], law.cov.matrix[0, ..., 0]
    size = torch.sqrt(cov.diagonal())
    torch.testing.assert_close(
        root @ root.mT / torch.outer(size, size), cov / torch.outer(size, size), rtol=0, atol=1e-9
    )


def test_noise_does_not_cancel_at_short_times():
    """Every entry to 1e-13 of itself at y = βt from 1e-8, where x has gained 4y³/3 and v 4y, in forty digits."""
    process = PhaseSpace()
    with mp.workdps(60):
        for t in (1e-9, 1e-6, 1e-3, 0.1, 1.0):
            y = mp.mpf(8) * mp.mpf(t)
            decay = mp.e ** (-2 * y)
            p = mp.gammainc(3, 0, 2 * y, regularized=True)
            known = [[p, 2 * y**2 * decay], [2 * y**2 * decay, p + 4 * y * decay]]
            got = process.noise_cov(0.0, t)
            for i in range(2):
                for j in range(2):
                    assert abs(mp.mpf(float(got[i, j])) / known[i][j] - 1) < 1e-13


def digits(process, t):
    """Σ_t, K_t and Φ in sixty digits, from the formulas whose terms cancel."""
    y, gamma = mp.mpf(process.beta) * mp.mpf(t), mp.mpf(process.gamma)
    decay, p = mp.e ** (-2 * y), mp.gammainc(3, 0, 2 * y, regularized=True)
    flow = mp.e**-y * mp.matrix([[1 + y, y], [-y, 1 - y]])
    noise = mp.matrix([[p, 2 * y**2 * decay], [2 * y**2 * decay, p + 4 * y * decay]])
    return noise + gamma * flow[:, 1] * flow[:, 1].T, flow[:, 0], flow


def off(got, known, unit):
    """The largest error, each entry in its unit."""
    return max(abs(float((mp.mpf(float(a)) - b) / u)) for a, b, u in zip(torch.as_tensor(got).flatten(), known, unit))


@EACH
def test_root_and_whitening_do_not_cancel(name):
    """L, L⁻¹K and the 1/r of the observation to 2e-14 of themselves: a few dozen roundings of 1e-16, at any t.

    A Cholesky factor of the rounded Σ_t is off by 1e-16·3γ/4y in L_vv², which is 1e-8 at t = 1e-9.
    """
    process = PROCESSES[name]
    with mp.workdps(60):
        for t in (1e-9, 1e-6, 1e-4, 1e-3, 0.03, 0.3, 1.0):
            sigma, gain, _ = digits(process, t)
            root = mp.cholesky(sigma)
            known = [root[0, 0], root[1, 0], root[1, 1]]
            assert off(process.root(t)[[0, 1, 1], [0, 0, 1]], known, known) < 2e-14
            white = list(mp.lu_solve(root, gain))
            assert off(process.white_gain(t), white, white) < 2e-14
            r = 1 / mp.sqrt(white[0] ** 2 + white[1] ** 2)
            assert off(process.observe(torch.ones(1, 2, 1).double(), t).r, [r], [r]) < 2e-14


@EACH
def test_bridge_does_not_cancel(name):
    """C to 2e-14 of its own diagonal and A to 2e-14 of itself however short the step, G to 1e-11 of its norm.

    t − s is rounded, by 1e-16·t/(t − s) of itself, and C goes with the step.
    """
    process = PROCESSES[name]
    with mp.workdps(60):
        for s, t in [*PAIRS, (1e-9, 1e-3), (5e-6, 1e-5), (9.9e-3, 0.01), (0.4999, 0.5), (0.9999, 1.0)]:
            (before, k_s, _), (after, k_t, _) = digits(process, s), digits(process, t)
            gain = before * digits(process, mp.mpf(t) - mp.mpf(s))[2].T * after**-1
            free, lift = before - gain * after * gain.T, k_s - gain * k_t
            a, g, c = process.bridge_coefficients(t, s)
            d = [mp.sqrt(free[i, i]) for i in range(2)]
            assert off(c, list(free), [d[i] * d[j] for i in range(2) for j in range(2)]) < 2e-14 / (1 - s / t)
            assert off(a, list(lift), list(lift)) < 2e-14 / (1 - s / t)
            assert off(g, list(gain), [mp.norm(gain)] * 4) < 1e-11  # I is a ratio of large numbers in short steps


def test_float32_has_the_law_of_short_times():
    """Draws in float32 at t = 1e-10, whitened in float64: the identity to five standard errors.

    det Σ_t is 3e-8 of Σ_xx Σ_vv there, less than the rounding of the float32 matrix: only the root still knows it.
    """
    process, n = PhaseSpace(), 20_000
    zero, state = torch.zeros(n, 1), torch.zeros(n, 2, 1)
    for law in (process.marginal(zero, 1e-10), process.bridge(state, zero, 2e-10, 1e-10)):
        z, root = law.sample(Noise(0, n))[..., 0], law.cov.root.double().reshape(2, 2)
        assert z.dtype == torch.float32
        white = torch.linalg.solve_triangular(root, z.double().T, upper=False)
        products = torch.einsum("in,jn->ijn", white, white)
        assert ((products.mean(-1) - torch.eye(2)).abs() < 5 * products.std(-1) / math.sqrt(n)).all()
    kept = process.marginal(zero, 1e-10).cov.root.double().reshape(2, 2)
    torch.testing.assert_close(kept, process.root(1e-10), rtol=1e-6, atol=0)


@EACH
def test_log_snr_and_its_inverse(name):
    """It falls strictly, and ``time`` is its inverse to the rounding of both; beyond its range 0 and 1."""
    process = PROCESSES[name]
    t = torch.logspace(-6, 0, 200, dtype=torch.float64)
    assert (process.log_snr(t).diff() < 0).all()
    torch.testing.assert_close(process.time(process.log_snr(t)), t, rtol=1e-13, atol=0)
    assert process.time(torch.inf) == 0
    assert process.time(-100.0) == 1
    assert process.log_snr(0.0) == torch.inf


def joint(process, s, t):
    """Mean gain (4,) on x_0 and covariance (4, 4) of (z_s, z_t) given x_0, from the matrix exponential alone."""
    start = np.diag([0.0, process.gamma])
    flow = lambda u: expm(DRIFT * process.beta * u)

    def noise(u):
        f = flow(u)
        return np.eye(2) - f @ f.T  # the equilibrium is N(0, I)

    first = flow(s) @ start @ flow(s).T + noise(s)
    step = flow(t - s)
    cross = first @ step.T
    last = step @ first @ step.T + noise(t - s)
    gain = np.concatenate([flow(s)[:, 0], flow(t)[:, 0]])
    return gain, np.block([[first, cross], [cross.T, last]])


@EACH
def test_marginal_transition_bridge(name):
    """Against the dense joint of (x_s, v_s, x_t, v_t) given x_0."""
    process = PROCESSES[name]
    x0, z_t = f64([[0.7]]), f64([[[0.3], [-0.4]]])
    for s, t in PAIRS:
        gain, cov = joint(process, s, t)
        law = process.marginal(x0, t)
        np.testing.assert_allclose(law.mean.reshape(2), gain[2:] * 0.7, atol=1e-14)
        np.testing.assert_allclose(law.cov.dense((2, 1))[0], cov[2:, 2:], atol=1e-14)
        step = process.transition(z_t, s, t)
        flow = expm(DRIFT * process.beta * (t - s))
        np.testing.assert_allclose(step.mean.reshape(2), flow @ [0.3, -0.4], atol=1e-14)
        np.testing.assert_allclose(step.cov.dense((2, 1))[0], np.eye(2) - flow @ flow.T, atol=1e-14)
        # the inverse of Σ_t multiplies the 1e-16 of `joint` by its condition
        condition = np.linalg.cond(cov[2:, 2:])
        regress = np.linalg.solve(cov[2:, 2:], cov[2:, :2]).T
        mean = gain[:2] * 0.7 + regress @ (np.array([0.3, -0.4]) - gain[2:] * 0.7)
        bridge = process.bridge(z_t, x0, t, s)
        np.testing.assert_allclose(bridge.mean.reshape(2), mean, atol=1e-14 * condition)
        free = cov[:2, :2] - regress @ cov[2:, :2]
        np.testing.assert_allclose(bridge.cov.dense((2, 1))[0], free, atol=1e-14 * condition)


@EACH
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_every_bridge_keeps_the_marginal(name, eta):
    """A + G K_t = K_s and G Σ_t Gᵀ + C = Σ_s, C positive semi-definite and 0 at η = 0, in units of Σ_s's diagonal."""
    process = PROCESSES[name]
    for s, t in PAIRS:
        lift, gain, free = process.bridge_coefficients(t, s, eta)
        np.testing.assert_allclose(lift + gain @ process.gain(t), process.gain(s), atol=1e-14)
        scale = torch.sqrt(torch.diagonal(process.cov(s)))
        kept = (gain @ process.cov(t) @ gain.mT + free) / (scale[:, None] * scale)
        expected = process.cov(s) / (scale[:, None] * scale)
        torch.testing.assert_close(kept, expected, rtol=0, atol=1e-11)
        assert float(torch.linalg.eigvalsh(free / (scale[:, None] * scale)).min()) > -1e-12
        assert eta > 0 or torch.equal(free, torch.zeros_like(free))


@EACH
def test_eta_goes_to_one(name):
    """G_η → G_1, and C with it: 1 − η = 1e-6 moves them by 1e-6 of order one."""
    process = PROCESSES[name]
    for s, t in PAIRS:
        near, at = process.bridge_coefficients(t, s, 1 - 1e-6), process.bridge_coefficients(t, s, 1.0)
        for a, b in zip(near, at):
            assert float((a - b).abs().max()) < 1e-5 * max(1.0, float(b.abs().max()))


@EACH
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gains_compose(name, eta):
    """G(t → s) = G(r → s) G(t → r), to the error of the Magnus method: 2e-9 on the longest of these steps."""
    process = PROCESSES[name]
    for s, r, t in ((0.01, 0.2, 0.9), (1e-3, 0.01, 1.0)):
        whole, first, second = (process.bridge_coefficients(b, a, eta)[1] for a, b in ((s, t), (r, t), (s, r)))
        torch.testing.assert_close(second @ first, whole, rtol=1e-7, atol=1e-8)


@EACH
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_gain_solves_its_equation(name, eta):
    """dG/ds = β (F + (1 + η²)/2 g gᵀ Σ⁻¹) G from G(t) = I, by an eighth-order method at 1e-12."""
    process = PROCESSES[name]

    def slope(s, g):
        drive = DRIFT + (1 + eta**2) / 2 * KICK @ np.linalg.inv(process.cov(float(s)).numpy())
        return (process.beta * drive @ g.reshape(2, 2)).reshape(-1)

    for s, t in ((0.01, 0.3), (0.2, 0.9), (1e-3, 1.0)):
        known = solve_ivp(slope, (t, s), np.eye(2).reshape(-1), method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
        got = process.bridge_coefficients(t, s, eta)[1].reshape(-1)
        np.testing.assert_allclose(got, known, rtol=1e-7, atol=1e-8)


@EACH
def test_eta_zero_is_the_flow_of_a_point(name):
    """At η = 0 the bridge through x_0 is the probability flow of the law that is certain of x_0 (DOP853 at 1e-12)."""
    process = PROCESSES[name]
    x0, z = f64([[0.7]]), f64([[[0.3], [-0.4]]])
    for s, t in ((0.01, 0.3), (0.2, 0.9), (1e-3, 1.0)):
        slope = lambda u, z: process.velocity(f64(z).reshape(1, 2, 1), Dirac(x0), float(u)).reshape(2).numpy()
        solution = solve_ivp(slope, (t, s), z.reshape(2).numpy(), method="DOP853", rtol=1e-12, atol=1e-13)
        got = process.bridge(z, x0, t, s, 0.0).mean.reshape(2)
        np.testing.assert_allclose(got, solution.y[:, -1], rtol=1e-7, atol=1e-8)


@EACH
def test_observe_is_all_the_state_says(name):
    """q(z_t | x_0) = exp(log_c) N(y; a x_0, r² I) for every x_0; so the posterior under any prior is the dense one."""
    process = PROCESSES[name]
    z = random(3, 2, 2, 2, seed=0)
    t = f64([1e-3, 0.2, 1.0])
    seen = process.observe(z, t)
    for seed in range(3):
        x0 = random(3, 2, 2, seed=seed)
        direct = process.marginal(x0, t).log_prob(z)
        r = seen.r.reshape(3, 1, 1)
        reduced = seen.log_c + Normal(seen.a.reshape(3, 1, 1) * x0, r**2).log_prob(seen.y)
        torch.testing.assert_close(reduced, direct, rtol=1e-9, atol=1e-7)


def test_posterior_of_a_gaussian_is_dense_bayes():
    """x_0 ~ N(m, C) in two dimensions: mean and covariance of p(x_0 | x_t, v_t) from the dense 6 × 6 joint."""
    process = PhaseSpace()
    m, c = f64([0.5, -0.3]), f64([[0.4, 0.2], [0.2, 0.3]])
    world = worlds.GaussianMixture(f64([1.0]), m[None], c[None])
    z = random(2, 2, 2, seed=0)
    for t in (0.05, 0.4, 1.0):
        k, sigma = process.gain(t), process.cov(t)
        lift = torch.kron(k[:, None], torch.eye(2, dtype=torch.float64))  # (x_1, x_2, v_1, v_2) from x_0
        total = lift @ c @ lift.T + torch.kron(sigma, torch.eye(2, dtype=torch.float64))
        regress = torch.linalg.solve(total, lift @ c).T
        belief = world.denoiser(process)(z, t)
        for b in range(2):
            mean = m + regress @ (z[b].reshape(4) - lift @ m)
            torch.testing.assert_close(belief.mean[b], mean, rtol=1e-10, atol=1e-10)
        cov = c - regress @ lift @ c
        torch.testing.assert_close(belief.cov.dense((2,)), cov.expand(2, 2, 2), rtol=1e-9, atol=1e-10)
        dense = torch.distributions.MultivariateNormal(lift @ m, total).log_prob(z.reshape(2, 4))
        torch.testing.assert_close(world.log_prob(z, process, t), dense, rtol=1e-10, atol=1e-10)


@EACH
def test_score_and_velocity_of_a_world(name):
    """Score = ∇ log p_t(x, v) by differentiation, and the continuity equation for the velocity."""
    process = PROCESSES[name]
    world = worlds.random_mixture(2, components=3, seed=3)
    z = random(3, 2, 2, seed=0).requires_grad_()
    t = f64([0.02, 0.3, 1.0])
    (gradient,) = torch.autograd.grad(world.log_prob(z, process, t).sum(), z)
    z = z.detach()
    torch.testing.assert_close(world.score(z, process, t), gradient, rtol=1e-9, atol=1e-9)
    point, u = z[1:2], f64(0.3)
    step = 1e-5
    ahead, behind = (world.log_prob(point, process, u + d) for d in (step, -step))
    rate = float((ahead - behind) / (2 * step))  # error of order step² times a third derivative: 1e-7
    velocity = lambda y: process.velocity(y, world.denoiser(process)(y, u), u)
    jacobian = torch.autograd.functional.jacobian(lambda y: velocity(y)[0].reshape(-1), point).reshape(4, 4)
    expected = -jacobian.trace() - (velocity(point) * world.score(point, process, u)).sum()
    assert rate == pytest.approx(float(expected), rel=1e-5, abs=1e-5)


@EACH
def test_reverse_integrates_the_belief(name):
    """Of normal laws and Diracs, A μ + G z and A Aᵀ ⊗ V + C ⊗ I in closed form; other laws are drawn, then bridged."""
    process = PROCESSES[name]
    z, mean = random(2, 2, 3), random(2, 3, seed=1)
    for eta, s in ((1.0, 0.05), (0.5, 0.05), (1.0, 0.0)):
        lift, gain, free = process.bridge_coefficients(0.4, s, eta)
        for belief, v in (
            (Dirac(mean), torch.zeros(2, 3).double()),
            (Normal(mean, 0.3), torch.full((2, 3), 0.3, dtype=torch.float64)),
            (Normal(mean, Diagonal(random(2, 3, seed=2) ** 2 + 0.1)), None),
        ):
            v = belief.cov.variance if v is None else v
            law = process.reverse(z, belief, 0.4, s, eta)
            assert isinstance(law.cov, Blocks)
            for b in range(2):
                for i in range(3):
                    expected = lift * mean[b, i] + gain @ z[b, :, i]
                    torch.testing.assert_close(law.mean[b, :, i], expected, rtol=1e-12, atol=1e-13)
                    cov = lift[:, None] * lift * v[b, i] + free
                    index = [i, 3 + i]
                    dense = law.cov.dense((2, 3)).expand(2, 6, 6)[b][index][:, index]
                    torch.testing.assert_close(dense, cov, rtol=1e-12, atol=1e-14)
    root = random(2, 3, 3, seed=4)
    matrix = root @ root.mT
    lift, gain, free = process.bridge_coefficients(0.4, 0.05)
    law = process.reverse(z, Normal(mean, Dense(matrix)), 0.4, 0.05)
    for b in range(2):
        expected = torch.kron(lift[:, None] * lift, matrix[b]) + torch.kron(free, torch.eye(3).double())
        torch.testing.assert_close(law.cov.dense((2, 3))[b], expected, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(law.mean[b], lift[:, None] * mean[b] + gain @ z[b], rtol=1e-12, atol=1e-13)
    several = process.reverse(z, Normal(mean, Dense(matrix)), torch.full((2,), 0.4).double(), 0.05)
    torch.testing.assert_close(several.cov.dense((2, 3)), law.cov.dense((2, 3)))
    assert isinstance(process.reverse(z, FiniteSet(mean, torch.zeros(2, 2).double()), 0.4, 0.05), Compound)


def test_reverse_of_a_mixture_has_its_moments():
    """Drawn then bridged: mean A E[x_0] + G z and covariance A Aᵀ ⊗ Cov[x_0] + C ⊗ I, to five standard errors."""
    process, n = PhaseSpace(), 20_000
    law = GaussianMixture(
        torch.log(f64([[0.3, 0.7]])),
        f64([[[1.0, 0.0], [-0.5, 0.4]]]),
        torch.eye(2).double().expand(2, 2, 2),
        f64([[[0.1, 0.2], [0.05, 0.01]]]),
    )
    z = f64([[[0.3, 0.1], [-0.4, 0.2]]])
    x = process.reverse(z, law, 0.4, 0.1).sample(Noise(0, n)).flatten(1)
    lift, gain, free = process.bridge_coefficients(0.4, 0.1)
    mean = torch.kron(lift, law.mean[0]) + (gain @ z[0]).reshape(4)
    cov = torch.kron(lift[:, None] * lift, law.cov.matrix[0]) + torch.kron(free, torch.eye(2).double())
    r = x - mean
    products = torch.einsum("ni,nj->nij", r, r)
    assert (r.mean(0).abs() < 5 * r.std(0) / math.sqrt(n)).all()
    assert ((products.mean(0) - cov).abs() < 5 * products.std(0) / math.sqrt(n)).all()


@EACH
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_last_step_ends_at_the_data(name, eta):
    """At s = 0 the bridge's x is x_0 without noise, and v keeps its variance γ."""
    process = PROCESSES[name]
    z, x0 = random(4, 2, 3), random(4, 3, seed=1)
    law = process.bridge(z, x0, 0.02, 0.0, eta)
    torch.testing.assert_close(process.read(law.sample(Noise(0, 4))), x0, rtol=0, atol=1e-12)
    _, gain, free = process.bridge_coefficients(0.02, 0.0, eta)
    kept = gain @ process.cov(0.02) @ gain.mT + free
    torch.testing.assert_close(kept, torch.diag(f64([0.0, process.gamma])), rtol=0, atol=1e-12)


@EACH
def test_time_stays_with_its_sample(name):
    """A time a sample with as many samples as coordinates, (B,) and (B, C, H, W) data, η of 1 and less."""
    process = PROCESSES[name]
    t, s = f64([0.3, 0.6]), f64([0.1, 0.05])
    for shape in ((2,), (1, 2, 2)):
        z, x0 = random(2, 2, *shape), random(2, *shape, seed=1)
        answers = (
            lambda z, x0, t, s: process.marginal(x0, t).log_prob(z),
            lambda z, x0, t, s: process.transition(z, s, t).log_prob(z + 1),
            lambda z, x0, t, s: process.bridge(z, x0, t, s).log_prob(z),
            lambda z, x0, t, s: process.bridge(z, x0, t, s, 0.5).mean,
            lambda z, x0, t, s: process.reverse(z, Normal(x0, 0.1), t, s).log_prob(z),
            lambda z, x0, t, s: process.score(z, Dirac(x0), t),
            lambda z, x0, t, s: process.velocity(z, Dirac(x0), t),
            lambda z, x0, t, s: process.observe(z, t).y,
            lambda z, x0, t, s: process.observe(z, t).log_c,
        )
        for answer in answers:
            both = answer(z, x0, t, s)
            for i in range(2):
                alone = answer(z[i : i + 1], x0[i : i + 1], t[i], s[i])
                torch.testing.assert_close(both[i], alone[0], rtol=1e-12, atol=1e-12)
        one = process.marginal(x0, 0.5)
        assert one.sample(Noise(0, 2)).shape == z.shape
        assert process.prior(shape).sample(Noise(0, 2)).shape == z.shape
        assert torch.equal(process.read(z), z[:, 0])


REFUSED = [
    (lambda: PhaseSpace(0.0), "beta must be > 0 and gamma in"),
    (lambda: PhaseSpace(math.inf), "beta must be > 0 and gamma in"),
    (lambda: PhaseSpace(8.0, 0.0), "beta must be > 0 and gamma in"),
    (lambda: PhaseSpace(8.0, 1.5), "beta must be > 0 and gamma in"),
    (lambda: PhaseSpace().bridge_coefficients(0.5, 0.1, 1.5), r"eta must lie in \[0, 1\], got 1.5"),
    (lambda: PhaseSpace().marginal(torch.ones(1, 1), 1.1), r"t must be a time in \[0, 1\]"),
    (lambda: PhaseSpace().observe(torch.ones(1, 2, 1), 0.0), "t must be above 0 in phase space"),
    (lambda: PhaseSpace().velocity(torch.ones(1, 2, 1), Dirac(torch.ones(1, 1)), 0.0), "t must be above 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_bridge_that_stands_still(eta):
    """From t to t: nothing of x_0, all of x_t, no noise; alone, and in a batch with one that moves."""
    process = PhaseSpace()
    for t, s in (
        (0.4, 0.4),
        (torch.tensor([0.4, 0.5], dtype=torch.float64), torch.tensor([0.4, 0.2], dtype=torch.float64)),
    ):
        lift, gain, cov = process.bridge_coefficients(t, s, eta)
        still = (0,) if isinstance(t, torch.Tensor) else ()
        torch.testing.assert_close(lift[still], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(gain[still], torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(cov[still], torch.zeros(2, 2, dtype=torch.float64), rtol=0, atol=1e-12)
