"""Sliced Wasserstein distance against closed forms."""

import math

import pytest
import torch

from langevin._errors import UserError
from langevin.metrics import Parts, sliced_floor, sliced_wasserstein
from langevin.metrics.sliced import sliced_between


def test_a_floor_is_of_two_halves():
    """Each of the draws, again by hand: the distance of one half of a permutation to the other."""
    x = normal(31, 2, seed=0)
    generator, values = torch.Generator().manual_seed(3), []
    for _ in range(4):
        order = torch.randperm(31, generator=generator)
        values.append(sliced_wasserstein(x[order[:15]], x[order[15:30]], projections=32, seed=3))
    floor = sliced_floor(x, projections=32, seed=3, halvings=4)
    assert floor.value == pytest.approx(sum(values) / 4, rel=1e-6)


def test_in_parts_it_is_the_same():
    x, real = normal(50, 3, seed=0), normal(40, 3, seed=1)
    assert sliced_between(Parts.of(x), real) == pytest.approx(sliced_wasserstein(x, real), rel=1e-9)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_shifted_gaussians() -> None:
    # A shift by a gives (θ·a)² in every direction; E (θ·a)² = |a|²/D, and (θ·a)²·D/|a|² has variance below 2.
    x, shift, projections = normal(500, 6, seed=0), normal(6, seed=1), 4000
    found = sliced_wasserstein(x + shift, x, projections=projections) ** 2
    expected = float(shift.square().sum()) / 6
    assert found == pytest.approx(expected, rel=4 * math.sqrt(2 / projections))


def test_scaled_gaussian_on_the_line_is_exact() -> None:
    # One dimension, one direction: W2² between x and 3x is the mean of (2x)².
    x = normal(300, 1, seed=0)
    assert sliced_wasserstein(3 * x, x) == pytest.approx(float((2 * x).square().mean().sqrt()), rel=1e-12)


def test_unequal_counts_by_hand() -> None:
    # {0, 6} against {0, 0, 3}: thirds and halves merge at 1/3, 1/2, 2/3: (0·1/3 + 0·1/6 + 36·1/6 + 9·1/3) = 9.
    x, y = torch.tensor([[6.0], [0.0]]), torch.tensor([[3.0], [0.0], [0.0]])
    assert sliced_wasserstein(x, y) == pytest.approx(3, rel=1e-12)
    assert sliced_wasserstein(y, x) == pytest.approx(3, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(7, 5), (12, 18), (1000, 999)])
def test_unequal_counts_equal_repeated_points(n: int, m: int) -> None:
    x, y = normal(n, 3, seed=0), 1 + normal(m, 3, seed=1)
    both = math.lcm(n, m)
    if both > 10_000:
        both, x, y = 999_000 // 999, x, y[:500]  # 1000 against 500
    repeated = x.repeat_interleave(both // len(x), 0), y.repeat_interleave(both // len(y), 0)
    assert sliced_wasserstein(x, y) == pytest.approx(sliced_wasserstein(*repeated), rel=1e-10)


def test_identity_symmetry_and_seed() -> None:
    x, y = normal(50, 3, seed=0), normal(60, 3, seed=1)
    assert sliced_wasserstein(x, x[torch.randperm(50)]) < 1e-12
    assert sliced_wasserstein(x, y) == pytest.approx(sliced_wasserstein(y, x), rel=1e-12)
    assert sliced_wasserstein(x, y, seed=1) != sliced_wasserstein(x, y, seed=2)


def test_floor_is_the_distance_of_fresh_draws() -> None:
    # Halves of one sample of 2n are two independent samples of n.
    floor = sliced_floor(normal(2000, 3, seed=0), projections=64)
    fresh = [
        sliced_wasserstein(normal(1000, 3, seed=i), normal(1000, 3, seed=99 + i), projections=64) for i in range(16)
    ]
    mean = sum(fresh) / 16
    sd = float(torch.tensor(fresh).std())
    # Both means have an error of sd/√16 and sd/√8 (halvings of one sample are nearly independent of each other).
    assert abs(floor.value - mean) < 4 * sd * math.sqrt(1 / 16 + 1 / 8)
    assert 0.4 < floor.stderr / sd < 2.5


def test_refusals() -> None:
    x = normal(9, 2, seed=0)
    with pytest.raises(UserError, match="projections must be at least 1"):
        sliced_wasserstein(x, x, projections=0)
    with pytest.raises(UserError, match="halvings must be at least 2"):
        sliced_floor(x, halvings=1)
    with pytest.raises(UserError, match="real must hold at least 4"):
        sliced_floor(x[:3])
