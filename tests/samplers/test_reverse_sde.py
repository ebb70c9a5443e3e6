"""Reverse steps against closed forms on Gaussians, where each is a linear map of state and noise; refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import integrate

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.denoisers import Denoiser, Transform
from langevin.distributions import BrownianPath, Dirac
from support import thinned

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


@pytest.mark.parametrize("process", thinned([VP, processes.EDM(), processes.Cosine()], 3), ids=str)
def test_adaptive_law(process):
    """N(½, ¼): mean and deviation within 4 standard errors and the tolerance (1 % of |x| a step, of either sign)."""
    world, n = gaussian(), 1500
    start = world.sample(n, 5, process=process, t=process.t_max)
    x = langevin.sample(world.denoiser(process), samplers.AdaptiveSDE(0.02, 0.01), start=start, batch=n, seed=3)
    assert abs(float(x.mean()) - 0.5) < 0.01 + 4 * 0.5 / math.sqrt(n)
    assert abs(float(x.std()) / 0.5 - 1) < 0.01 + 4 / math.sqrt(2 * n)


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


class Still(BrownianPath):
    """A path that does not move, so that a stochastic solver solves what is left of its equation."""

    def value(self, event, t, clock):
        return torch.zeros(len(self), *event, dtype=F64)


def test_adaptive_goes_on_from_the_better_of_its_two_states():
    """Without noise the steps from ½(x' + x̃) are Heun's: of order 2, where x' alone is Euler–Maruyama's order 1.

    On N(½, ¼) the drift f x − g² ∇log p is linear, and its solution a quadrature: with μ, v the mean and variance of
    p_t, x − μ goes by exp ∫ (f + g²/v) dt. The tolerance takes every step, and h stays what it was at first but for a
    growth of at most 1e-6 a step.
    """
    world, t, s = gaussian(), 0.9, 0.3
    x = tensor([[1.5], [-0.2], [0.1]])
    law = lambda u: (0.5 * VP.alpha(tensor(u)), 0.25 * VP.alpha(tensor(u)) ** 2 + VP.sigma2(tensor(u)))
    rate = lambda u: float(VP.drift(tensor(u)) + VP.diffusion2(tensor(u)) / law(u)[1])
    grown = math.exp(integrate.quad(rate, t, s, epsabs=1e-12)[0])
    truth = law(s)[0] + grown * (x - law(t)[0])
    errors = []
    for steps in (50, 100, 200):
        rule = samplers.AdaptiveSDE(1e6, 1e6, first=(t - s) / steps, growth=1 + 1e-6)
        state = rule.step(samplers.State(x, tensor(t)), tensor(s), world.denoiser(VP), Still(0, 3, depth=30))
        errors.append(float((state.x - truth).abs().max()))
    assert errors[-1] < 1e-3
    # ratios of 4 to within the next term of the expansion, a share of about h times the largest rate, 0.1
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(("share", "attempts"), [(0.8, 1), (1.25, 2)])
def test_adaptive_takes_a_step_of_error_one_at_most(share, attempts):
    """Of one sample from t to s in one step without noise: e = |x' − x̃|/2 over the tolerance, the drift written out.

    A step of 1.25 is refused and done again, shorter; both ask twice a try and, of the second, once more for its rest.
    """
    world, t, s = gaussian(), tensor(0.9), tensor(0.7)
    denoiser, x, asked = world.denoiser(VP), tensor([[1.5]]), []

    def moved(at, u):
        score = VP.score(at, denoiser(at, u), u)
        return x + (s - t) * (VP.drift(u) * at - VP.diffusion2(u) * score)

    plain = moved(x, t)
    error = float((plain - moved(plain, s)).abs() / 2)

    class Told(Transform):
        def __call__(self, x_t, u):
            asked.append(float(u))
            return self.base(x_t, u)

    rule = samplers.AdaptiveSDE(1e-12, error / share, first=1.0)
    rule.step(samplers.State(x, t), s, Told(denoiser), Still(0, 1, depth=30))
    assert (len(asked) == 2) == (attempts == 1)
    # The same by the share of |x'| where that is the larger one.
    asked.clear()
    rule = samplers.AdaptiveSDE(error / share / float(torch.maximum(plain.abs(), x.abs())), 1e-12, first=1.0)
    rule.step(samplers.State(x, t), s, Told(denoiser), Still(0, 1, depth=30))
    assert (len(asked) == 2) == (attempts == 1)


class Mirrored(BrownianPath):
    """The path turned over."""

    def value(self, event, t, clock):
        return -super().value(event, t, clock)


def test_adaptive_treats_both_sides_alike():
    """On data that are symmetric around 0, −x along the path turned over goes where x goes, turned over: to rounding.

    Its steps are those of x then, so errors are measured by sizes and not by signs.
    """
    world, t, s = gaussian(0.0), tensor(0.9), tensor(0.2)
    x, rule = tensor([[1.5], [-0.2], [0.7], [-2.0]]), samplers.AdaptiveSDE(0.3, 1e-3)
    ends = [
        rule.step(samplers.State(sign * x, t), s, world.denoiser(VP), path(5, 4, depth=24)).x
        for sign, path in ((1, BrownianPath), (-1, Mirrored))
    ]
    torch.testing.assert_close(ends[1], -ends[0], rtol=0, atol=1e-12)


def test_adaptive_ends_clean_data_in_the_belief():
    """Of one point, in that point itself: the last step, from t_min to 0, asks where the data are."""
    point = worlds.Empirical(torch.tensor([[0.3, -0.2]], dtype=F64))
    x = langevin.sample(point.denoiser(VP), samplers.AdaptiveSDE(), n=2)
    torch.testing.assert_close(x, torch.tensor([[0.3, -0.2]], dtype=F64).expand(2, 2), rtol=0, atol=1e-12)


def test_adaptive_ends_each_sample_at_its_own_time():
    """Some at clean data, some on the way: each as it ends alone, on its own path."""
    process, world = processes.VP(), worlds.ring()
    denoiser, rule = world.denoiser(process), samplers.AdaptiveSDE()
    x, s = world.sample(3, 1, process=process, t=0.3), torch.tensor([0.0, 0.1, 0.1], dtype=F64)
    path = BrownianPath(4, 3, depth=20)
    together = rule.step(samplers.State(x, torch.full((3,), 0.3, dtype=F64)), s, denoiser, path).x
    for i in range(3):
        start = samplers.State(x[i : i + 1], torch.full((1,), 0.3, dtype=F64))
        alone = rule.step(start, s[i : i + 1], denoiser, path.rows(torch.tensor([i]))).x
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-9)


def test_adaptive_on_new_noise_is_biased():
    """Why a refused step keeps its path: algorithm 1 as published, with new noise for every attempt, in 20 lines."""
    world, n, rtol, atol = gaussian(), 2000, 0.02, 0.005
    denoiser = world.denoiser(VP)
    x = world.sample(n, 5, process=VP, t=1.0)
    t, h, before, attempt = torch.ones(n, dtype=F64), torch.full((n,), 0.01, dtype=F64), x.clone(), 0

    def euler(x, at, t, h, z):
        drift = VP.drift(t)[:, None] * at - VP.diffusion2(t)[:, None] * VP.score(at, denoiser(at, t), t)
        return x - h[:, None] * drift + torch.sqrt(VP.diffusion2(t) * h)[:, None] * z

    while (t > VP.t_min).any():
        attempt += 1
        h = h.minimum(t - VP.t_min)
        z = Noise(3, n, attempt).normal((1,))
        plain = euler(x, x, t, h, z)
        better = (plain + euler(x, plain, t - h, h, z)) / 2
        e = ((plain - better).abs() / (rtol * torch.maximum(plain.abs(), before.abs())).clamp_min(atol))[:, 0]
        good = (e <= 1) & (h > 0)
        x, before = torch.where(good[:, None], better, x), torch.where(good[:, None], plain, before)
        t = torch.where(good, t - h, t)
        h = torch.where(t > VP.t_min, 0.9 * h * e.clamp_min(1e-300) ** -0.9, h)
    assert float(x.std()) > 0.5 * 1.3


@pytest.mark.slow
def test_adaptive_follows_the_path():
    """On one path the endpoint goes to that of Euler–Maruyama in 1,000 steps (itself 0.001 off).

    The steps of each sample are its own, so the times asked are too; the path object serves all runs.
    """
    world, n = worlds.random_mixture(2, components=3, rms=0.7, seed=1), 12
    denoiser = world.denoiser(VP)
    first, last = 0.8, 0.2
    path = BrownianPath(4, n, depth=26)
    start = world.sample(n, 1, process=VP, t=first)
    fine = torch.linspace(first, last, 1001, dtype=F64)
    *_, truth = langevin.trajectory(denoiser, samplers.EulerMaruyama(), grid=fine, start=start, noise=path)
    errors = []
    for tolerance in (0.1, 0.01):
        rule = samplers.AdaptiveSDE(tolerance, tolerance / 2)
        *_, end = langevin.trajectory(denoiser, rule, grid=[first, last], start=start, noise=path)
        errors.append(float((end.x - truth.x).norm(dim=1).mean()))
    assert errors[1] < 0.5 * errors[0] < 0.05
    assert errors[1] < 0.02


def test_adaptive_takes_larger_steps_at_larger_tolerance():
    """Evaluations grow as the tolerance falls; a hundred samples together and alone take the same ways."""
    world = worlds.ring()
    counts = []
    for tolerance in (0.1, 0.03, 0.01):
        asked = []
        denoiser = Counting(world.denoiser(VP), asked)
        langevin.sample(denoiser, samplers.AdaptiveSDE(tolerance, tolerance), n=4, seed=1)
        counts.append(sum(asked))
    assert counts[0] < counts[1] < counts[2]


class Counting(langevin.denoisers.Transform):
    def __init__(self, base, asked):
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "asked", asked)

    def __call__(self, x_t, t):
        self.asked.append(x_t.shape[0])
        return self.base(x_t, t)

    def rows(self, index):
        return self


def test_adaptive_stops_with_time_and_error():
    denoiser = worlds.ring().denoiser(VP)
    with pytest.raises(
        UserError, match=r"limit = 7 attempts .* sample \d of the batch at t = 0\.9\d+, where the error"
    ):
        langevin.sample(denoiser, samplers.AdaptiveSDE(limit=7), n=3)
    broken = Point(VP, tensor([math.nan, 0.0]))
    with pytest.raises(UserError, match=r"not a finite number for sample 0 of the batch at t = 1\b"):
        langevin.sample(broken, samplers.AdaptiveSDE(), n=3)


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
