"""Fokker–Planck on a grid: order, mass, positivity, a steady state; and as the judge of samplers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers, worlds
from langevin.denoisers import Transform
from langevin.distributions import Dirac
from langevin.worlds import Equation, Grid, fokker_planck, forward, generative
from laws.table import PHASE_SAMPLERS, SAMPLERS
from support import thinned

F64 = torch.float64
VP = processes.VP()
WORLD = worlds.GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [0.8]]), torch.tensor([0.04, 0.09]))


def line(start, end, n):
    return torch.linspace(start, end, n + 1, dtype=F64)


def variation(grid, p, q):
    """Total variation of two densities."""
    return float((p - q).abs().sum() * grid.volume / 2)


def exact(grid, world, process, t):
    return grid.density(lambda x: world.log_prob(x, process, t))


def slope(errors):
    """The order seen over halvings of cells and steps."""
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


def test_noising_has_order_two():
    """A mixture under VP at t = 0.2, 0.6 and 1 against its closed form, with cells and steps halved together."""
    errors = []
    for n in (100, 200, 400):
        grid = Grid((-6,), (6,), (n,))
        p = fokker_planck(grid, grid.density(WORLD.log_prob), forward(VP), line(0, 1, n // 4))
        errors.append([variation(grid, p[i * n // 40], exact(grid, WORLD, VP, i / 10)) for i in (2, 6, 10)])
    for i in range(3):
        assert abs(slope([e[i] for e in errors]) - 2) < 0.1, errors
    assert errors[-1][0] < 1e-4


@pytest.mark.parametrize(("eta", "order", "size"), [(1.0, 2, 1e-3), (0.5, 2, 1e-3), (0.0, 1, 0.05)])
def test_every_way_back_has_the_law_of_the_noising(eta, order, size):
    """From p_1 down to t = 0.01 under the exact belief: order 2 with noise, 1 without, where the flux is upwind."""
    errors = []
    for n in (100, 200, 400):
        grid = Grid((-4,), (4,), (n,))
        times = 1 - 0.99 * line(0, 1, n // 2)
        p = fokker_planck(grid, exact(grid, WORLD, VP, 1.0), generative(WORLD.denoiser(VP), eta), times)
        errors.append(variation(grid, p[-1], exact(grid, WORLD, VP, 0.01)))
    assert abs(slope(errors) - order) < 0.3, errors
    assert errors[-1] < size


def test_where_nothing_moves_the_density_stays():
    grid, density = Grid((-1,), (1,), (8,)), torch.arange(8, dtype=torch.float64)
    still = Equation(lambda x, t: 0 * x, lambda t: torch.zeros(1, dtype=torch.float64))
    found = fokker_planck(grid, density, still, [0.0, 0.5, 1.0])
    assert torch.equal(found[-1], density)


def test_in_two_dimensions():
    """An anisotropic mixture in the plane under rectified flow from t = 0.05 to 0.8: order 2."""
    process = processes.RectifiedFlow()
    world = worlds.GaussianMixture(
        torch.tensor([0.4, 0.6]),
        torch.tensor([[-1.0, 0.3], [0.8, -0.4]]),
        torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.15, -0.05], [-0.05, 0.3]]]),
    )
    errors = []
    for n in (24, 48, 96):
        grid = Grid((-4, -4), (4, 4), (n, n))
        p = fokker_planck(grid, exact(grid, world, process, 0.05), forward(process), line(0.05, 0.8, n // 4))
        errors.append(variation(grid, p[-1], exact(grid, world, process, 0.8)))
    assert abs(slope(errors) - 2) < 0.2, errors


def test_position_and_velocity():
    """Critically damped diffusion of a mixture, x across and v along: order 1, as nothing diffuses across x.

    The upwind flux adds |βv|h/2 to the diffusion of x, over βΔt = 2.4: a law of width 1 spreads by about h.
    """
    process = processes.PhaseSpace(8.0, 0.5)
    world = worlds.GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [0.8]]), torch.tensor([0.2, 0.3]))
    errors = []
    for n in (40, 80, 160):
        grid = Grid((-4, -4), (4, 4), (n, n))
        known = [grid.density(lambda z, t=t: world.log_prob(z[..., None], process, t)) for t in (0.05, 0.35)]
        p = fokker_planck(grid, known[0], forward(process), line(0.05, 0.35, n // 4))
        errors.append(variation(grid, p[-1], known[1]))
    assert abs(slope(errors) - 1) < 0.25, errors
    assert errors[-1] < 0.05


@pytest.mark.parametrize("dims", [1, 2])
def test_mass_stays_and_nothing_is_negative(dims):
    """A point of mass under a rough drift of size 50, with noise in some dimensions and times only: p ≥ 0 exactly.

    Mass: a few 1e-16 of rounding for each of some thousand products of a matrix and p, as a random walk.
    """
    grid = Grid((-1,) * dims, (1,) * dims, (24,) * dims)
    generator = torch.Generator().manual_seed(0)
    modes = torch.randn(dims, dims, generator=generator, dtype=F64) * 9
    drift = lambda x, t: 50 * torch.sin(x @ modes + 30 * t)
    for noise in (1.0, 1e-9, 0.0):
        spread = lambda t, noise=noise: noise * torch.tensor([1.0, 0.0][:dims], dtype=F64) * (t > 0.5)
        p = torch.zeros(grid.cells, dtype=F64)
        p[(3,) * dims] = 1 / grid.volume
        found = fokker_planck(grid, p, Equation(drift, spread), line(0, 1, 7))
        assert (found >= 0).all()
        assert ((found.flatten(1).sum(1) * grid.volume - 1).abs() < 1e-12).all()
        down = fokker_planck(grid, p, Equation(drift, spread), line(1, 0, 7))
        assert (down >= 0).all()


def test_the_normal_law_is_stationary():
    """exp(−x²/2) at the centres is the steady state of dx = −x dt + √2 dw, on coarse cells too: to rounding."""
    for cells in ((9,), (200,), (12, 7)):
        grid = Grid((-4,) * len(cells), (5,) * len(cells), cells)
        p = grid.density(lambda x: -(x**2).sum(1) / 2)
        ou = Equation(lambda x, t: -x, lambda t: torch.tensor(2.0, dtype=F64))
        found = fokker_planck(grid, p, ou, line(0, 3, 4))
        torch.testing.assert_close(found[-1], p, rtol=1e-11, atol=0)
        # and it is where everything goes: the slowest mode falls as e^{-t}
        point = torch.zeros_like(p)
        point[(2,) * len(cells)] = 1 / grid.volume
        late = fokker_planck(grid, point, ou, line(0, 30, 30))[-1]
        torch.testing.assert_close(late, p, rtol=1e-9, atol=1e-12)


N, CELLS = 4000, 25


def coarse(grid, p):
    """The masses of ``CELLS`` cells of equal width, each of a whole number of the grid's."""
    return (p * grid.volume).reshape(CELLS, -1).sum(1)


