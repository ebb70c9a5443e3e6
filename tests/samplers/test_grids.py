"""Grids against their formulas."""

from __future__ import annotations

import itertools

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers, worlds
from langevin._registry import methods
from langevin.samplers import check_grid, grids

SCALAR = [
    processes.VP(),
    processes.VE(),
    processes.EDM(),
    processes.RectifiedFlow(),
    processes.Cosine(),
    processes.DDPM(),
]


@pytest.mark.parametrize("process", SCALAR, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("steps", [1, 2, 5, 100])
@pytest.mark.parametrize("name", [m.name for m in methods("grids")])
def test_every_grid(name, process, steps):
    """n + 1 times, falling strictly from at most t_max to 0, for every process that the grid is made for."""
    make = next(m.make for m in methods("grids") if m.name == name)
    if name in ("leading", "linspace", "trailing") and not isinstance(process, processes.DDPM):
        with pytest.raises(UserError, match="table"):
            make(process, steps)
        return
    times = make(process, steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert float(times[-1]) == 0.0
    assert float(times[0]) <= process.t_max
    assert (times.diff() < 0).all()
    check_grid(times)


def test_karras_is_the_papers():
    """arXiv:2206.00364 eq. 5, with σ of EDM; to the 1e-12 of the inverse of σ(t)."""
    process, n, rho = processes.EDM(), 18, 7
    i = torch.arange(n, dtype=torch.float64)
    sigma = (80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    ours = process.sigma(grids.karras(process, n))
    torch.testing.assert_close(ours[:-1], sigma, rtol=1e-12, atol=1e-14)


def test_shifted():
    """σ/α of a flow is multiplied by the shift at every time, which 1 leaves alone."""
    flow = processes.RectifiedFlow()
    moved = grids.shifted(flow, 10, shift=3.0)
    level = moved / (1 - moved) / 3
    even = level / (1 + level)
    torch.testing.assert_close(even.diff(), even.diff()[:1].expand(10))
    assert float(moved[0]) == pytest.approx(flow.t_max)
    torch.testing.assert_close(grids.shifted(flow, 10, shift=1.0), grids.uniform(flow, 10))
    with pytest.raises(UserError, match="shift must be > 0"):
        grids.shifted(flow, 10, shift=0.0)


def test_log_snr_is_uniform():
    """Equal steps of log-SNR between t_max and t_min."""
    process = processes.VP()
    gaps = process.log_snr(grids.log_snr(process, 20))[:-1].diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(19), rtol=1e-9, atol=0)


def test_one_step_from_the_last_knot():
    """Of one index a table's linspace takes the last, as its trailing grid does."""
    for make in (grids.linspace, grids.trailing):
        assert make(processes.DDPM(), 1).tolist() == [1.0, 0.0]


def test_uniform_and_quadratic():
    """t_i = 1 − i/n and its square."""
    i = torch.arange(11, dtype=torch.float64)
    torch.testing.assert_close(grids.uniform(processes.VP(), 10), 1 - i / 10)
    torch.testing.assert_close(grids.quadratic(processes.VP(), 10), (1 - i / 10) ** 2)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([0.5], "at least two"),
        ([1.0, float("nan"), 0.0], "finite"),
        ([1.2, 0.0], r"\[0, 1\]"),
        ([1.0, 0.4, 0.4, 0.0], r"grid\[2\] = 0.4 follows grid\[1\] = 0.4"),
        ([[1.0, 0.0]], "1-D"),
    ],
)
def test_bad_grids(grid, message):
    with pytest.raises(UserError, match=message):
        check_grid(grid)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_bad_steps(steps):
    for method in methods("grids"):
        with pytest.raises(UserError, match="steps must be"):
            method.make(processes.DDPM(), steps)


def test_dynamic_is_the_least_of_all():
    """Against every sub-sequence of eight times, for costs without any structure."""
    generator = torch.Generator().manual_seed(0)
    times = torch.linspace(1, 0, 8, dtype=torch.float64)
    for _ in range(5):
        cost = torch.rand(8, 8, generator=generator, dtype=torch.float64)
        for steps in range(1, 8):
            ways = [(0, *middle, 7) for middle in itertools.combinations(range(1, 7), steps - 1)]
            total = lambda way, cost=cost: float(sum(cost[i, j] for i, j in itertools.pairwise(way)))
            best = min(ways, key=total)
            assert grids.dynamic(times, cost, steps).tolist() == times[list(best)].tolist()


def test_dynamic_takes_no_forbidden_step():
    times, cost = torch.linspace(1, 0, 4, dtype=torch.float64), torch.full((4, 4), torch.inf)
    cost[0, 2] = cost[2, 3] = 1.0
    assert grids.dynamic(times, cost, 2).tolist() == times[[0, 2, 3]].tolist()
    with pytest.raises(UserError, match="cost must leave a way of 3 steps"):
        grids.dynamic(times, cost, 3)
    with pytest.raises(UserError, match="steps must be between 1 and 3"):
        grids.dynamic(times, cost, 4)
    with pytest.raises(UserError, match=r"cost must be \(4, 4\)"):
        grids.dynamic(times, cost[:3], 2)
    cost[0, 1] = torch.nan
    with pytest.raises(UserError, match="not-a-number"):
        grids.dynamic(times, cost, 2)


@pytest.mark.parametrize("process", SCALAR, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_optimal_is_best_for_normal_data(process, spread):
    """DDIM on N(0, spread²): the error at the end is below that of every other grid, at every number of steps.

    240 candidates instead of all times cost a share (Δ log-SNR / step)² of the error, 1 % at 20 steps: hence the 1.02.
    """
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1), spread**2))
    start = torch.ones(1, 1, dtype=torch.float64)

    def error(grid):
        end = langevin.sample(world.denoiser(process), samplers.DDIM(), start=start, grid=grid)
        first = grid[0]
        total = process.alpha(first) ** 2 * spread**2 + process.sigma(first) ** 2
        return abs(float(torch.log(end[0, 0] * torch.sqrt(total) / spread)))

    for steps in (2, 5, 20):
        own = error(grids.optimal(process, steps, spread))
        for name in ("uniform", "quadratic", "log-snr", "karras"):
            grid = next(m.make for m in methods("grids") if m.name == name)(process, steps)
            assert own < 1.02 * error(grid), (name, steps)
