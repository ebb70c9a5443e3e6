"""The adaptive solver of the reverse SDE: its error, its steps, its path, and the law that it keeps."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate
from test_reverse_sde import Point, gaussian, tensor

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.denoisers import Transform
from langevin.distributions import BrownianPath
from support import thinned

F64 = torch.float64
VP = processes.VP()


@pytest.mark.parametrize("process", thinned([VP, processes.EDM(), processes.Cosine()], 3), ids=str)
def test_adaptive_law(process):
    """N(½, ¼): mean and deviation within 4 standard errors and the tolerance (1 % of |x| a step, of either sign)."""
    world, n = gaussian(), 1500
    start = world.sample(n, 5, process=process, t=process.t_max)
    x = langevin.sample(world.denoiser(process), samplers.AdaptiveSDE(0.02, 0.01), start=start, batch=n, seed=3)
    assert abs(float(x.mean()) - 0.5) < 0.01 + 4 * 0.5 / math.sqrt(n)
    assert abs(float(x.std()) / 0.5 - 1) < 0.01 + 4 / math.sqrt(2 * n)


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
