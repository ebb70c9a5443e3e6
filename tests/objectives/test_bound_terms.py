"""Decoders and single terms of the bound, each against a sum, an integral or a formula of its own."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from scipy import stats

from langevin import Noise, UserError, processes, worlds
from langevin.distributions import Categorical, Dense, Diagonal, Dirac, FiniteSet, Normal
from langevin.objectives import Continuous, Discretised, Tokens, bound
from langevin.objectives.bound import _log1mexp

DOUBLE = torch.float64


def levels(decoder):
    return torch.linspace(decoder.low, decoder.high, decoder.levels, dtype=DOUBLE)[:, None]


def test_log_of_one_less_an_exponential():
    """To 1e-15 of mpmath's value from 1e-300 to 700, on either side of log 2 by the form that does not cancel."""
    values = [1e-300, 1e-12, 1e-3, 0.5, 0.69, 0.7, 1.0, 30.0, 700.0]
    with mpmath.workdps(700):
        expected = [float(mpmath.log(-mpmath.expm1(-mpmath.mpf(v)))) for v in values]
    found = _log1mexp(torch.tensor(values, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)


@pytest.mark.parametrize("std", [1e-4, 1e-3, 0.01, 0.3, 5.0, 1e4])
@pytest.mark.parametrize("mean", [-40.0, -1.0, -0.9999, 0.0, 0.00392, 0.31, 1.0, 1.3])
def test_levels_sum_to_one(mean, std):
    """Over the 256 levels, edge bins included, to the rounding of a sum of 256."""
    decoder = Discretised()
    x = levels(decoder)
    law = Normal(torch.full((1, 1), mean, dtype=DOUBLE), std**2)
    log_probs = decoder.log_prob(law, x)
    assert torch.isfinite(log_probs).any()
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert Discretised(std=std).log_prob(Dirac(law.loc), x).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_bins_far_in_the_tails():
    """Against scipy's log-cdfs in the tail where a difference of cdfs is 0; there log P ≈ log of the nearer end."""
    decoder = Discretised(levels=17)
    law = Normal(torch.zeros(1, 1, dtype=DOUBLE), 1e-4)
    x = levels(decoder)
    value = decoder.log_prob(law, x)
    near, far = (x[:, 0].abs() - decoder.width / 2) / 1e-2, (x[:, 0].abs() + decoder.width / 2) / 1e-2
    middle = x[:, 0] == 0
    inner = torch.as_tensor(stats.norm.logsf(near)) + torch.log1p(
        -torch.exp(torch.as_tensor(stats.norm.logsf(far) - stats.norm.logsf(near)))
    )
    expected = torch.where(x[:, 0].abs() == 1, torch.as_tensor(stats.norm.logsf(near)), inner)
    assert float(expected[0]) < -4000
    torch.testing.assert_close(value[~middle], expected[~middle], rtol=1e-10, atol=0)


def test_gradient_reaches_mean_and_spread_everywhere():
    """Edge bins, a mean on a level and a mean far away: finite, and the same as a difference quotient."""
    decoder = Discretised(levels=5)
    x = levels(decoder).expand(5, 4)
    mean = torch.tensor([[-1.2, 0.0, 0.4999, 7.0]], dtype=DOUBLE, requires_grad=True)
    log_std = torch.tensor([[-3.0, -1.0, 0.0, 1.0]], dtype=DOUBLE, requires_grad=True)

    def total(m, log_s):
        law = Normal(m.expand(5, 4), Diagonal(torch.exp(2 * log_s)))
        return decoder.log_prob(law, x)

    assert torch.autograd.gradcheck(total, (mean, log_std), eps=1e-6, atol=1e-4, rtol=1e-4)


def test_full_covariances_give_their_diagonal():
    matrix = torch.tensor([[[0.3, 0.2], [0.2, 0.5]]], dtype=DOUBLE)
    mean, x = torch.tensor([[0.1, -0.3]], dtype=DOUBLE), torch.tensor([[0.0, -1.0]], dtype=DOUBLE)
    both = [Normal(mean, Dense(matrix)), Normal(mean, Diagonal(matrix.diagonal(dim1=1, dim2=2)))]
    one, other = (Discretised(levels=17).log_prob(law, x) for law in both)
    torch.testing.assert_close(one, other)


def test_narrow_bins_are_the_density():
    """log P − log Δ → log p as bins shrink: by ½·p''/p·Δ²/12 < Δ² here."""
    law, x = Normal(torch.tensor([[0.123]], dtype=DOUBLE), 0.3), torch.zeros(1, 1, dtype=DOUBLE)
    fine = Discretised(levels=2001)
    torch.testing.assert_close(
        fine.log_prob(law, x) - math.log(fine.width), Continuous().log_prob(law, x), rtol=0, atol=fine.width**2
    )


@pytest.mark.parametrize("bad", [{"levels": 1}, {"low": 1.0}, {"std": 0.0}, {"std": math.nan}])
def test_bad_decoders_are_named(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Discretised(**bad)


def test_point_beliefs_get_the_spread_of_unit_data():
    """DDPM's β_1 at the first knot."""
    process = processes.DDPM()
    law = bound.widened(process, Dirac(torch.zeros(2, 3, dtype=DOUBLE)), torch.zeros(2, 3, dtype=DOUBLE), 1e-3)
    torch.testing.assert_close(law.cov.diagonal((3,)).flatten(), torch.tensor([1e-4], dtype=DOUBLE), rtol=1e-9, atol=0)
    law = bound.widened(processes.EDM(), Dirac(torch.zeros(1, 3, dtype=DOUBLE)), torch.zeros(1, 3, dtype=DOUBLE), 0.6)
    sigma2 = float(processes.EDM().sigma2(torch.tensor(0.6, dtype=DOUBLE)))
    assert law.cov.diagonal((3,)).item() == pytest.approx(sigma2 / (1 + sigma2), rel=1e-12)  # a = 1, r = σ
    wide = Normal(torch.zeros(2, 3, dtype=DOUBLE), 0.3)
    assert bound.widened(process, wide, torch.zeros(2, 3, dtype=DOUBLE), 1e-3) is wide


def test_step_term_of_a_mixture_is_unbiased():
    """One draw of log q − log p against quadrature of KL in one dimension, 4 standard errors."""
    world, process = worlds.GaussianMixture([0.4, 0.6], [[-1.0], [0.7]], [0.02, 0.1]), processes.VP()
    n, t, s = 20_000, 0.4, 0.2
    x0 = torch.full((n, 1), 0.5, dtype=DOUBLE)
    x_t = torch.full((n, 1), 0.2, dtype=DOUBLE)
    belief = world.denoiser(process)(x_t, t)
    values = bound.step_term(process, x0, x_t, belief, t, s, Noise(0, n))
    x = torch.linspace(-6, 6, 6001, dtype=DOUBLE)[:, None]
    same = torch.full((6001, 1), 0.2, dtype=DOUBLE)
    q = process.bridge(same, torch.full_like(same, 0.5), t, s)
    p = process.reverse(same, world.denoiser(process)(same, t), t, s)
    exact = torch.trapezoid(q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x)), x[:, 0])
    assert abs(float(values.mean() - exact)) < 4 * float(values.std()) / math.sqrt(n)


