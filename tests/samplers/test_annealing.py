"""The rules of NCSNv2 against the figures of its paper, and annealed Langevin dynamics against closed forms."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

import langevin
from langevin import processes, samplers, worlds
from langevin._errors import UserError
from langevin.processes import NoiseLevels, largest_distance, level_ratio
from langevin.samplers import AnnealedLangevin, level_step_size


@pytest.mark.parametrize(
    ("side", "first", "steps", "count", "epsilon"),
    [(32, 50.0, 5, 232, 6.2e-6), (64, 90.0, 5, 500, 3.3e-6), (128, 190.0, 3, 1086, 1.8e-6)],
    ids=["cifar10", "celeba64", "bedroom128"],
)
def test_the_papers_own_choices(side: int, first: float, steps: int, count: int, epsilon: float) -> None:
    """σ_L = 0.01 and the table of the paper's appendix: ε to its two digits, L to within 6 %."""
    step = level_step_size((first / 0.01) ** (1 / (count - 1)), steps)
    assert step / 2 * 0.01**2 == pytest.approx(epsilon, abs=0.06e-6)
    own = 1 + math.log(first / 0.01) / math.log(level_ratio(3 * side**2))
    assert own == pytest.approx(count, rel=0.06)


@pytest.mark.parametrize("dim", [12, 64, 3072])
def test_ratio_against_draws(dim: int) -> None:
    """Of draws from the smaller level's shell half lie within three thicknesses of the larger one's, as normal laws."""
    ratio, root = level_ratio(dim), math.sqrt(dim)
    normal = statistics.NormalDist().cdf
    wanted = normal(math.sqrt(2) * root * (ratio - 1) + 3 * ratio) - normal(
        math.sqrt(2) * root * (ratio - 1) - 3 * ratio
    )
    z = langevin.Noise(0, 40_000).normal((1,))[:, 0]
    share = ((root + z / math.sqrt(2) - ratio * root).abs() < 3 * ratio / math.sqrt(2)).double().mean()
    capped = ratio > processes.noise_levels.WIDEST - 1e-9
    assert capped == (dim == 12)
    if not capped:
        assert wanted == pytest.approx(0.5, abs=1e-12)
        assert float(share) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(40_000))


@pytest.mark.parametrize(("ratio", "steps"), [(1.02, 5), (1.2, 5), (1.67, 100)])
def test_step_is_the_least_of_the_papers_equation(ratio: float, steps: int) -> None:
    def variance(e: float) -> float:
        v = ratio**2
        for _ in range(steps):  # x ← (1 − e) x + √(2e) z
            v = (1 - e) ** 2 * v + 2 * e
        return v

    e = level_step_size(ratio, steps) / 2
    assert variance(e) < min(variance(0.9999 * e), variance(1.0001 * e))  # the search ends at steps of 1e-8
    assert 1 < variance(e) < ratio**2


def test_variance_from_level_to_level() -> None:
    """Of one datum the noised law is N(m, σ_i²): the chain's variance follows the recursion, to its noise."""
    world = worlds.Empirical(torch.tensor([[0.3, -0.2]], dtype=torch.float64))
    levels = NoiseLevels(4.0, 0.02, 14)
    process, n = levels.process(), 20_000
    grid = samplers.AnnealedLangevin().default_grid(process, 15)
    # One ratio above the first, then the levels, to what VE lacks of its σ_max.
    torch.testing.assert_close(process.sigma(grid[1:-1]), levels.sigmas, rtol=1e-4, atol=0)
    start = world.sample(n, 3, process=process, t=grid[0])
    *_, last = langevin.trajectory(
        world.denoiser(process), AnnealedLangevin(3), grid=grid[:-1], start=start, noise=langevin.Noise(1, n)
    )
    e, v = level_step_size(levels.ratio, 3) / 2, 1.0
    for _ in range(14):
        v *= levels.ratio**2
        for _ in range(3):
            v = (1 - e) ** 2 * v + 2 * e
    found = (last.x - world.points).square().mean() / levels.last**2
    # 2n independent squares of normal numbers: five standard errors; 1e-3 for the ratio of VE's last interval.
    assert float(found) == pytest.approx(v, rel=5 * math.sqrt(2 / (2 * n)) + 1e-3)
    assert abs(v - 1) > 0.05  # and the rule leaves a lag, which the test sees


