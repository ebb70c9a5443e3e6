"""Gaussian mixtures against quadrature, scipy's densities, and automatic differentiation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from langevin import Noise, UserError, processes, worlds
from langevin.worlds import GaussianMixture, random_mixture, ring

PROCESSES = {
    "vp": processes.VP(),
    "ve": processes.VE(0.01, 5.0),
    "edm": processes.EDM(0.002, 5.0),
    "flow": processes.RectifiedFlow(),
    "cosine": processes.Cosine(),
    "ddpm": processes.DDPM(),
}
EACH = pytest.mark.parametrize("name", PROCESSES)
TIMES = (0.03, 0.3, 0.8)


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


LINE = GaussianMixture(f64([0.2, 0.5, 0.3]), f64([[-1.0], [0.1], [0.9]]), f64([[[0.04]], [[0.3]], [[0.01]]]))
PLANE = GaussianMixture(
    f64([0.3, 0.7]), f64([[-0.8, 0.3], [0.6, 0.1]]), f64([[[0.3, 0.25], [0.25, 0.3]], [[0.1, 0.0], [0.0, 0.4]]])
)


def grid(low, high, n):
    """Points and spacing: the trapezoid rule is exact to rounding for Gaussians a few points a deviation wide."""
    x = torch.linspace(low, high, n, dtype=torch.float64)
    return x, float(x[1] - x[0])


def components(world):
    return [
        (float(w), m.numpy(), (v @ torch.diag(e) @ v.T).numpy())
        for w, m, v, e in zip(world.log_weights.exp(), world.means, world.basis, world.values)
    ]


def pdf(world, x):
    return sum(w * stats.multivariate_normal(m, c).pdf(x.numpy()) for w, m, c in components(world))


@EACH
def test_density_on_the_line(name):
    """log p_t integrates to 1, and is ∫ p_0 q(x_t | x_0) dx_0 by quadrature."""
    process = PROCESSES[name]
    x0, h = grid(-6, 6, 4001)
    prior = torch.as_tensor(pdf(LINE, x0))
    torch.testing.assert_close(LINE.log_prob(x0[:, None]).exp(), prior, rtol=1e-12, atol=1e-300)
    for t in TIMES:
        alpha, sigma = float(process.alpha(f64(t))), float(process.sigma(f64(t)))
        x, step = grid(-8 * (alpha + sigma), 8 * (alpha + sigma), 2001)
        density = LINE.log_prob(x[:, None], process=process, t=t).exp()
        assert float(density.sum()) * step == pytest.approx(1, abs=1e-10)
        some = x[::200]
        likelihood = torch.as_tensor(stats.norm.pdf(some[:, None].numpy(), alpha * x0.numpy(), sigma))
        torch.testing.assert_close(density[::200], likelihood @ prior * h, rtol=1e-8, atol=1e-12)


@EACH
def test_belief_on_the_line(name):
    """Mean, variance and density of p(x_0 | x_t) by quadrature over x_0, at states the process visits."""
    process = PROCESSES[name]
    x0, h = grid(-6, 6, 12_001)
    prior = torch.as_tensor(pdf(LINE, x0))
    for t in TIMES:
        alpha, sigma = float(process.alpha(f64(t))), float(process.sigma(f64(t)))
        x = LINE.sample(5, 3, process=process, t=t)
        joint = prior * torch.as_tensor(stats.norm.pdf(x.numpy(), alpha * x0.numpy(), sigma))
        posterior = joint / (joint.sum(1, keepdim=True) * h)
        mean = posterior @ x0 * h
        var = (posterior * (x0 - mean[:, None]) ** 2).sum(1) * h
        belief = LINE.denoiser(process)(x, t)
        torch.testing.assert_close(belief.mean[:, 0], mean, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(belief.cov.dense((1,))[:, 0, 0], var, rtol=1e-8, atol=1e-9)
        at = x0[6100].expand(5, 1)
        torch.testing.assert_close(belief.log_prob(at).exp(), posterior[:, 6100], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["vp", "edm"])
def test_plane(name):
    """In two dimensions with correlated components: density, belief mean and covariance by quadrature."""
    process = PROCESSES[name]
    axis, h = grid(-6, 6, 601)
    points = torch.cartesian_prod(axis, axis)
    prior = torch.as_tensor(pdf(PLANE, points))
    t = 0.3
    alpha, sigma = float(process.alpha(f64(t))), float(process.sigma(f64(t)))
    assert sigma > 3 * h
    x = PLANE.sample(4, 3, process=process, t=t)
    for row in x:
        joint = prior * torch.exp(-0.5 * ((row - alpha * points) ** 2).sum(1) / sigma**2) / (2 * math.pi * sigma**2)
        density = float(joint.sum()) * h**2
        assert float(PLANE.log_prob(row[None], process, t)) == pytest.approx(math.log(density), abs=1e-9)
        posterior = joint / joint.sum()
        mean = posterior @ points
        cov = (points - mean).T @ ((points - mean) * posterior[:, None])
        belief = PLANE.denoiser(process)(row[None], t)
        torch.testing.assert_close(belief.mean[0], mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(belief.cov.dense((2,))[0], cov, rtol=1e-8, atol=1e-9)
    everywhere = PLANE.log_prob(2 * points, process, t).exp().sum() * (2 * h) ** 2
    assert float(everywhere) == pytest.approx(1, abs=1e-8)


@EACH
def test_density_in_any_dimension_and_its_gradient(name):
    """log p_t against scipy in five dimensions, a time a sample (B = D); the score is its gradient."""
    process = PROCESSES[name]
    world = random_mixture(5, components=4, rank=2, seed=1)
    t = f64([0.01, 0.2, 0.5, 0.7, 0.95])
    x = world.sample(5, 1, process=process, t=t).requires_grad_()
    log_prob = world.log_prob(x, process, t)
    for b in range(5):
        a, s = float(process.alpha(t[b])), float(process.sigma(t[b]))
        shifted = [
            math.log(w) + stats.multivariate_normal(a * m, a**2 * c + s**2 * np.eye(5)).logpdf(x[b].detach())
            for w, m, c in components(world)
        ]
        assert float(log_prob[b].detach()) == pytest.approx(float(torch.logsumexp(f64(shifted), 0)), abs=1e-8)
    (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    torch.testing.assert_close(world.score(x.detach(), process, t), gradient, rtol=1e-8, atol=1e-8)


@EACH
def test_classifier_is_bayes_rule(name):
    """log p(y | x_t) against scipy, and its gradient is the difference of the conditional and the free score."""
    process = PROCESSES[name]
    t = f64([0.05, 0.4, 0.9])
    x = PLANE.sample(3, 2, process=process, t=t).requires_grad_()
    log_prob = PLANE.classifier(process)(x, t)
    assert log_prob.shape == (3, 2)
    for b in range(3):
        a, s = float(process.alpha(t[b])), float(process.sigma(t[b]))
        joint = [
            math.log(w) + stats.multivariate_normal(a * m, a**2 * c + s**2 * np.eye(2)).logpdf(x[b].detach())
            for w, m, c in components(PLANE)
        ]
        torch.testing.assert_close(log_prob[b], torch.log_softmax(f64(joint), 0), rtol=1e-9, atol=1e-9)
    for label in (0, 1):
        (gradient,) = torch.autograd.grad(log_prob[:, label].sum(), x, retain_graph=True)
        state = x.detach()
        bound = PLANE.denoiser(process).given(label=label)(state, t)
        difference = process.score(state, bound, t) - PLANE.score(state, process, t)
        torch.testing.assert_close(gradient, difference, rtol=1e-8, atol=1e-8)


def test_a_label_without_components():
    """Labels 0 and 2: class 1 has no probability, and the gradient of the others is finite."""
    points = f64([[0.0], [1.0], [2.0]])
    world = worlds.Empirical(points, labels=torch.tensor([0, 2, 2]))
    x = f64([[0.4]]).requires_grad_()
    log_prob = world.classifier(PROCESSES["vp"])(x, 0.3)
    assert float(log_prob[0, 1].detach()) == -math.inf
    assert float(log_prob.detach().exp().sum()) == pytest.approx(1, abs=1e-14)
    (gradient,) = torch.autograd.grad(log_prob[0, 2], x)
    assert gradient.isfinite().all()


@EACH
def test_conditional_belief_is_that_of_the_component(name):
    """Given label k the belief is that of the mixture of component k alone; labels may differ by sample."""
    process = PROCESSES[name]
    x = PLANE.sample(3, 2, process=process, t=0.4)
    label = torch.tensor([1, 0, 1])
    belief = PLANE.denoiser(process).given(label=label)(x, 0.4)
    for b, k in enumerate(label.tolist()):
        _, m, c = components(PLANE)[k]
        alone = GaussianMixture(f64([1.0]), f64(m)[None], f64(c)[None]).denoiser(process)(x[b : b + 1], 0.4)
        torch.testing.assert_close(belief.mean[b], alone.mean[0], rtol=1e-12, atol=1e-12)
        dense = belief.cov.dense((2,))[b]
        torch.testing.assert_close(dense, alone.cov.dense((2,))[0], rtol=1e-12, atol=1e-12)


def test_belief_draws_have_its_moments():
    """Samples of the belief: five standard errors of mean and covariance."""
    process, n = PROCESSES["vp"], 20_000
    x = f64([[0.2, -0.1]])
    belief = PLANE.denoiser(process)(x, 0.4)
    draws = belief.sample(Noise(0, n))
    r = draws - belief.mean
    products = torch.einsum("ni,nj->nij", r, r)
    assert (r.mean(0).abs() < 5 * r.std(0) / math.sqrt(n)).all()
    assert ((products.mean(0) - belief.cov.matrix[0]).abs() < 5 * products.std(0) / math.sqrt(n)).all()


def test_samples_and_labels():
    """Moments of the world, shares of the labels, moments of each component, and of x_t."""
    n = 20_000
    x, label = PLANE.sample(n, 5, with_labels=True)
    again = PLANE.sample(Noise(5, n))
    assert torch.equal(x, again)
    for k, (w, m, c) in enumerate(components(PLANE)):
        part = x[label == k]
        assert abs(len(part) / n - w) < 5 * math.sqrt(w * (1 - w) / n)
        r = part - f64(m)
        products = torch.einsum("ni,nj->nij", r, r)
        assert (r.mean(0).abs() < 5 * r.std(0) / math.sqrt(len(part))).all()
        assert ((products.mean(0) - f64(c)).abs() < 5 * products.std(0) / math.sqrt(len(part))).all()
    assert ((x.mean(0) - PLANE.mean).abs() < 5 * x.std(0) / math.sqrt(n)).all()
    r = x - PLANE.mean
    products = torch.einsum("ni,nj->nij", r, r)
    assert ((products.mean(0) - PLANE.cov).abs() < 5 * products.std(0) / math.sqrt(n)).all()
    process = PROCESSES["vp"]
    x_t = PLANE.sample(n, 6, process=process, t=0.4)
    alpha, sigma = float(process.alpha(f64(0.4))), float(process.sigma(f64(0.4)))
    expected = alpha**2 * PLANE.cov + sigma**2 * torch.eye(2)
    r = x_t - alpha * PLANE.mean
    products = torch.einsum("ni,nj->nij", r, r)
    assert ((products.mean(0) - expected).abs() < 5 * products.std(0) / math.sqrt(n)).all()


def test_samples_do_not_depend_on_the_batch():
    noise = Noise(3, 10)
    whole = PLANE.sample(noise, process=PROCESSES["vp"], t=0.5)
    assert torch.equal(PLANE.sample(noise.rows(slice(4, 7)), process=PROCESSES["vp"], t=0.5), whole[4:7])


def test_data_and_prior_of_one_seed_are_independent():
    """A world's draws share no number with a process's prior of the same seed: sets of both may be compared.

    Found: they had the normals in common. The correlation of 20,000 pairs has a deviation of 1/√20,000.
    """
    n = 20_000
    world = GaussianMixture(f64([1.0]), f64([[0.0]]), f64([[[1.0]]]))
    data, start = world.sample(n, 0), PROCESSES["vp"].prior((1,)).sample(Noise(0, n))
    noised = world.sample(n, 0, process=PROCESSES["vp"], t=0.99)
    for a, b in ((data, start), (noised, start), (noised, data)):
        bound = 5 / math.sqrt(n) + (0.01 if b is data else 0)  # α(0.99) = 0.007 is the share of the data in it
        assert abs(float(torch.corrcoef(torch.cat([a, b], 1).T)[0, 1])) < bound


# Singular covariances


def test_points_are_an_empirical_set():
    """Zero covariances: the beliefs and densities of the set of the means."""
    means, weights = f64([[0.0, 1.0], [1.0, 0.0], [-1.0, -1.0]]), f64([0.2, 0.5, 0.3])
    mixture = GaussianMixture(weights, means, torch.zeros(3, 2, 2))
    points = worlds.Empirical(means, weights)
    for process in (*PROCESSES.values(), processes.PhaseSpace()):
        x = points.sample(4, 1, process=process, t=0.4)
        one, two = mixture.denoiser(process)(x, 0.4), points.denoiser(process)(x, 0.4)
        torch.testing.assert_close(one.mean, two.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one.cov.dense((2,)), two.cov.dense((2,)), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mixture.log_prob(x, process, 0.4), points.log_prob(x, process, 0.4))
    assert (mixture.sample(50, 1)[:, None] == means).all(-1).any(1).all()


def test_rank_one():
    """A line in the plane, its direction irrational: draws and beliefs stay on it, and the density is refused."""
    direction = f64([math.sqrt(2), -math.pi])
    world = GaussianMixture(f64([1.0]), f64([[0.3, 0.1]]), (direction[:, None] * direction)[None])
    normal = f64([math.pi, math.sqrt(2)])
    x = world.sample(100, 1)
    assert float(((x - world.means[0]) @ normal).abs().max()) < 1e-13
    for process in PROCESSES.values():
        x_t = world.sample(10, 2, process=process, t=0.3)
        belief = world.denoiser(process)(x_t, 0.3)
        assert float(((belief.sample(Noise(0, 10)) - world.means[0]) @ normal).abs().max()) < 1e-12
        alpha, sigma = process.alpha(f64(0.3)), process.sigma(f64(0.3))
        length2 = direction @ direction
        along = (x_t - alpha * world.means[0]) @ direction * alpha / (alpha**2 * length2 + sigma**2)
        torch.testing.assert_close(belief.mean, world.means + along[:, None] * direction, rtol=1e-11, atol=1e-12)
    with pytest.raises(UserError, match="a mixture with a singular covariance has no density"):
        world.log_prob(x)


@EACH
def test_ends_are_finite(name):
    """At t = 0 the belief is the state, singular covariances or not; at t = 1 it is finite."""
    process = PROCESSES[name]
    line = GaussianMixture(
        f64([0.5, 0.5]), f64([[0.0, 0.0], [1.0, 1.0]]), f64([[[1.0, 0.0], [0.0, 0.0]], [[0.1, 0], [0, 0.1]]])
    )
    for world in (PLANE, line):
        clean = world.sample(6, 1)
        belief = world.denoiser(process)(clean, 0.0)
        torch.testing.assert_close(belief.mean, clean, rtol=0, atol=1e-12)
        x = world.sample(6, 1, process=process, t=1.0)
        belief = world.denoiser(process)(x, 1.0)
        assert belief.mean.isfinite().all()
        assert belief.cov.dense((2,)).isfinite().all()


def test_float32_and_bfloat16_states():
    """A state of any dtype is taken at its value: α and σ are not rounded to its dtype."""
    process = PROCESSES["vp"]
    x = PLANE.sample(4, 1, process=process, t=0.3)
    for dtype in (torch.float32, torch.bfloat16):
        rounded = x.to(dtype)
        got, known = (PLANE.denoiser(process)(v, 0.3) for v in (rounded, rounded.double()))
        torch.testing.assert_close(got.mean, known.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            PLANE.log_prob(rounded, process, 0.3),
            PLANE.log_prob(rounded.double(), process, 0.3),
            rtol=1e-12,
            atol=1e-12,
        )


# Construction


def test_forms_of_covariance():
    """(K,), (K, D) and (K, D, D) say the same; weights are normalised."""
    means = f64([[0.0, 1.0], [1.0, 0.0]])
    made = [
        GaussianMixture([2.0, 6.0], means, v)
        for v in (f64([0.3, 0.1]), f64([[0.3, 0.3], [0.1, 0.1]]), f64([0.3, 0.1])[:, None, None] * torch.eye(2))
    ]
    x = f64([[0.2, 0.3]])
    for world in made:
        torch.testing.assert_close(world.log_weights.exp(), f64([0.25, 0.75]))
        torch.testing.assert_close(world.log_prob(x), made[2].log_prob(x))
        assert world.labels.tolist() == [0, 1]
        assert world.classes == 2
        assert world.shape == (2,)
    assert repr(made[0]) == "GaussianMixture(shape=(2,), components=2)"


def test_random_mixture():
    for dim, rank, rms in ((2, None, 0.5), (16, 3, 0.7), (5, 9, 2.0)):
        world = random_mixture(dim, components=6, rank=rank, rms=rms, seed=3)
        total = (torch.trace(world.cov) + (world.mean**2).sum()) / dim
        assert float(total) == pytest.approx(rms**2, rel=1e-12)
        assert (world.values > 0).all()
        if rank == 3:
            assert (world.values[:, -3:] > 10 * world.values[:, [-4]]).all()
    again = random_mixture(5, components=6, rank=9, rms=2.0, seed=3)
    assert torch.equal(again.means, world.means)


def test_ring():
    world = ring(6, radius=2.0, std=0.3)
    torch.testing.assert_close(world.means.norm(dim=1), torch.full((6,), 2.0).double())
    assert float(world.mean.abs().max()) < 1e-15
    torch.testing.assert_close(world.values, torch.full((6, 2), 0.09).double())
    gaps = torch.diff(torch.cat([world.means, world.means[:1]]), dim=0).norm(dim=1)
    torch.testing.assert_close(gaps, torch.full((6,), 2.0).double())


W, M, C = f64([0.5, 0.5]), f64([[0.0, 0.0], [1.0, 1.0]]), torch.eye(2).double().expand(2, 2, 2)
REFUSED = [
    (lambda: GaussianMixture(W[:1], M, C), r"weights and means must be \(K,\) and \(K, D\), got \(1,\) and \(2, 2\)"),
    (lambda: GaussianMixture(W, M[0], C), r"weights and means must be"),
    (lambda: GaussianMixture(W, M, C[:1]), r"covariances must be \(2, 2, 2\), \(2, 2\) or \(2,\), got \(1, 2, 2\)"),
    (lambda: GaussianMixture(-W, M, C), "weights must be >= 0 with a positive sum"),
    (lambda: GaussianMixture(0 * W, M, C), "weights must be >= 0 with a positive sum"),
    (lambda: GaussianMixture(W, M * math.nan, C), "all parameters finite"),
    (lambda: GaussianMixture(W, M, -C), "covariances must be positive semi-definite, smallest eigenvalue -1"),
    (lambda: random_mixture(0), "dim must be an integer of at least 1"),
    (lambda: random_mixture(2, rank=0), "rank must be an integer of at least 1"),
    (lambda: random_mixture(2, rms=0.0), "rms > 0"),
    (lambda: ring(0), "components must be an integer of at least 1"),
    (lambda: ring(3, std=0.0), "std > 0"),
    (lambda: PLANE.log_prob(torch.ones(3, 3)), r"x must have shape \(B, 2\), got \(3, 3\)"),
    (lambda: PLANE.log_prob(torch.ones(3, 3), processes.VP(), 0.5), r"x must have shape \(B, 2\), got \(3, 3\)"),
    (lambda: PLANE.denoiser(processes.PhaseSpace())(torch.ones(3, 2), 0.5), r"x must have shape \(B, 2\), got \(3,\)"),
    (lambda: PLANE.log_prob(torch.ones(3, 2), processes.VP()), "t must be given with a process"),
    (lambda: PLANE.log_prob(torch.ones(3, 2), processes.Absorbing(2), 0.5), "needs a process with `observe`"),
    (lambda: PLANE.denoiser(processes.VP()).given(label=2), r"label must lie in \[0, 2\)"),
    (lambda: PLANE.denoiser(processes.VP()).given(label=0.5), r"label must hold integers"),
    (lambda: PLANE.denoiser(processes.VP()).given(lable=1), "Did you mean 'label'"),
    (
        lambda: PLANE.denoiser(processes.VP()).given(label=[0, 1, 0])(torch.ones(2, 2), 0.5),
        "label was given for 3 samples, but the batch has 2",
    ),
    (
        lambda: GaussianMixture(f64([1.0, 0.0]), M, C).denoiser(processes.VP()).given(label=1),
        "of a component with weight > 0",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_rows_of_a_conditioned_world():
    process = PROCESSES["vp"]
    x = PLANE.sample(4, 1, process=process, t=0.5)
    bound = PLANE.denoiser(process).given(label=[0, 1, 1, 0])
    whole = bound(x, 0.5).mean
    for index in (slice(1, 3), torch.tensor([3, 0])):
        torch.testing.assert_close(bound.rows(index)(x[index], 0.5).mean, whole[index], rtol=0, atol=1e-14)
    free = bound.given(label=None)
    assert torch.equal(free(x, 0.5).mean, PLANE.denoiser(process)(x, 0.5).mean)
