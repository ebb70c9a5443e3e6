"""The ELBO as a result: both terms, their units, and their independence of the batch."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from langevin import UserError
from langevin.distributions import Normal
from langevin.likelihood import latent_bound


class Scalar:
    """x = z + N(0, s²) with z ~ N(0, 1): q(z | x) = N(x/(1 + s²), s²/(1 + s²)) is exact."""

    shape, latent, data, s2 = (1,), (1,), None, 0.3

    def encode(self, x: torch.Tensor) -> Normal:
        return Normal(x / (1 + self.s2), self.s2 / (1 + self.s2))

    def decode(self, z: torch.Tensor) -> Normal:
        return Normal(z, self.s2)


def test_exact_posterior_gives_the_density() -> None:
    codec, x = Scalar(), torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    found = latent_bound(codec, x, draws=1000, batch=9)
    known = (x[:, 0] ** 2 / 1.3 + math.log(2 * math.pi * 1.3)) / 2
    # −log p(x|z) of a draw: variance of (x − z)²/2s² with x − z ~ N(x s²/(1+s²), s²/(1+s²)); 4.5 standard errors.
    mean2, var = (x[:, 0] * 0.3 / 1.3) ** 2, 0.3 / 1.3
    error = torch.sqrt((2 * var**2 + 4 * var * mean2) / (4 * 0.3**2) / 1000)
    assert bool(((found.nats - known).abs() < 4.5 * error).all())
    kl = 0.5 * (var + (x[:, 0] / 1.3) ** 2 - 1 - math.log(var))
    torch.testing.assert_close(found.kl, kl, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(latent_bound(codec, x, draws=3, batch=2).nats, latent_bound(codec, x, draws=3).nats)
    assert found.protocol["of"] == "density"
    assert "reconstruction" in str(found)


def test_levels_give_bits_of_a_probability() -> None:
    codec = Scalar()
    codec.data = SimpleNamespace(levels=3, low=-1.0, high=1.0)  # type: ignore[assignment]
    found = latent_bound(codec, torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64))
    assert found.protocol["of"] == "probability"
    torch.testing.assert_close(found.bits_per_dim, found.nats / math.log(2))


def test_refusals() -> None:
    for x, options, words in (
        (torch.zeros(2, 2), {}, r"shape \(N, 1\), got \(2, 2\)"),
        (torch.full((2, 1), torch.inf), {}, "not finite"),
        (torch.zeros(2, 1), {"draws": 0}, "draws must be at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            latent_bound(Scalar(), x, **options)
