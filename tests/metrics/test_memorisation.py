"""Copies are seen as copies, fresh draws as fresh."""

import pytest
import torch

from langevin._errors import UserError
from langevin.metrics import memorisation, nearest_neighbours


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ratio_of_a_copying_sampler() -> None:
    train, heldout = normal(500, 1, 8, 8, seed=0), normal(300, 1, 8, 8, seed=1)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(2))[:200]
    copies = memorisation(train[order], train, heldout)
    assert copies.ratio == 0
    assert torch.equal(copies.indices, order)
    # Copies moved by 0.01 in each of 64 coordinates lie at 0.08; held-out points at a known median.
    near = memorisation(train[order] + 0.01, train, heldout)
    direct = torch.cdist(heldout.flatten(1).double(), train.flatten(1).double()).min(1).values.median()
    assert near.samples == pytest.approx(0.08, rel=1e-5)  # float32 inputs
    assert near.heldout == pytest.approx(float(direct), rel=1e-6)
    assert near.ratio == pytest.approx(0.08 / float(direct), rel=1e-5)


def test_fresh_draws_are_at_one() -> None:
    train = normal(1000, 5, seed=0)
    found = memorisation(normal(2000, 5, seed=1), train, normal(2000, 5, seed=2))
    # The nearest distances have a relative deviation of about 0.4; a median of 2,000 has 1.25·0.4/√2000 = 1.1 %.
    assert found.ratio == pytest.approx(1, abs=4 * 0.011 * 2**0.5)


def test_half_copies_are_seen_in_the_median() -> None:
    train = normal(400, 5, seed=0)
    mixed = torch.cat([train[:110], normal(90, 5, seed=1)])
    assert memorisation(mixed, train, normal(200, 5, seed=2)).ratio == 0


def test_nearest_neighbours_by_hand() -> None:
    distance, index = nearest_neighbours(torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    assert index.tolist() == [1, 0]
    assert distance.tolist() == pytest.approx([1.0, 5**0.5])
    # One point of each is enough.
    distance, index = nearest_neighbours(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    assert (distance.item(), index.item()) == (5.0, 0)


def test_refusals() -> None:
    train = normal(20, 2, seed=0)
    with pytest.raises(UserError, match="exact copy of train"):
        memorisation(normal(5, 2, seed=1), train, train[:5])
    with pytest.raises(UserError, match="one event shape"):
        memorisation(normal(5, 3, seed=1), train, train)
    with pytest.raises(UserError, match="non-finite"):
        memorisation(torch.full((5, 2), torch.nan), train, train)
