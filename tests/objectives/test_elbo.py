"""The ELBO of linear autoencoders, whose optimum is probabilistic principal component analysis."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langevin import Noise, UserError, objectives
from langevin import nn as networks
from langevin.distributions import Normal
from langevin.objectives.elbo import elbo

DIM, LATENT = 6, 2
GENERATOR = torch.Generator().manual_seed(0)
BASIS, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=GENERATOR, dtype=torch.float64))
VALUES = torch.tensor([2.0, 0.9, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
MEAN = torch.randn(DIM, generator=GENERATOR, dtype=torch.float64)
COV = BASIS @ VALUES.diag() @ BASIS.T


class Linear(nn.Module):
    """m(x) = W(x − μ), v constant; f(z) = V z + μ, s² learned."""

    shape, latent, data = (DIM,), (LATENT,), None

    def __init__(self) -> None:
        super().__init__()
        zeros = lambda *shape: nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        generator = torch.Generator().manual_seed(1)
        self.w = nn.Parameter(0.3 * torch.randn(LATENT, DIM, generator=generator, dtype=torch.float64))
        self.v = nn.Parameter(0.3 * torch.randn(DIM, LATENT, generator=generator, dtype=torch.float64))
        self.mu, self.log_v, self.log_s2 = zeros(DIM), zeros(LATENT), zeros()

    def encode(self, x: Tensor) -> Normal:
        return Normal((x - self.mu) @ self.w.T, self.log_v.exp().expand(len(x), -1))

    def decode(self, z: Tensor) -> Normal:
        return Normal(z @ self.v.T + self.mu, self.log_s2.exp())


def ppca() -> Linear:
    """The maximum-likelihood solution in closed form: s² the mean of the dropped eigenvalues, V = U (Λ − s²)^½."""
    made = Linear()
    s2 = VALUES[LATENT:].mean()
    v = BASIS[:, :LATENT] * (VALUES[:LATENT] - s2).sqrt()
    m = v.T @ v + s2 * torch.eye(LATENT, dtype=torch.float64)  # diagonal: so is the posterior's covariance
    with torch.no_grad():
        made.v.copy_(v), made.mu.copy_(MEAN), made.log_s2.copy_(s2.log())
        made.w.copy_(torch.linalg.solve(m, v.T)), made.log_v.copy_((s2 / m.diagonal()).log())
    return made


def log_likelihood(x: Tensor) -> Tensor:
    """log p(x) of pPCA: a normal law of covariance VVᵀ + s²I."""
    made = ppca()
    cov = made.v @ made.v.T + made.log_s2.exp() * torch.eye(DIM, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(MEAN, cov.detach()).log_prob(x)


def data(n: int, seed: int = 0) -> Tensor:
    return MEAN + Noise(seed, n).normal((DIM,)) * VALUES.sqrt() @ BASIS.T


def test_at_the_optimum_it_is_the_log_likelihood_of_ppca() -> None:
    """q is the exact posterior there, so log p(x|z) + log p(z) − log q(z|x) = log p(x) at every z, and in the mean."""
    codec, x = ppca(), data(2000)
    noise = Noise(5, len(x))
    belief = codec.encode(x)
    z = belief.sample(noise)
    prior = Normal(torch.zeros(1, LATENT, dtype=torch.float64), 1.0)
    exact = codec.decode(z).log_prob(x) + prior.log_prob(z) - belief.log_prob(z)
    torch.testing.assert_close(exact, log_likelihood(x), rtol=1e-10, atol=1e-10)
    terms = elbo(codec, x, noise)
    torch.testing.assert_close(terms.reconstruction, -codec.decode(z).log_prob(x), rtol=1e-12, atol=1e-12)
    gap = (terms.reconstruction + terms.kl + log_likelihood(x)).detach()
    assert abs(float(gap.mean())) < 4.5 * float(gap.std()) / len(x) ** 0.5
    # KL in closed form: of the posterior's mean and variance, coordinate by coordinate.
    mean, variance = belief.loc, belief.cov.diagonal((LATENT,))
    known = 0.5 * (variance + mean**2 - 1 - variance.log()).sum(1)
    torch.testing.assert_close(terms.kl, known, rtol=1e-12, atol=1e-12)


def test_a_linear_autoencoder_learns_ppca() -> None:
    """Trained by the objective: its bound comes within 0.01 nats a coordinate of pPCA's, and its span is the leading
    eigenvectors'. The gap is quadratic in what is still off, and Adam's last steps are of 0.1 %."""
    codec, steps = Linear(), 600
    optimiser = torch.optim.Adam(codec.parameters(), lr=0.03)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.03 * (1 - step / steps)
        optimiser.zero_grad()
        objectives.create_objective("elbo")(codec, data(256, step), None, Noise(9, 256, draw=step)).mean().backward()
        optimiser.step()
    held = data(4000, 10_000)
    with torch.no_grad():
        # E over z in closed form: |x − f(m)|² + tr V diag(v) Vᵀ.
        terms = elbo(codec, held, Noise(0, len(held)))
        belief, s2 = codec.encode(held), codec.log_s2.exp()
        spread = float((codec.v**2 @ codec.log_v.exp()).sum())
        miss = (held - codec.decode(belief.loc).loc).square().sum(1) + spread
        bound = 0.5 * (miss / s2 + DIM * torch.log(2 * math.pi * s2)) + terms.kl
    gap = float((bound + log_likelihood(held)).mean()) / DIM
    assert -1e-3 < gap < 0.01  # −1e-3: pPCA of the law is not that of these 4000 data
    q, _ = torch.linalg.qr(codec.v.detach())
    cosines = torch.linalg.svdvals(q.T @ BASIS[:, :LATENT])
    assert float(cosines.min()) > 0.995
    assert float(codec.log_s2.detach().exp()) == pytest.approx(float(VALUES[LATENT:].mean()), rel=0.05)


def test_levels_make_it_a_probability() -> None:
    """With levels the reconstruction is that of the bins: it sums to 1 over them."""
    codec: Any = Linear()
    codec.data = SimpleNamespace(levels=5, low=-1.0, high=1.0)
    grid = torch.linspace(-1, 1, 5, dtype=torch.float64)
    x = torch.zeros(5, DIM, dtype=torch.float64)
    x[:, 0] = grid
    codec.encode = lambda x: Normal(torch.zeros(len(x), LATENT, dtype=torch.float64), 1e-30)
    mass = torch.exp(-elbo(codec, x, Noise(0, 5)).reconstruction)
    same = torch.exp(-elbo(codec, torch.zeros(1, DIM, dtype=torch.float64), Noise(0, 1)).reconstruction)
    middle = float(same) ** (1 / DIM)  # every coordinate at the level 0 of five
    assert float(mass.sum()) == pytest.approx(middle ** (DIM - 1), rel=1e-9)


def test_the_convolutional_one() -> None:
    """Untrained, q is the prior and the mean is 0; encode and decode have the shapes they say; JSON gives it again."""
    codec = networks.create_network(
        {"name": "vae", "channels": 1, "size": [8, 8], "latent": 3, "width": 8, "multipliers": [1, 2]}
    )
    assert codec.latent == (3, 4, 4)
    x = torch.rand(2, 1, 8, 8) * 2 - 1
    belief = codec.encode(x)
    assert belief.loc.shape == (2, 3, 4, 4)
    codec.data = SimpleNamespace(levels=17, low=-1.0, high=1.0)
    terms = elbo(codec, x, Noise(0, 2))
    assert float(terms.kl.detach().abs().max()) == 0
    law = codec.decode(torch.randn(2, 3, 4, 4))
    assert law.loc.shape == (2, 1, 8, 8)
    assert float(law.loc.detach().abs().max()) == 0
    assert networks.create_network(codec.config).config == codec.config
    (terms.reconstruction.sum() + terms.kl.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in codec.parameters())
    with pytest.raises(UserError, match="divisible by 2"):
        networks.create_network({**codec.config, "size": [7, 8]})
    with pytest.raises(UserError, match="width"):
        networks.create_network({**codec.config, "width": 9})


def test_refusals() -> None:
    with pytest.raises(UserError, match="beta must be a number >= 0, got -1"):
        objectives.create_objective({"name": "elbo", "beta": -1})
    with pytest.raises(UserError, match="learns a codec"):
        objectives.create_objective("elbo").check(object())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'elbo' has no times"):
        objectives.create_objective({"name": "elbo", "times": "uniform"})
