"""Kernel distance against its definition, its expectation and an independent formula."""

import math

import pytest
import torch

from langevin._errors import UserError
from langevin.metrics import kernel_distance
from langevin.metrics.kernel import _unbiased


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_definition() -> None:
    x, y = normal(5, 3, seed=0), 1 + normal(5, 3, seed=1)

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a @ b) / 3 + 1) ** 3

    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    across = sum(k(x[i], y[j]) for i in range(5) for j in range(5)) / 25
    assert float(_unbiased(x, y)) == pytest.approx(within - 2 * across, rel=1e-12)


def test_parity_with_torchmetrics() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = normal(40, 7, seed=2), 0.5 + normal(40, 7, seed=3)
    assert float(_unbiased(x, y)) == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-10)


def test_closed_form_of_the_cubic_kernel() -> None:
    # On the line E (xy + 1)³ = m₃m₃′ + 3 m₂m₂′ + 3 m₁m₁′ + 1 for independent x, y, so the distance is
    # (m₃ − m₃′)² + 3 (m₂ − m₂′)² + 3 (m₁ − m₁′)²; a Gaussian has m₂ = μ² + σ², m₃ = μ³ + 3μσ².
    def moments(mean: float, std: float) -> tuple[float, float, float]:
        return mean, mean**2 + std**2, mean**3 + 3 * mean * std**2

    one, two = moments(0.0, 1.0), moments(0.3, 0.8)
    expected = sum(w * (a - b) ** 2 for w, a, b in zip((3, 3, 1), one, two))
    found = [
        kernel_distance(normal(400, 1, seed=i), 0.3 + 0.8 * normal(400, 1, seed=1000 + i), subsets=50, subset_size=200)
        for i in range(200)
    ]
    values = torch.tensor([f.value for f in found])
    spread = float(values.std())
    # Unbiased: the mean of 200 independent estimates is within 4 of its standard errors.
    assert abs(float(values.mean()) - expected) < 4 * spread / math.sqrt(200)
    # The standard error is what repeated experiments show. Its square estimates a variance; over 200 experiments of
    # 50 overlapping subsets its root mean square is good to a few per cent, the spread itself to 1/√400 = 5 %.
    claimed = math.sqrt(sum(f.stderr**2 for f in found) / len(found))
    assert claimed == pytest.approx(spread, rel=0.2)


def test_same_law_is_around_zero_and_below_it_half_the_time() -> None:
    values = [kernel_distance(normal(60, 4, seed=i), normal(60, 4, seed=500 + i), subsets=4).value for i in range(60)]
    assert 10 < sum(v < 0 for v in values) < 55


def test_seed_and_options() -> None:
    x, y = normal(50, 2, seed=0), normal(60, 2, seed=1)
    assert kernel_distance(x, y, seed=3) == kernel_distance(x, y, seed=3)
    assert kernel_distance(x, y, seed=3) != kernel_distance(x, y, seed=4)
    for options in ({"subsets": 1}, {"subset_size": 1}):
        with pytest.raises(UserError, match="at least 2"):
            kernel_distance(x, y, **options)
    with pytest.raises(UserError, match="at least 4 examples"):
        kernel_distance(x[:3], y)


def test_sets_of_two_sizes() -> None:
    """A subset is at most half of the smaller set, and the spread of the values is scaled by its share of that."""
    x, y = normal(12, 3, seed=4), 0.5 + normal(60, 3, seed=5)
    found = kernel_distance(x, y, subsets=20, subset_size=1000, seed=7)
    generator, values = torch.Generator().manual_seed(7), []
    for _ in range(20):
        one, two = (v[torch.randperm(len(v), generator=generator)[:6]] for v in (x, y))
        values.append(_unbiased(one, two))
    assert found.value == pytest.approx(float(torch.stack(values).mean()), rel=1e-12)
    assert found.stderr == pytest.approx(float(torch.stack(values).std()), rel=1e-12)  # √(m/n / (1 − m/n)) = 1
