"""A law of levels, with and without noise, against sums over levels and a finite set of points."""

from __future__ import annotations

import math

import pytest
import torch

from langevin import Noise, processes
from langevin.distributions import FiniteSet, Levels

DOUBLE = torch.float64
VALUES = torch.tensor([-1.0, 0.0, 1.0], dtype=DOUBLE)


def law(batch=2):
    raw = torch.randn(batch, 2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    return Levels(VALUES, torch.log_softmax(raw, -1))


def test_probabilities_of_one_event():
    """All 81 events of a sample: their probabilities sum to 1, and give mean and variance."""
    one = law(1)
    events = torch.cartesian_prod(*[VALUES] * 4).reshape(-1, 1, 2, 2)
    probs = Levels(VALUES, one.log_probs.expand(81, -1, -1, -1)).log_prob(events[:, 0]).exp()
    assert probs.sum().item() == pytest.approx(1)
    mean = (probs[:, None, None] * events[:, 0]).sum(0)
    torch.testing.assert_close(one.mean[0], mean)
    variance = (probs[:, None, None] * (events[:, 0] - mean) ** 2).sum(0)
    torch.testing.assert_close(one.cov.diagonal((2, 2))[0], variance)


def test_between_levels_there_is_nothing():
    x = torch.zeros(2, 2, 2, dtype=DOUBLE)
    assert torch.isfinite(law().log_prob(x + 1e-7)).all()  # float32's rounding of a level
    assert (law().log_prob(x + 0.1) == -math.inf).all()


@pytest.mark.parametrize("t", [0.05, 0.4, 1.0])
def test_a_step_is_the_mixture_of_bridges(t):
    """``reverse`` of the law: against the density of every bridge, weighed; its moments against quadrature."""
    process, s = processes.VP(), t / 2
    probs = torch.tensor([[[0.2, 0.5, 0.3]]], dtype=DOUBLE)
    x_t = torch.tensor([[0.3]], dtype=DOUBLE)
    step = process.reverse(x_t, Levels(VALUES, probs.log()), t, s)
    x = torch.linspace(-8, 8, 8001, dtype=DOUBLE)[:, None]
    many = Levels(VALUES, probs.log().expand(8001, 1, 3))
    density = process.reverse(x_t.expand(8001, 1), many, t, s).log_prob(x).exp()
    by_hand = sum(
        p * process.bridge(x_t.expand(8001, 1), v.expand(8001, 1), t, s).log_prob(x).exp()
        for p, v in zip(probs[0, 0], VALUES)
    )
    torch.testing.assert_close(density, by_hand)
    mean = torch.trapezoid(density * x[:, 0], x[:, 0])
    torch.testing.assert_close(step.mean[0, 0], mean, rtol=1e-8, atol=1e-10)
    variance = torch.trapezoid(density * (x[:, 0] - mean) ** 2, x[:, 0])
    torch.testing.assert_close(step.cov.diagonal((1,)).flatten()[0], variance, rtol=1e-8, atol=1e-10)
    again = step.affine(torch.tensor(2.0, dtype=DOUBLE), x_t, torch.tensor(0.5, dtype=DOUBLE))
    torch.testing.assert_close(again.mean, 2 * step.mean + x_t)
    torch.testing.assert_close(again.cov.diagonal((1,)), 4 * step.cov.diagonal((1,)) + 0.5)


def test_samples_have_its_law():
    """Mean and variance of 40,000 draws at each position, 4.5 standard errors; levels alone without noise."""
    n, two = 40_000, law(1)
    plain = Levels(VALUES, two.log_probs.expand(n, -1, -1, -1))
    noisy = plain.affine(torch.tensor(0.7, dtype=DOUBLE), torch.tensor(0.2, dtype=DOUBLE), torch.tensor(0.3))
    assert torch.isin(plain.sample(Noise(0, n)), VALUES).all()
    x = noisy.sample(Noise(0, n))
    std = two.affine(torch.tensor(0.7), torch.tensor(0.2), torch.tensor(0.3)).cov.diagonal((2, 2))[0].sqrt()
    assert ((x.mean(0) - noisy.mean[0]).abs() < 4.5 * std / math.sqrt(n)).all()
    assert ((x.var(0) / std**2 - 1).abs() < 4.5 * math.sqrt(2 / n)).all()


def test_independent_points_agree_with_a_finite_set():
    """One coordinate: the same as the finite set of its levels."""
    probs = torch.tensor([[0.2, 0.5, 0.3]], dtype=DOUBLE).log()
    points = FiniteSet(VALUES[:, None], probs)
    same = Levels(VALUES, probs[:, None])
    for v in VALUES:
        torch.testing.assert_close(same.log_prob(v.reshape(1, 1)), points.log_prob(v.reshape(1, 1)))
    torch.testing.assert_close(same.mean, points.mean)