def floor(mass, n=N):
    """Total variation of n samples of the law itself: ½ Σ E|n_i/n − p_i| ≤ ½ Σ √(p_i/n), and 4 of its deviations.

    One sample moves it by at most 1/n, so its deviation is at most 1/(2√n) (McDiarmid).
    """
    return float(torch.sqrt(mass / n).sum() / 2 + 4 / (2 * math.sqrt(n)))


@pytest.fixture(scope="module")
def judged():
    """The grid's own p at t = 0.02, brought there by the noising: it has seen no formula of the mixture's marginal."""
    grid = Grid((-5,), (5,), (1000,))
    law = fokker_planck(grid, grid.density(WORLD.log_prob), forward(VP), line(0, 0.02, 20))[-1]
    assert variation(grid, law, exact(grid, WORLD, VP, 0.02)) < 1e-5
    return grid, coarse(grid, law)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_law_of_every_sampler(judged, name):
    """N samples at t = 0.02 in 25 cells: total variation from the grid's p within the floor of N samples.

    Rows of weak order 1 get 150 steps, whose bias is below 1 %, and that much more.
    """
    grid, mass = judged
    law = SAMPLERS[name]
    steps = law.steps if law.exact else 150
    times = torch.cat((langevin.samplers.grids.log_snr(VP, steps)[:-1], torch.zeros(1, dtype=F64)))
    times = torch.cat((times[times > 0.021], torch.tensor([0.02], dtype=F64)))
    start = WORLD.sample(N, 5, process=VP, t=1.0)
    *_, last = langevin.trajectory(WORLD.denoiser(VP), law.sampler, grid=times, start=start, noise=langevin.Noise(3, N))
    distance = float((coarse(grid, grid.histogram(last.x)) - mass).abs().sum() / 2)
    assert distance < floor(mass) + (0.0 if law.exact else 0.01)


