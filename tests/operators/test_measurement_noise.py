"""Laws of the noise of measurements: moments, densities that sum to 1, the same numbers in any batch."""

from __future__ import annotations

import math

import pytest
import torch
from operator_table import f64
from scipy import stats

from langevin import Noise
from langevin import operators as O

N = 20_000


def clean(value: float) -> torch.Tensor:
    return torch.full((N, 1), value, dtype=torch.float64)


def uniform(seed: int = 0) -> torch.Tensor:
    return Noise(seed, N).uniform((1,))


def test_gaussian_noise():
    """Mean and variance within 5 errors, the whole law by Kolmogorov and Smirnov, the density against scipy's."""
    y = O.GaussianNoise(0.3).sample(clean(0.5), uniform())[:, 0]
    assert abs(float(y.mean()) - 0.5) < 5 * 0.3 / math.sqrt(N)
    assert abs(float(y.var()) - 0.09) < 5 * 0.09 * math.sqrt(2 / N)
    assert stats.kstest(y.numpy(), stats.norm(0.5, 0.3).cdf).pvalue > 1e-4
    a, b = f64(4, 2, 3), f64(4, 2, 3, seed=1)
    wanted = torch.from_numpy(stats.norm(b.numpy(), 0.3).logpdf(a.numpy())).sum((1, 2))
    torch.testing.assert_close(O.GaussianNoise(0.3).log_prob(a, b), wanted)
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)[:, None]
    total = O.GaussianNoise(0.3).log_prob(grid, torch.zeros_like(grid)).exp().sum() * 8 / 4000
    assert abs(float(total) - 1) < 1e-12
    assert torch.equal(O.GaussianNoise(0.0).sample(a, torch.full_like(a, 0.3)), a)


@pytest.mark.parametrize(("gain", "value"), [(0.5, -0.9), (3.0, 0.2), (40.0, 0.7), (5000.0, 0.0)])
def test_poisson_noise(gain, value):
    """Counts: mean and variance gain·(x + 1), each frequency; the density sums to 1 and is scipy's."""
    law, rate = O.PoissonNoise(gain), gain * (value + 1)
    y = law.sample(clean(value), uniform(1))[:, 0]
    assert torch.equal(y, y.round())
    assert y.min() >= 0
    assert abs(float(y.mean()) - rate) < 5 * math.sqrt(rate / N)
    # The fourth central moment of a Poisson law is 3λ² + λ.
    assert abs(float(y.var()) - rate) < 5 * math.sqrt((2 * rate**2 + rate) / N)
    wanted = torch.from_numpy(stats.poisson(rate).ppf(uniform(1).numpy()))[:, 0]
    assert torch.equal(y, wanted)
    counts = torch.arange(int(rate + 12 * math.sqrt(rate) + 30), dtype=torch.float64)[:, None]
    log_prob = law.log_prob(counts, torch.full_like(counts, value))
    assert abs(float(log_prob.exp().sum()) - 1) < 1e-9
    torch.testing.assert_close(log_prob, torch.from_numpy(stats.poisson(rate).logpmf(counts[:, 0].numpy())))


def test_no_light_is_no_count():
    """An intensity below 0 counts as a millionth: 0 counts, and a density that is finite with its gradient."""
    x = torch.tensor([[-1.5, -1.0]], dtype=torch.float64, requires_grad=True)
    law = O.PoissonNoise(10.0)
    assert not law.sample(x.detach(), torch.full((1, 2), 0.999, dtype=torch.float64)).any()
    value = law.log_prob(torch.ones(1, 2, dtype=torch.float64), x)
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("law", [O.GaussianNoise(0.2), O.PoissonNoise(20.0)], ids=["gaussian", "poisson"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_measurement_is_that_of_any_batch(law, dtype):
    x = f64(5, 1, 4, 4).clamp(-1, 1).to(dtype)
    op = O.SuperResolution(2)
    y = O.measure(op, x, law, seed=3).y
    assert y.dtype == dtype
    assert torch.equal(O.measure(op, x[:2], law, seed=3).y, y[:2])
    assert not torch.equal(O.measure(op, x, law, seed=4).y, y)
    assert not torch.equal((y - op(x))[0], (y - op(x))[1])
    wide = O.measure(op, x.double(), law, seed=3).y
    torch.testing.assert_close(y.double(), wide, rtol=1e-5, atol=1e-5)


def test_measurement():
    """Its density is the law's; a residual; rows; one measurement for all samples; a number is Gaussian noise."""
    x, op = f64(3, 1, 4, 4), O.SuperResolution(2)
    found = O.measure(op, x, 0.1, seed=1)
    assert found.std == 0.1
    assert found.linear is op
    assert torch.equal(found.log_prob(x), O.GaussianNoise(0.1).log_prob(found.y, op(x)))
    assert torch.equal(found.residual(x), found.y - op(x))
    assert torch.equal(found.rows(slice(1, 2)).y, found.y[1:2])
    one = O.Measurement(op, found.y[:1], 0.1)
    assert one.rows(slice(1, 2)) is one
    assert torch.equal(one.log_prob(x), O.GaussianNoise(0.1).log_prob(found.y[:1].expand(3, -1, -1, -1), op(x)))
    z = (found.y - op(x)).flatten() / 0.1
    assert abs(float(z.mean())) < 4 / math.sqrt(12)


def test_noise_is_none_of_the_others():
    """The noise of a measurement and the entries of a random matrix are no numbers that something else draws."""
    plain = Noise(0, 4)
    y = O.measure(O.Saturate(1.0), torch.zeros(4, 6, dtype=torch.float64), 0.1).y
    assert not torch.isin(torch.special.ndtri(plain.uniform((6,))) * 0.1, y).any()
    entries = O.compressed_sensing((6,), 4).values
    assert not torch.isin(plain.normal((6,)) / math.sqrt(6), entries).any()
    many = O.compressed_sensing((400,), 300, seed=2).values
    # 120 000 numbers of variance 1/400: the error of their variance is √(2/120 000) of it.
    assert abs(float(many.var()) * 400 - 1) < 5 * math.sqrt(2 / 120_000)
