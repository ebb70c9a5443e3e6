"""World.posterior against quadrature on a grid and against importance weights, for every kind of operator and noise."""

from __future__ import annotations

import math

import pytest
import torch
from operator_table import SMALL, f64, small
from scipy import stats

from langevin import UserError, worlds
from langevin import operators as O
from support import thinned

PLANE = worlds.random_mixture(2, components=3, rms=0.6, seed=4)
AXIS = torch.linspace(-4, 4, 801, dtype=torch.float64)
GRID = torch.stack(torch.meshgrid(AXIS, AXIS, indexing="ij"), -1).reshape(-1, 2)
CELL = float(AXIS[1] - AXIS[0]) ** 2


def on_grid(operator, y, noise):
    """p(x_0 | y) on the grid by Bayes' rule, normalised by a sum: spectrally accurate for smooth densities."""
    log_prob = PLANE.log_prob(GRID) + O.Measurement(operator, y, noise).log_prob(GRID)
    return torch.softmax(log_prob, 0) / CELL


@pytest.mark.parametrize("std", thinned([0.2, 1.0], 2))
@pytest.mark.parametrize(
    "operator",
    [
        O.Matrix(torch.tensor([[1.0, -0.5]], dtype=torch.float64)),
        O.Matrix(f64(2, 2)),
        O.Matrix(f64(3, 2)),  # more measurements than coordinates
        O.Matrix(torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)),  # the same thing twice
        O.Inpaint(torch.tensor([0.0, 1.0])),
        O.Reshaped(O.Blur(torch.tensor([[0.3, 0.7]])), (1, 1, 2)),
    ],
    ids=["row", "square", "tall", "deficient", "inpaint", "blur"],
)
def test_mixture_against_quadrature(operator, std):
    """The density on the whole grid; cells of 0.01 against features of 0.05 and more."""
    y = O.measure(operator, PLANE.sample(1, seed=7), std, seed=8).y
    truth = PLANE.posterior(operator, y, std)
    density = on_grid(operator, y, std)
    torch.testing.assert_close(truth.log_prob(GRID).exp(), density, rtol=1e-6, atol=1e-9)
    mean = (GRID * density[:, None]).sum(0) * CELL
    torch.testing.assert_close(truth.mean, mean, rtol=0, atol=1e-9)
    apart = GRID - mean
    torch.testing.assert_close(truth.cov, torch.einsum("n,ni,nj->ij", density * CELL, apart, apart), rtol=0, atol=1e-9)


IMAGES = worlds.random_mixture(16, components=4, rms=0.5, seed=1)


def weighted(x, log_weights):
    """The mean of importance weights with its error, for weights that leave enough samples."""
    w = torch.softmax(log_weights, 0)[:, None]
    mean = (w * x).sum(0)
    assert 1 / float((w**2).sum()) > 100
    return mean, torch.sqrt((w**2 * (x - mean) ** 2).sum(0))


@pytest.mark.parametrize("name", SMALL)
def test_mixture_against_importance_weights(name):
    """60 000 draws of the prior: the mean and the square of every number within 5 errors of the weights."""
    world, operator, unit = small(name)
    std = 0.5 * unit
    y = O.measure(operator, world.sample(1, seed=11), std, seed=2).y
    truth = world.posterior(operator, y, std)
    x = world.sample(60_000, seed=12)
    log_weights = O.Measurement(operator, y, std).log_prob(x)
    for of, wanted in ((x, truth.mean), (x**2, truth.cov.diagonal() + truth.mean**2)):
        mean, error = weighted(of, log_weights)
        assert ((mean - wanted).abs() < 5 * error).all()
        assert (error < 0.1).all()


def test_exact_measurement():
    """std = 0: the posterior lies on what was measured."""
    operator = O.Reshaped(O.SuperResolution(2), (1, 4, 4))
    x = IMAGES.sample(1, seed=3)
    truth = IMAGES.posterior(operator, operator(x), 0.0)
    drawn = truth.sample(50)
    torch.testing.assert_close(operator(drawn), operator(x).expand(50, -1, -1, -1), rtol=0, atol=1e-7)


