"""Fréchet distance against closed forms and an independent formula."""

import math

import pytest
import torch

from langevin._errors import UserError
from langevin.metrics import FeatureSums, frechet_distance, gaussian_frechet


def covariance(dim: int, seed: int, rank: int | None = None) -> torch.Tensor:
    root = torch.randn(dim, rank or dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / root.shape[1]


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_commuting_gaussians() -> None:
    # Diagonal covariances: |Δμ|² + Σ (s − r)².
    s, r = torch.rand(5, dtype=torch.float64) + 0.1, torch.rand(5, dtype=torch.float64) + 0.1
    a, b = normal(5, seed=1), normal(5, seed=2)
    expected = (a - b).square().sum() + (s - r).square().sum()
    assert gaussian_frechet(a, (s**2).diag(), b, (r**2).diag()) == pytest.approx(float(expected), rel=1e-12)


def test_gaussians_that_do_not_commute() -> None:
    # In the plane tr √(AB) = √(tr AB + 2 √det AB), by Cayley–Hamilton.
    a, b, zero = covariance(2, 1), covariance(2, 2), torch.zeros(2)
    cross = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float(torch.det(a) * torch.det(b))))
    expected = float(a.trace() + b.trace()) - 2 * cross
    assert gaussian_frechet(zero, a, zero, b) == pytest.approx(expected, rel=1e-10)


def test_parity_with_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = covariance(20, 3), covariance(20, 4)
    mean_a, mean_b = normal(20, seed=5), normal(20, seed=6)
    assert gaussian_frechet(mean_a, a, mean_b, b) == pytest.approx(
        float(fid._compute_fid(mean_a, a, mean_b, b)), rel=1e-9
    )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_fewer_rows_than_dimensions(scale: float) -> None:
    # 30 rows in 100 dimensions: covariances of rank 29, for which a matrix square root returns complex noise.
    x, shift = scale * normal(30, 100, seed=7), scale * normal(100, seed=8)
    assert frechet_distance(x, x) <= 1e-10 * scale**2
    assert frechet_distance(x + shift, x) == pytest.approx(float(shift.square().sum()), rel=1e-10)
    # Another law of rank 29: tr √(Σ₁Σ₂) is the nuclear norm of the 30 × 30 product of the centred rows.
    y = scale * normal(30, 100, seed=9) @ covariance(100, 10)
    a, b = (z - z.mean(0) for z in (x, y))
    cross = torch.linalg.svdvals(a @ b.T).sum() / 29
    expected = (x.mean(0) - y.mean(0)).square().sum() + (a.square().sum() + b.square().sum()) / 29 - 2 * cross
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-10)
    # Doubling about the mean: (2 − 1)² tr Σ.
    mean = x.mean(0)
    assert frechet_distance(mean + 2 * (x - mean), x) == pytest.approx(float(x.var(0).sum()), rel=1e-9)


def test_orthogonal_supports_add() -> None:
    x, y = torch.zeros(50, 4, dtype=torch.float64), torch.zeros(50, 4, dtype=torch.float64)
    x[:, :2], y[:, 2:] = normal(50, 2, seed=9), normal(50, 2, seed=10)
    # Turned, so that the zero eigenvalues are rounding: their square roots, 1e-8, must not enter.
    turn = torch.linalg.qr(normal(4, 4, seed=11)).Q
    x, y = x @ turn, y @ turn
    expected = (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum()
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-10)


def test_images_and_single_coordinates() -> None:
    x, y = normal(40, 1, 3, 3, seed=1), normal(50, 1, 3, 3, seed=2)
    assert frechet_distance(x, y) == frechet_distance(x.flatten(1), y.flatten(1))
    one, two = normal(40, 1, seed=1), 3 * normal(50, 1, seed=2)
    expected = (one.mean() - two.mean()) ** 2 + (one.std() - two.std()) ** 2
    assert frechet_distance(one, two) == pytest.approx(float(expected), rel=1e-12)


def test_parts_add_up_to_the_whole() -> None:
    """Features of four machines, in any order, give the distance of all of them, far from zero too."""
    x, y = 1e4 + normal(90, 5, seed=1), 1e4 + 0.5 * normal(70, 5, seed=2)
    whole = frechet_distance(x, y)
    parts = [FeatureSums.of(part) for part in x.split([1, 40, 9, 40])]
    for order in ((0, 1, 2, 3), (3, 0, 2, 1)):
        total = parts[order[0]]
        for k in order[1:]:
            total = total + parts[k]
        assert total.count == 90
        torch.testing.assert_close(total.cov, torch.cov(x.T), rtol=1e-10, atol=1e-12)
        assert frechet_distance(total, y) == pytest.approx(whole, rel=1e-9)
        assert frechet_distance(total, FeatureSums.of(y)) == pytest.approx(whole, rel=1e-9)
    with pytest.raises(UserError, match="at least 2 examples; got 1"):
        frechet_distance(parts[0], y)
    with pytest.raises(UserError, match="equally wide; got 5 and 4"):
        FeatureSums.of(x) + FeatureSums.of(x[:, :4])
    with pytest.raises(UserError, match="one width; got 5 and 4"):
        frechet_distance(FeatureSums.of(x), x[:, :4])


@pytest.mark.parametrize(
    ("samples", "real", "words"),
    [
        (torch.zeros(1, 2), torch.zeros(5, 2), r"samples must hold at least 2 examples; got shape \(1, 2\)"),
        (torch.zeros(5, 2), torch.zeros(5, 3), r"one event shape; got \(2,\) and \(3,\)"),
        (torch.zeros(5), torch.zeros(5, 3), "samples must be a tensor"),
        (torch.full((5, 2), torch.nan), torch.zeros(5, 2), "samples holds 10 non-finite"),
        (torch.zeros(5, 2), torch.tensor([[1.0, torch.inf]] * 3), "real holds 3 non-finite"),
        ([[0.0]], torch.zeros(5, 3), "got list"),
    ],
)
def test_refusals(samples: torch.Tensor, real: torch.Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        frechet_distance(samples, real)