def test_compound_of_a_finite_set_has_a_density():
    """Against the sum over all states: a joint belief about two tokens, bridged."""
    chain = processes.Uniform(2)
    points, weights = torch.tensor([[0, 0], [1, 1], [0, 1]]), torch.tensor([[0.5, 0.3, 0.2]], dtype=DOUBLE)
    belief = FiniteSet(points, torch.log(weights))
    x_t = torch.tensor([[1, 0]])
    law = chain.reverse(x_t, belief, 0.7, 0.3)
    states = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    same = chain.reverse(x_t.expand(4, 2), FiniteSet(points, torch.log(weights).expand(4, 3)), 0.7, 0.3)
    by_hand = sum(
        w * chain.bridge(x_t.expand(4, 2), point.expand(4, 2), 0.7, 0.3).log_prob(states).exp()
        for w, point in zip(weights[0], points)
    )
    torch.testing.assert_close(same.log_prob(states).exp(), by_hand)
    assert same.log_prob(states).exp().sum().item() == pytest.approx(1)
    with pytest.raises(TypeError, match="no known density"):
        type(law)(Normal(torch.zeros(1, 2), 1.0), lambda x: Dirac(x)).log_prob(torch.zeros(1, 2))


def test_tokens_know_what_the_chain_could_not_have_done():
    """An unmasked token is certain, whatever the belief says."""
    chain = processes.Absorbing(3)
    belief = Categorical(torch.full((1, 2, 3), 1 / 3, dtype=DOUBLE))
    x0 = torch.tensor([[2, 1]])
    value = bound.decode(chain, Tokens(), x0, torch.tensor([[2, 3]]), belief, 0.1)
    assert value.item() == pytest.approx(math.log(3))


def test_a_law_without_spread_has_gradients():
    """A variance that is clamped to 0 on its way (a network below its range) neither stops nor spoils the gradient."""
    raw = torch.tensor([[-1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    mean = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    decoder = Discretised(17)
    loss = -decoder.log_prob(Normal(mean, Diagonal(raw.clamp_min(0))), torch.zeros(1, 2, dtype=torch.float64)).sum()
    found = torch.autograd.grad(loss, (raw, mean))
    assert torch.isfinite(torch.cat(found)).all()
    assert found[0][0, 0] == 0
    assert found[0][0, 1] > 0