def test_poisson_against_importance_weights():
    """A mixture has no closed form for counts; the finite world of the grid has, and draws of the mixture agree."""
    operator, noise = O.Matrix(torch.tensor([[0.5, 0.2], [-0.1, 0.4]], dtype=torch.float64)), O.PoissonNoise(8.0, 1.5)
    y = O.measure(operator, PLANE.sample(1, seed=2), noise, seed=1).y
    finite = worlds.Empirical(GRID, torch.softmax(PLANE.log_prob(GRID), 0))
    truth = finite.posterior(operator, y, noise)
    weights = truth.log_weights.exp()
    torch.testing.assert_close(weights / CELL, on_grid(operator, y, noise), rtol=1e-9, atol=1e-12)
    x = PLANE.sample(100_000, seed=9)
    rate = noise.rate(operator(x)).numpy()
    log_weights = torch.from_numpy(stats.poisson(rate).logpmf(y.numpy()).sum(1))
    for power in (1, 2):
        mean, error = weighted(x**power, log_weights)
        assert ((mean - weights @ GRID**power).abs() < 5 * error).all()
    with pytest.raises(UserError, match="noise must be Gaussian"):
        PLANE.posterior(operator, y, noise)


@pytest.mark.parametrize("quality", [5, 60])
def test_jpeg_against_importance_weights(quality):
    """Finite pictures with equal and other weights: what remains of draws that are weighted by their likelihoods."""
    points = (f64(12, 3, 8, 8, seed=1).cumsum(-1) / 6).clamp(-1, 1)
    prior = torch.linspace(1, 3, 12, dtype=torch.float64)
    world, operator, std = worlds.Empirical(points, prior), O.JPEG(quality), 3.0
    y = O.measure(operator, points[4:5], std, seed=5).y
    truth = world.posterior(operator, y[0], std)
    clean = torch.cat([operator(p[None]) for p in points])
    likelihood = torch.from_numpy(stats.norm(clean.numpy(), std).logpdf(y.numpy()).sum((1, 2, 3)))
    wanted = torch.softmax(torch.log(prior) + likelihood, 0)
    torch.testing.assert_close(truth.log_weights.exp(), wanted, rtol=1e-9, atol=1e-12)
    assert torch.equal(truth.labels, world.labels)
    n = 20_000
    drawn, labels = world.sample(n, seed=3, with_labels=True)
    w = torch.softmax(likelihood[labels], 0)
    shares = torch.zeros(12, dtype=torch.float64).index_add_(0, labels, w)
    error = torch.sqrt(torch.zeros(12, dtype=torch.float64).index_add_(0, labels, w**2)) + 1e-12
    assert ((shares - wanted).abs() < 5 * error + 1e-3).all()
    assert torch.equal(drawn[0], points[labels[0]])


@pytest.mark.parametrize("operator", [O.Phase(1), O.Saturate(3), O.Nonlinear(torch.square)], ids=repr)
def test_operators_that_are_not_linear_on_a_finite_world(operator):
    points = f64(9, 1, 3, 3, seed=2)
    world = worlds.Empirical(points)
    y = O.measure(operator, points[:1], 0.8, seed=1).y
    truth = world.posterior(operator, y, 0.8)
    log_weights = -0.5 * ((y - operator(points)) / 0.8).square().sum((1, 2, 3))
    torch.testing.assert_close(truth.log_weights, torch.log_softmax(log_weights, 0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PLANE.posterior(O.Saturate(), torch.zeros(2), 0.1), "operator must be linear"),
        (lambda: PLANE.posterior(O.Inpaint(torch.ones(2)), torch.zeros(3, 2), 0.1), "y must be one measurement"),
        (lambda: PLANE.posterior(O.Inpaint(torch.ones(2)), torch.zeros(3), 0.1), "y must be"),
        (lambda: PLANE.posterior(O.Inpaint(torch.ones(3)), torch.zeros(3), 0.1), "mask must have the shape"),
        (lambda: PLANE.posterior(O.Inpaint(torch.ones(2)), torch.full((2,), math.nan), 0.1), "y must be finite"),
        (lambda: PLANE.posterior(torch.abs, torch.zeros(2), 0.1), "operator must be"),
        (lambda: PLANE.posterior(O.Inpaint(torch.ones(2)), torch.zeros(2), -0.1), "std must be >= 0"),
    ],
)
def test_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
