"""Schedules, the discretised Gaussian and moves between neighbours: what their papers say of them."""

from __future__ import annotations

import math

import pytest
import torch

from langevin import UserError
from langevin.processes import Absorbing, DiscretisedGaussian, Neighbours, Uniform

TIMES = torch.linspace(0, 1, 21, dtype=torch.float64)


def shared(rows: torch.Tensor) -> torch.Tensor:
    """I(x_0; x_t) over log K, uniform x_0, of matrices ``(U, K, S)``, from the joint table."""
    joint = rows / rows.shape[1]
    apart = torch.xlogy(joint, joint) - torch.xlogy(joint, joint.sum(1, keepdim=True) / rows.shape[1])
    return apart.sum((1, 2)) / math.log(rows.shape[1])


def rows(chain: object, t: torch.Tensor) -> torch.Tensor:
    return torch.stack([chain.marginal(torch.arange(chain.classes)[:, None], u).probs[:, 0] for u in t])  # type: ignore[attr-defined]


@pytest.mark.parametrize("classes", [2, 3, 27])
def test_mutual_information_falls_linearly(classes: int) -> None:
    """The absorbing chain's linear schedule, the uniform chain's own, and the clock of neighbours."""
    for chain in (
        Absorbing(classes),
        Absorbing(classes, "mutual-information"),
        Uniform(classes, "mutual-information"),
    ):
        # Bisection leaves 2⁻⁶⁰ of α, where information is flat (α → 0) that is nothing.
        torch.testing.assert_close(shared(rows(chain, TIMES)), 1 - TIMES, rtol=0, atol=1e-13)
    # Between measured points, an eighth of an octave apart, log a is taken as linear: (log 2 / 8)²/8 times a curvature
    # of about 1, 9e-4 of the information; and 1e-5 is left at t = 1.
    chain = Neighbours(classes, nearest=1)
    torch.testing.assert_close(shared(rows(chain, TIMES)), 1 - TIMES, rtol=0, atol=1e-3)
    assert float(shared(rows(chain, TIMES[-1:]))[0]) == pytest.approx(1e-5, rel=2e-2)


def test_cosine_reaches_both_ends() -> None:
    kept = Uniform(4, "cosine").keep(TIMES)
    assert (float(kept[0]), float(kept[-1])) == (1.0, 0.0)  # to the bit: the prior of Absorbing has no other mass
    assert (kept.diff() < 0).all()


@pytest.mark.parametrize("classes", [2, 17, 256])
def test_the_discretised_gaussian_keeps_the_uniform_law(classes: int) -> None:
    chain = DiscretisedGaussian(classes, 50)
    q = chain.transitions
    assert (q >= 0).all()
    torch.testing.assert_close(q, q.mT, rtol=0, atol=1e-16)
    torch.testing.assert_close(q.sum(-1), torch.ones_like(q[..., 0]), rtol=0, atol=1e-14)


def test_the_discretised_gaussian_forgets() -> None:
    """At N = 1000 β is the paper's 1e-4 to 0.02, and 17 levels end within 0.5 % of uniform from any start."""
    chain = DiscretisedGaussian(17, 1000)
    # i ≠ j alone: log Q[0, 1] − log Q[0, 2] = 12 / (16² β).
    for n, beta in ((0, 1e-4), (500, 1e-4 + (0.02 - 1e-4) * 500 / 999), (999, 0.02)):
        row = chain.transitions[n, 0]
        if n == 0:  # e^{−156} and e^{−625} of a move by one and two: the ratio in logarithms
            assert math.log(row[1]) == pytest.approx(-4 / (256 * beta), rel=1e-9)
            continue
        assert math.log(row[1] / row[2]) == pytest.approx(12 / (256 * beta), rel=1e-9)
    row = DiscretisedGaussian(17, 1).transitions[0, 0]  # one step alone has the last β, and forgets
    assert math.log(row[1] / row[2]) == pytest.approx(12 / (256 * 20.0), rel=1e-9)
    end = chain.product(0, 1000)
    assert float((end - 1 / 17).abs().sum(-1).max() / 2) < 0.005


def test_small_moves_between_neighbours_are_known_to_a_relative_rounding() -> None:
    """On a line of six, five moves in a time a have probability Π A · a⁵/5! (1 + O(a)): no difference of ones."""
    chain = Neighbours(6, nearest=1)
    a = torch.tensor([1e-6], dtype=torch.float64)
    q = chain._exponential(a)[0]
    along = chain.generator.diagonal(1)
    assert float(q[0, 5]) == pytest.approx(float(along.prod()) * 1e-30 / 120, rel=1e-5)
    late = chain.matrices(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))[0]
    torch.testing.assert_close(late, late.mT, rtol=1e-12, atol=0)


def test_matrices_of_neighbours_compose() -> None:
    chain = Neighbours(9, torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).tolist(), 3)
    s, t, u = (torch.tensor([v], dtype=torch.float64) for v in (0.0, 0.3, 0.8))
    product = chain.matrices(s, t) @ chain.matrices(t, u)
    torch.testing.assert_close(product, chain.matrices(s, u), rtol=1e-13, atol=0)


def test_matrices_of_neighbours_do_not_depend_on_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    s, t = torch.rand(2, 40, generator=torch.Generator().manual_seed(0)).double().sort(0).values
    chain, other = Neighbours(5, nearest=1), Neighbours(5, nearest=1)
    whole = chain.matrices(s, t)
    assert torch.equal(chain.matrices(s.flip(0), t.flip(0)).flip(0), whole)
    monkeypatch.setattr(Neighbours, "KEPT", 0)
    assert torch.equal(torch.cat([other.matrices(a[None], b[None]) for a, b in zip(s, t)]), whole)
    assert not other._kept


def test_neighbours_without_an_embedding_are_next_levels() -> None:
    joined = Neighbours(5, nearest=2).generator > 0
    assert joined.nonzero().tolist() == [
        [0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1], [2, 3], [2, 4], [3, 2], [3, 4], [4, 2], [4, 3]
    ]  # fmt: skip


REFUSED = [
    (lambda: Absorbing(3, "cosin"), "unknown schedule 'cosin'. Did you mean 'cosine'"),
    (lambda: Uniform(3, "line"), "unknown schedule 'line'"),
    (lambda: DiscretisedGaussian(1), "classes must be an integer of at least 2, got 1"),
    (lambda: DiscretisedGaussian(3, 0), "steps must be an integer of at least 1, got 0"),
    (lambda: DiscretisedGaussian(3, 5, 2.0, 1.0), "beta_min, beta_max must satisfy"),
    (lambda: DiscretisedGaussian(3, 5).marginal(torch.zeros(1, 1).long(), 0.5), "t must be a knot n/5"),
    (lambda: Neighbours(1), "classes must be an integer of at least 2, got 1"),
    (lambda: Neighbours(3, [[0.0]]), r"embedding must be \(3, E\) numbers, got shape \(1, 1\)"),
    (lambda: Neighbours(2, [[math.nan], [0.0]]), "embedding must be"),
    (lambda: Neighbours(4, nearest=4), r"nearest must be an integer in \[1, 3\], got 4"),
    (lambda: Neighbours(4, [[0.0], [0.1], [9.0], [9.1]], 1), "nearest must be larger than 1"),
    (lambda: Neighbours(3).transition(torch.zeros(1, 1).long(), 0.5, 0.1), "a chain runs from s to t >= s"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()  # type: ignore[operator]
