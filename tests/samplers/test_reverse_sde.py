"""Reverse steps against closed forms on Gaussians, where each is a linear map of state and noise; refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.denoisers import Denoiser
from langevin.distributions import BrownianPath, Dirac

F64 = torch.float64
VP = processes.VP()


def gaussian(mean=0.5, variance=0.25):
    return worlds.GaussianMixture(torch.ones(1), torch.tensor([[mean]]), torch.tensor([[variance]]))


def tensor(v):
    return torch.tensor(v, dtype=F64)


class Point(Denoiser):
    """The belief of data that are one point."""

    def __init__(self, process, x0):
        self.process, self.x0, self.shape = process, x0, tuple(x0.shape)

    def __call__(self, x_t, t):
        return Dirac(self.x0.expand(x_t.shape[0], *self.shape))


def one_step(sampler, denoiser, x, t, s, noise):
    return sampler.step(samplers.State(x, tensor(t)), tensor(s), denoiser, noise).x


@pytest.mark.parametrize("n", [1, 300, 1000])
def test_reverse_diffusion_is_the_paper_s_formula_on_a_table(n):
    """From knot n of DDPM's table: x (2 − √(1−β)) + β s + √β z, arXiv:2011.13456 eq. 46 with appendix E's f and G."""
    table, world = processes.DDPM(), worlds.ring()
    denoiser, noise = world.denoiser(table), Noise(1, 5, 3)
    x = world.sample(5, 2, process=table, t=n / 1000)
    beta = table.betas[n - 1]
    score = world.score(x, table, n / 1000)
    expected = (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * noise.normal((2,))
    # β = 1 − ᾱ_n/ᾱ_{n−1} from differences of log-SNR: 1e-16 relative to 1, β ≥ 1e-4, and the score divides by σ² ≥ 1e-4
    got = one_step(samplers.ReverseDiffusion(), denoiser, x, n / 1000, (n - 1) / 1000, noise)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_reverse_diffusion_on_exploding_noise():
    """For VE it is x + (σ_t² − σ_s²) s + √(σ_t² − σ_s²) z, the step of NCSN++."""
    process, world = processes.VE(), worlds.ring()
    x, noise = world.sample(5, 2, process=process, t=0.7), Noise(1, 5)
    rise = process.sigma2(tensor(0.7)) - process.sigma2(tensor(0.6))
    expected = x + rise * world.score(x, process, 0.7) + rise.sqrt() * noise.normal((2,))
    got = one_step(samplers.ReverseDiffusion(), world.denoiser(process), x, 0.7, 0.6, noise)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_reverse_diffusion_starts_without_signal():
    """Where α(1) = 0 the first step is x_s = x_1's noise and data alike: finite, and of the right law in many steps."""
    process, world, n = processes.RectifiedFlow(), gaussian(), 4000
    start = Noise(1, n).normal((1,))
    grid = torch.linspace(1, 0, 201, dtype=F64)
    x = langevin.sample(world.denoiser(process), samplers.ReverseDiffusion(), start=start, grid=grid, batch=n)
    # weak order 1: a bias of the order of one step in 200, 2 % of the deviation here, beside 4 standard errors
    assert abs(float(x.mean()) - 0.5) < 0.02 + 4 * 0.5 / math.sqrt(n)
    assert abs(float(x.std()) / 0.5 - 1) < 0.02 + 4 / math.sqrt(2 * n)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("process", [VP, processes.VE(), processes.RectifiedFlow()], ids=str)
def test_consistent_annealing_keeps_the_level_of_a_point(process, beta):
    """With one data point x_t = α x_0 + σ ε goes to x_s = α x_0 + σ ε' with ε' = √(1−β²) ε + β z: to rounding.

    That is the consistency of the paper's title; annealed Langevin without it leaves noise behind.
    """
    x0, noise = tensor([0.3, -1.2]), Noise(1, 6)
    eps = Noise(2, 6).normal((2,))
    denoiser, level = Point(process, x0), lambda t: (process.alpha(tensor(t)), process.sigma(tensor(t)))
    (a, b), (c, d) = level(0.8), level(0.35)
    got = one_step(samplers.ConsistentAnnealing(beta), denoiser, a * x0 + b * eps, 0.8, 0.35, noise)
    mixed = math.sqrt(1 - beta**2) * eps + beta * noise.normal((2,))
    torch.testing.assert_close(got, c * x0 + d * mixed, rtol=1e-12, atol=1e-12)