def test_largest_distance() -> None:
    x = worlds.random_mixture(6, seed=3).sample(3000, 1)
    truth = float(torch.pdist(x).max())
    for block in (7, 512, 4096):
        assert largest_distance(x, block=block) == pytest.approx(truth, rel=1e-12)
    assert largest_distance(x.float().reshape(-1, 1, 2, 3)) == pytest.approx(truth, rel=1e-5)
    # The pair need not hold the event that is furthest from the mean.
    cross = torch.cat((torch.tensor([[1.0, 0.0], [0.0, 0.95], [0.0, -0.95]]), torch.zeros(200, 2)))
    assert largest_distance(cross, block=1) == pytest.approx(1.9)
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0], [0.0, 4.0]])
    assert largest_distance(corners) == pytest.approx(5.0)
    for wrong in (x[:1], x[0], x * math.nan):
        with pytest.raises(UserError, match="at least two events"):
            largest_distance(wrong)


@pytest.mark.slow
def test_annealing_finds_the_weights_that_one_level_cannot() -> None:
    """Two far components of weights 0.8 and 0.2: annealed, their shares are right; at one level alone, the start's.

    The share of n = 1,200 independent chains has a standard error of √(0.8·0.2/n); four of those.
    """
    world = worlds.GaussianMixture(
        torch.tensor([0.8, 0.2]), torch.tensor([[-3.0, -3.0], [3.0, 3.0]]), torch.tensor([0.3**2, 0.3**2])
    )
    n = 1200
    levels = NoiseLevels.of(world.sample(2000, 5), last=0.05)
    assert levels.ratio <= level_ratio(2)
    denoiser = world.denoiser(levels.process())
    error = 4 * math.sqrt(0.8 * 0.2 / n)
    x = langevin.sample(denoiser, AnnealedLangevin(50), steps=levels.count + 1, n=n, seed=1)
    assert abs(float((x[:, 0] < 0).double().mean()) - 0.8) < error
    # A component is a Gaussian of variance c² + σ²: what T steps a level leave of it is a recursion, and the lag behind
    # 0.3 is that of the method. Above σ = 1 the components are one; what happened there is forgotten.
    variance, c2, e = 1.0, 0.3**2, level_step_size(levels.ratio, 50) / 2
    for s2 in (levels.sigmas[levels.sigmas < 1] ** 2).tolist():
        for _ in range(50):
            variance = (1 - e * s2 / (c2 + s2)) ** 2 * variance + 2 * e * s2
    variance *= (c2 / (c2 + levels.last**2)) ** 2
    own = x[x[:, 0] < 0]
    own = own - own.mean(0)
    assert float(own.square().mean()) == pytest.approx(variance, rel=4 * math.sqrt(2 / (2 * len(own))))
    assert variance > 1.1 * c2
    last = levels.times(denoiser.process)[-1]
    start = 16 * langevin.Noise(2, n).uniform((2,)) - 8
    state = samplers.State(start, last)
    state = samplers.Langevin(400, 0.3).step(state, last, denoiser, langevin.Noise(3, n, draw=1))
    assert abs(float((state.x[:, 0] < 0).double().mean()) - 0.5) < 0.1


def test_refusals() -> None:
    with pytest.raises(UserError, match="step_size"):
        AnnealedLangevin(step_size=2.0)
    with pytest.raises(UserError, match="steps"):
        AnnealedLangevin(0)
    with pytest.raises(UserError, match="ratio must be > 1"):
        level_step_size(1.0, 5)
    with pytest.raises(UserError, match="dim"):
        level_ratio(0)
    with pytest.raises(UserError, match="below the largest distance"):
        NoiseLevels.of(torch.tensor([[0.0], [1.0]]), last=2.0)
    with pytest.raises(UserError, match="noise levels needs"):
        NoiseLevels().times(processes.Absorbing(3))


def test_the_largest_distance_of_a_small_cloud() -> None:
    """Less than 1, in several blocks, as all pairs give it; progress counts events up to all of them."""
    x = 0.1 * langevin.Noise(3, 50).normal((4,))
    seen: list[tuple[int, int]] = []
    found = largest_distance(x, block=1, progress=lambda done, total: seen.append((done, total)))
    assert found == pytest.approx(float(torch.cdist(x, x).max()), rel=1e-12)
    assert 0 < found < 1
    assert [done for done, _ in seen[:-1]] == list(range(1, len(seen)))
    assert seen[-1] == (50, 50)