@pytest.mark.parametrize("name", thinned(PHASE_SAMPLERS, 9))
def test_the_law_of_every_sampler_with_a_velocity(name):
    """Position at t = 0.05 against the noising of (x, v) on a grid, from the same law at t = 0.01."""
    process = processes.PhaseSpace(4.0, 0.5)
    grid = Grid((-5, -5), (5, 5), (400, 100))
    known = grid.density(lambda z: WORLD.log_prob(z[..., None], process, 0.01))
    p = fokker_planck(grid, known, forward(process), line(0.01, 0.05, 8))[-1]
    mass = (p.sum(1) * grid.volume).reshape(CELLS, -1).sum(1)
    law = PHASE_SAMPLERS[name]
    steps = law.steps if law.exact else 150
    times = samplers.grids.quadratic(process, steps)
    times = torch.cat((times[times > 0.051], torch.tensor([0.05], dtype=F64)))
    start = WORLD.sample(N, 5, process=process, t=1.0)
    *_, last = langevin.trajectory(
        WORLD.denoiser(process), law.sampler, grid=times, start=start, noise=langevin.Noise(3, N)
    )
    line_ = Grid((-5,), (5,), (CELLS,))
    distance = float((line_.histogram(last.x[:, 0]) * line_.volume - mass).abs().sum() / 2)
    # The grid's own error, order 1 in x: numerical diffusion E|βv|h/2·Δt = 0.0014 beside a variance of 0.05, 1 %.
    assert distance < floor(mass) + 0.01 + (0.0 if law.exact else 0.01)


@dataclasses.dataclass(frozen=True, eq=False)
class Wrong(Transform):
    """A belief that is a model's, not the data's: its mean is half of what it should be."""

    def __call__(self, x_t, t):
        return Dirac(0.5 * self.base(x_t, t).mean)


@pytest.mark.slow
def test_a_wrong_model_has_a_law_for_every_eta():
    """No closed form is known there: Euler–Maruyama lands on the grid's law, and of its own η only.

    The laws of η = 0, ½, 1 are 0.08, 0.18 and 0.26 of total variation apart, the floor of 10,000 samples is 0.04.
    Allowed on top: 0.01 for the order 1 of 450 steps, and 0.01 for the upwind flux of η = 0.
    """
    grid, wrong, n = Grid((-5,), (5,), (500,)), Wrong(WORLD.denoiser(VP)), 10_000
    walk = lambda k: torch.cat((line(1, 0.1, 6 * k), line(0.1, 0.02, 3 * k)[1:]))
    start, etas = exact(grid, WORLD, VP, 1.0), (0.0, 0.5, 1.0)
    masses = {e: coarse(grid, fokker_planck(grid, start, generative(wrong, e), walk(10))[-1]) for e in etas}
    x = WORLD.sample(n, 5, process=VP, t=1.0)
    for eta in etas:
        rule, noise = samplers.EulerMaruyama(eta), langevin.Noise(3, n)
        *_, last = langevin.trajectory(wrong, rule, grid=walk(50), start=x, noise=noise)
        histogram = coarse(grid, grid.histogram(last.x))
        for other, mass in masses.items():
            distance, bound = float((histogram - mass).abs().sum() / 2), floor(mass, n) + 0.02
            assert (distance < bound) == (other == eta), (eta, other, distance, bound)


REFUSED = [
    (lambda: Grid((0,), (1, 2), (3,)), "must have 1 or 2 numbers each"),
    (lambda: Grid((0, 0, 0), (1, 1, 1), (3, 3, 3)), "must have 1 or 2 numbers each"),
    (lambda: Grid((1,), (1,), (3,)), "low must be below high and both finite"),
    (lambda: Grid((0,), (1,), (1,)), "cells must be integers of at least 2"),
    (lambda: forward(processes.Absorbing(3)), "a grid needs a diffusion"),
    (lambda: generative(WORLD.denoiser(VP), -1.0), "eta must be >= 0, got -1"),
    (lambda: run(times=[0.5]), "times must be 1-D, at least two"),
    (lambda: run(times=[0.5, 0.2, 0.3]), "times must be 1-D, at least two, and increase or decrease"),
    (lambda: run(p=torch.ones(4)), r"density must be \(3,\), finite and >= 0, got shape \(4,\)"),
    (lambda: run(p=-torch.ones(3)), r"density must be \(3,\), finite and >= 0"),
    (lambda: run(drift=lambda x, t: x / 0), "equation must have a finite drift on the grid; at t = 0.25"),
]


def run(p=None, times=(0.0, 0.5), drift=lambda x, t: x):
    equation = Equation(drift, lambda t: torch.ones((), dtype=F64))
    return fokker_planck(Grid((0,), (1,), (3,)), torch.ones(3) if p is None else p, equation, torch.tensor(times))


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