def test_consistent_annealing_is_the_paper_s_update():
    """On geometric levels of VE with a fixed η: x + η σ² s + β σ_next z with β² = 1 − (1−η)²/γ² (arXiv:2009.05475)."""
    process, world = processes.VE(sigma_min=0.01, sigma_max=10.0), worlds.ring()
    gamma, eta = 0.9, 0.15
    beta = math.sqrt(1 - (1 - eta) ** 2 / gamma**2)
    sigma = 1.3
    t, s = (float(process.time(tensor(-2 * math.log(v)))) for v in (sigma, gamma * sigma))
    x, noise = world.sample(5, 2, process=process, t=t), Noise(1, 5)
    expected = x + eta * sigma**2 * world.score(x, process, t) + beta * gamma * sigma * noise.normal((2,))
    got = one_step(samplers.ConsistentAnnealing(beta), world.denoiser(process), x, t, s, noise)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_consistent_annealing_ends_in_the_mean():
    world, noise = worlds.ring(), Noise(1, 5)
    denoiser = world.denoiser(VP)
    x = world.sample(5, 2, process=VP, t=0.1)
    got = one_step(samplers.ConsistentAnnealing(0.5), denoiser, x, 0.1, 0.0, noise)
    torch.testing.assert_close(got, denoiser(x, tensor(0.1)).mean)


MATRICES = {
    "skew": tensor([[1.2, 0.7], [-0.5, 0.4]]),
    "one direction": tensor([[1.5, 0.0], [0.0, 0.0]]),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_preconditioned_keeps_the_marginals(matrix):
    """On a Gaussian the moments of Euler's steps obey a recursion, which goes to the truth as steps grow, at order 1.

    Mean and covariance are carried through x' = A x + b + √(g²h) M z with A and b of the affine score: no sampling.
    The published form, which filters the whole score (M Mᵀ before g² ∇log p), goes somewhere else.
    """
    m, cov = tensor([0.5, -0.3]), tensor([[0.5, 0.2], [0.2, 0.3]])
    world = worlds.GaussianMixture(torch.ones(1), m[None], cov[None])
    rule = samplers.Preconditioned(samplers.Matrix(MATRICES[matrix]))
    denoiser, square = world.denoiser(VP), MATRICES[matrix] @ MATRICES[matrix].T

    def moments(steps, published=False):
        mean, c = VP.alpha(tensor(1.0)) * m, VP.alpha(tensor(1.0)) ** 2 * cov + VP.sigma2(tensor(1.0)) * torch.eye(2)
        grid = torch.linspace(1, 0.02, steps + 1, dtype=F64)
        quiet = Quiet(0, 3)
        for t, s in itertools.pairwise(grid):
            probe = torch.cat((torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)))
            g2 = VP.diffusion2(t)
            if published:
                drift = VP.drift(t) * probe - g2 * VP.score(probe, denoiser(probe, t), t) @ square
                moved = probe + (s - t) * drift
            else:
                moved = rule.step(samplers.State(probe, t), s, denoiser, quiet).x
            b, a = moved[0], (moved[1:] - moved[0]).T
            mean, c = a @ mean + b, a @ c @ a.T + g2 * (t - s) * square
        return mean, c

    t = tensor(0.02)
    truth = VP.alpha(t) * m, VP.alpha(t) ** 2 * cov + VP.sigma2(t) * torch.eye(2, dtype=F64)
    error = lambda steps, **how: max(float((a - b).abs().max()) for a, b in zip(moments(steps, **how), truth))
    few, many = error(100), error(400)
    assert many < 0.3 * few < 0.1
    assert error(400, published=True) > 10 * many


class Quiet(Noise):
    """No noise at all: what is left is a step's mean."""

    def normal(self, shape):
        return torch.zeros(len(self), *shape, dtype=F64)


