"""The bound of a latent diffusion model: tight where its encoder is the posterior, above the truth where it is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import langevin
from langevin import UserError, worlds
from langevin.data import DataInfo
from langevin.distributions import Normal
from langevin.likelihood import latent_diffusion_bound
from langevin.models import Autoencoder, Latent
from linear_codec import orthonormal

D, K, S2 = 5, 3, 0.3
S = orthonormal(D, K)


class Linear(nn.Module):
    """x = S z + N(0, s²): for codes of N(0, I) the encoder is the posterior, times a factor of its variance."""

    def __init__(self, wider: float = 1.0) -> None:
        super().__init__()
        self.matrix, self.wider = nn.Parameter(S.clone(), requires_grad=False), wider
        self.shape, self.latent = (D,), (K,)

    def encode(self, x: Tensor) -> Normal:
        return Normal(x @ self.matrix / (1 + S2), torch.full((), self.wider * S2 / (1 + S2), dtype=x.dtype))

    def decode(self, z: Tensor) -> Normal:
        return Normal(z @ self.matrix.mT, torch.full((), S2, dtype=z.dtype))


def model(world: worlds.World, wider: float = 1.0) -> Latent:
    codec = Autoencoder(Linear(wider), DataInfo("linear", (D,), None, None))
    return Latent(world.denoiser(langevin.processes.VP()), codec)


NORMAL = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, K), torch.eye(K)[None])
X = torch.randn(6, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def density(world: worlds.GaussianMixture, x: Tensor) -> Tensor:
    """log p(x) of S z + N(0, s²), in closed form."""
    covariances = torch.einsum("kij,kj,klj->kil", world.basis, world.values, world.basis)
    laws = [
        torch.distributions.MultivariateNormal(m @ S.mT, S @ c @ S.mT + S2 * torch.eye(D).double())
        for m, c in zip(world.means, covariances)
    ]
    return torch.logsumexp(world.log_weights + torch.stack([law.log_prob(x) for law in laws], 1), 1)


def test_it_is_the_density_where_the_encoder_is_the_posterior() -> None:
    """Then −log p(x | z) − log p(z) + log q(z | x) is −log p(x) for every z; the flow of codes is right to 1e-6."""
    found = latent_diffusion_bound(model(NORMAL), X, seed=3)
    torch.testing.assert_close(found.nats, -density(NORMAL, X), rtol=0, atol=1e-4)
    again = latent_diffusion_bound(model(NORMAL), X, seed=3, batch=2)
    torch.testing.assert_close(again.kl, found.kl, rtol=0, atol=1e-9)
    assert found.bits_per_dim[0] == pytest.approx(float(found.nats[0]) / (D * math.log(2)))
    assert found.protocol["bound"] == "latent diffusion"
    other = latent_diffusion_bound(model(NORMAL), X, seed=4)
    assert not torch.equal(other.reconstruction, found.reconstruction)


def test_it_is_above_the_density_where_it_is_not() -> None:
    """The gap is KL(q ‖ p(z | x)), for normal codes K/2 (w − 1 − log w) with a variance w times too large.

    A draw varies by (w − 1)²K/2 = 1.5: the mean over 6 examples and 100 draws by 0.05, of which this is four.
    """
    wide = 2.0
    gap = K / 2 * (wide - 1 - math.log(wide))
    found = latent_diffusion_bound(model(NORMAL, wide), X, draws=100, evaluations=16)
    assert float((found.nats + density(NORMAL, X)).mean()) == pytest.approx(gap, abs=0.2)


def test_refusals() -> None:
    for bad, phrase in ((X[:, :2], r"x must have shape \(N, 5\)"), (X * math.nan, "not finite"), (3, "got int")):
        with pytest.raises(UserError, match=phrase):
            latent_diffusion_bound(model(NORMAL), bad)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="model must be a latent one"):
        latent_diffusion_bound(NORMAL.denoiser(langevin.processes.VP()), X)
    with pytest.raises(UserError, match="draws must be an integer"):
        latent_diffusion_bound(model(NORMAL), X, draws=0)
    with pytest.raises(UserError, match="this one makes points"):
        latent_diffusion_bound(model(NORMAL, 0.0), X)
