"""Precision and recall, counted by hand; distances that do not cancel."""

import pytest
import torch

from langevin._errors import UserError
from langevin.metrics import _inputs, precision_recall


def line(*points: float) -> torch.Tensor:
    return torch.tensor(points, dtype=torch.float64)[:, None]


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_hand_counted() -> None:
    # k = 1. Real 0, 1, 3, 10 with radii 1, 1, 2, 7: the manifold is [−1, 2] ∪ [1, 5] ∪ [3, 17].
    real = line(0, 1, 3, 10)
    # Samples −1.5 (out), 2 (in), 17 (in, at the edge), 18 (out), with radii 3.5, 3.5, 1, 1:
    # their manifold is [−5, 2] ∪ [−1.5, 5.5] ∪ [16, 19]: real 0, 1, 3 are inside, 10 is not.
    samples = line(-1.5, 2, 17, 18)
    found = precision_recall(samples, real, k=1)
    assert (found.precision, found.recall) == (0.5, 0.75)


def test_third_neighbour_by_default_and_copies_count() -> None:
    # Every real point has its 3rd neighbour at distance 0, 0, 0, 0 and 5: the copies' balls are points.
    real = line(0, 0, 0, 0, 5)
    found = precision_recall(line(0, 0.1, 10, 11, 5), real)
    assert found.precision == pytest.approx(0.8)
    assert precision_recall(line(0, -0.1, 10.1, 11, -5), real).precision == pytest.approx(0.2)


def test_modes_dropped_and_invented() -> None:
    a, b = normal(300, 2, seed=0), normal(300, 2, seed=1) + 100
    both = torch.cat([a, b])
    assert precision_recall(normal(300, 2, seed=2), both).recall < 0.52
    assert precision_recall(normal(300, 2, seed=2), both).precision > 0.9
    assert precision_recall(both, a).recall == 1
    assert precision_recall(both, a).precision == 0.5


def test_chunks_change_nothing(monkeypatch) -> None:
    x, y = normal(70, 40, seed=0), normal(90, 40, seed=1)
    whole = precision_recall(x, y)
    monkeypatch.setattr(_inputs, "CHUNK", 200)
    assert precision_recall(x, y) == whole


@pytest.mark.parametrize("dim", [2, 32, 33, 500])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_near_neighbours_keep_their_digits(dim: int, offset: float) -> None:
    # Pairs 1e-7 apart among points of norm √dim: ‖a‖² + ‖b‖² − 2ab has rounding 1e-16·dim above their 1e-14.
    # Rounding the points themselves at offset 1e6 leaves 1e-10 a coordinate, so the reference is of the rounded ones.
    x = normal(40, dim, seed=0) + offset
    y = torch.cat([x + 1e-7 * normal(40, dim, seed=1), normal(30, dim, seed=2) + offset, x[:5]])
    found = torch.cat([d for _, d in _inputs.distances(x, y)])
    exact = (x[:, None] - y[None]).square().sum(-1).sqrt()
    assert ((found - exact).abs() <= 1e-9 * exact).all()
    assert (found[torch.arange(5), 70 + torch.arange(5)] == 0).all()


def test_refusals() -> None:
    with pytest.raises(UserError, match="k must be at least 1"):
        precision_recall(normal(9, 2, seed=0), normal(9, 2, seed=1), k=0)
    with pytest.raises(UserError, match="real must hold at least 4"):
        precision_recall(normal(9, 2, seed=0), normal(3, 2, seed=1))