def test_preconditioned_whole_is_euler_maruyama():
    world = worlds.ring()
    denoiser, grid = world.denoiser(VP), torch.linspace(1, 0.1, 6, dtype=F64)
    a, b = (
        langevin.sample(denoiser, rule, n=5, grid=grid)
        for rule in (samplers.Preconditioned(), samplers.EulerMaruyama())
    )
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_preconditioned_follows_a_path_as_euler_maruyama_does():
    """The increments of one Brownian path, with their signs."""
    world, grid = worlds.ring(), torch.linspace(1, 0.1, 6, dtype=F64)
    start = world.sample(5, 1, process=VP, t=1.0)
    ends = []
    for rule in (samplers.Preconditioned(), samplers.EulerMaruyama()):
        path = BrownianPath(4, 5, depth=16)
        *_, last = langevin.trajectory(world.denoiser(VP), rule, grid=grid, start=start, noise=path)
        ends.append(last.x)
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_euler_maruyama_keeps_the_marginals_at_any_share_of_the_noise(eta):
    """On N(m, c) mean and variance obey a recursion in the step's numbers, which goes to the truth at order 1.

    x̂_0 = m + k (x − α m) with k = α c/(α² c + σ²), so x ← (scale + w k) x + w (m − k α m) + std z. The sum of both
    errors falls to a quarter with four times the steps, to within the next term: a tenth.
    """
    m, c, rule = 0.5, 0.3, samplers.EulerMaruyama(eta)
    level = lambda t: (float(VP.alpha(tensor(t))), float(VP.sigma2(tensor(t))))

    def error(steps):
        (alpha, sigma2), times = level(0.6), torch.linspace(0.6, 0.02, steps + 1, dtype=F64).tolist()
        mean, variance = alpha * m, alpha**2 * c + sigma2
        for t, s in itertools.pairwise(times):
            alpha, sigma2 = level(t)
            row = rule.coefficients(VP, (t,), s)
            weight, k = row.weights[0], alpha * c / (alpha**2 * c + sigma2)
            slope = row.scale + weight * k
            mean, variance = slope * mean + weight * (m - k * alpha * m), slope**2 * variance + row.std**2
        alpha, sigma2 = level(times[-1])
        return abs(mean - alpha * m) + abs(variance - alpha**2 * c - sigma2)

    few, many = error(100), error(400)
    assert few < 0.02
    assert few / many == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: samplers.AdaptiveSDE(relative=0.0), "relative must be > 0"),
        (lambda: samplers.AdaptiveSDE(absolute=-1.0), "absolute must be > 0"),
        (lambda: samplers.AdaptiveSDE(first=math.inf), "first must be > 0"),
        (lambda: samplers.AdaptiveSDE(safety=1.5), "safety must lie in"),
        (lambda: samplers.AdaptiveSDE(exponent=0.0), "exponent must lie in"),
        (lambda: samplers.AdaptiveSDE(growth=1.0), "growth must be > 1"),
        (lambda: samplers.AdaptiveSDE(limit=0), "limit must be an integer"),
        (lambda: samplers.ConsistentAnnealing(1.5), "beta must lie in"),
        (lambda: samplers.Matrix(torch.zeros(2, 3)), "matrix must be"),
        (lambda: samplers.Frequency(torch.ones(3)), "gain must be finite"),
        (lambda: samplers.Frequency(-torch.ones(4, 4)), "gain must be finite"),
        (lambda: samplers.Frequency(torch.arange(16.0).reshape(4, 4)), "equal at opposite"),
    ],
)
def test_refuses_settings(make, match):
    with pytest.raises(UserError, match=match):
        make()


@pytest.mark.parametrize(
    "rule",
    [
        samplers.ReverseDiffusion(),
        samplers.ConsistentAnnealing(),
        samplers.Preconditioned(),
        samplers.AdaptiveSDE(),
        samplers.HeavyBall(),
        samplers.Boomerang(),
        samplers.MomentumLangevin(),
    ],
    ids=lambda r: type(r).__name__,
)
def test_needs_a_scalar_gaussian_process(rule):
    tokens = worlds.TokenTable(torch.ones(3, 3)).denoiser(processes.Absorbing(3))
    with pytest.raises(UserError, match="needs a process with"):
        langevin.sample(tokens, rule, n=2)


@pytest.mark.parametrize(
    "rule",
    [samplers.ReverseDiffusion(), samplers.ConsistentAnnealing(), samplers.Preconditioned(), samplers.AdaptiveSDE()],
)
def test_refuses_to_go_up(rule):
    with pytest.raises(UserError, match="grid must decrease"):
        langevin.sample(worlds.ring().denoiser(VP), rule, grid=[0.2, 0.5], n=2)


def test_refuses_to_start_where_the_drift_is_infinite():
    denoiser = worlds.ring().denoiser(processes.RectifiedFlow())
    for rule in (samplers.Preconditioned(), samplers.AdaptiveSDE()):
        with pytest.raises(UserError, match="infinite at t = 1"):
            langevin.sample(denoiser, rule, grid=[1.0, 0.5, 0.0], n=2)
