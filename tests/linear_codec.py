"""A codec that is a matrix, so that a latent model of a world has posteriors in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import langevin
from langevin.data import DataInfo
from langevin.distributions import Normal
from langevin.models import Autoencoder, Latent


class Linear(nn.Module):
    """D(z) = S z and E(x) = S⁺x, on flattened events."""

    def __init__(self, matrix: Tensor, latent: tuple[int, ...], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix, requires_grad=False)
        self.latent, self.shape = latent, shape

    def encode(self, x: Tensor) -> Normal:
        z = x.flatten(1) @ torch.linalg.pinv(self.matrix).mT
        return Normal(z.reshape(-1, *self.latent), torch.zeros(()))

    def decode(self, z: Tensor) -> Normal:
        return Normal((z.flatten(1) @ self.matrix.mT).reshape(-1, *self.shape), torch.ones(()))


def linear_codec(matrix: Tensor, latent: tuple[int, ...] = (), shape: tuple[int, ...] = ()) -> Autoencoder:
    """The codec of a matrix ``(D, L)``, of data ``(D,)`` and codes ``(L,)`` if no shapes are given."""
    d, k = matrix.shape
    shape = shape or (d,)
    return Autoencoder(Linear(matrix, latent or (k,), shape), DataInfo("linear", shape, None, None))


def orthonormal(d: int, k: int, seed: int = 0) -> Tensor:
    """A matrix of k orthonormal columns, float64 ``(d, k)``."""
    drawn = torch.randn(d, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q


@dataclass(frozen=True)
class Problem:
    """A world of codes, a codec that is a matrix, and both as a latent model."""

    world: Any
    matrix: Tensor
    process: Any = field(default_factory=langevin.processes.VP)

    @property
    def model(self) -> Latent:
        return Latent(self.world.denoiser(self.process), linear_codec(self.matrix))
