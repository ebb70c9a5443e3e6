"""Covariances of a batch of events: diagonal (scalar by broadcasting), low rank, small blocks, dense."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.streams import Stream
from .noise import Noise

_LOG_2PI = math.log(2 * math.pi)


def _like(c: Tensor | float, ndim: int) -> Tensor:
    """A coefficient per sample, (), (B,) or (B, 1, …), with trailing axes to broadcast against ``ndim`` dimensions."""
    c = torch.as_tensor(c)
    return c if c.ndim == 0 else c.reshape(c.shape[0], *[1] * (ndim - 1))


class Covariance(ABC):
    """C of an event: a batch of positive semi-definite matrices in one of four forms."""

    @abstractmethod
    def scale(self, a: Tensor | float) -> Covariance:
        """a²C, for a coefficient per sample."""

    @abstractmethod
    def add(self, variance: Tensor | float) -> Covariance:
        """C + variance·I, for a variance per sample."""

    @abstractmethod
    def sample(self, noise: Noise, shape: tuple[int, ...]) -> Tensor:
        """A zero-mean normal event ``(B, *shape)`` with this covariance."""

    @abstractmethod
    def log_prob(self, r: Tensor) -> Tensor:
        """log N(r; 0, C), ``(B,)``; not a number where C is singular, which has no density."""

    @abstractmethod
    def diagonal(self, shape: tuple[int, ...]) -> Tensor:
        """Variances, broadcastable to ``(B, *shape)``."""

    @abstractmethod
    def dense(self, shape: tuple[int, ...]) -> Tensor:
        """The matrices, ``(B or 1, D, D)`` with D the flattened event."""

    def rows(self, index: slice | Tensor) -> Covariance:
        """Some samples of the batch."""
        pick = lambda v: v[index] if v is not None and v.ndim and v.shape[0] > 1 else v
        return type(self)(*(pick(v) for v in self.__dict__.values()))


@dataclass(frozen=True, eq=False)
class Diagonal(Covariance):
    """Independent coordinates: variance ≥ 0, broadcastable to ``(B, *event)`` (a scalar per sample: ``(B, 1, …)``)."""

    variance: Tensor

    def scale(self, a: Tensor | float) -> Diagonal:
        return Diagonal(_like(a, self.variance.ndim) ** 2 * self.variance)

    def add(self, variance: Tensor | float) -> Diagonal:
        return Diagonal(self.variance + _like(variance, self.variance.ndim))

    def sample(self, noise: Noise, shape: tuple[int, ...]) -> Tensor:
        return torch.sqrt(self.variance) * noise.normal(shape).to(self.variance.dtype)

    def log_prob(self, r: Tensor) -> Tensor:
        v = self.variance.expand_as(r)
        return -0.5 * (r**2 / v + torch.log(v) + _LOG_2PI).flatten(1).sum(1)

    def diagonal(self, shape: tuple[int, ...]) -> Tensor:
        return self.variance

    def dense(self, shape: tuple[int, ...]) -> Tensor:
        batch = self.variance.shape[0] if self.variance.ndim > len(shape) else 1
        return torch.diag_embed(self.variance.expand(batch, *shape).reshape(batch, -1))


@dataclass(frozen=True, eq=False)
class Dense(Covariance):
    """Full matrices ``(B or 1, D, D)``, positive semi-definite (zero eigenvalues are allowed)."""

    matrix: Tensor

    def scale(self, a: Tensor | float) -> Dense:
        return Dense(_like(a, 3) ** 2 * self.matrix)

    def add(self, variance: Tensor | float) -> Dense:
        eye = torch.eye(self.matrix.shape[-1], dtype=self.matrix.dtype, device=self.matrix.device)
        return Dense(self.matrix + _like(variance, 3) * eye)

    def sample(self, noise: Noise, shape: tuple[int, ...]) -> Tensor:
        # The symmetric root is unique and exists for singular matrices; a Cholesky factor does neither.
        values, vectors = torch.linalg.eigh(self.matrix)
        z = noise.normal((self.matrix.shape[-1],)).to(values)
        along = (vectors.mT @ z[..., None]) * torch.sqrt(values.clamp_min(0))[..., None]
        return (vectors @ along).reshape(len(noise), *shape)

    def log_prob(self, r: Tensor) -> Tensor:
        flat = r.flatten(1)
        values, vectors = torch.linalg.eigh(self.matrix)
        along = (vectors.mT @ flat[..., None])[..., 0]
        return -0.5 * (along**2 / values + torch.log(values) + _LOG_2PI).sum(-1)

    def diagonal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.diagonal(self.matrix, dim1=-2, dim2=-1).reshape(-1, *shape)

    def dense(self, shape: tuple[int, ...]) -> Tensor:
        return self.matrix


@dataclass(frozen=True, eq=False)
class LowRank(Covariance):
    """diag(variance) + UUᵀ: variance > 0 broadcastable to ``(B, *event)``, factor U ``(B or 1, rank, *event)``."""

    variance: Tensor
    factor: Tensor

    def scale(self, a: Tensor | float) -> LowRank:
        variance = _like(a, self.variance.ndim) ** 2 * self.variance
        return LowRank(variance, _like(a, self.factor.ndim) * self.factor)

    def add(self, variance: Tensor | float) -> LowRank:
        return LowRank(self.variance + _like(variance, self.variance.ndim), self.factor)

    def sample(self, noise: Noise, shape: tuple[int, ...]) -> Tensor:
        rank = self.factor.shape[1]
        z = noise.normal(shape).to(self.factor)
        w = noise.fold_in(Stream.FACTOR).normal((rank, *[1] * len(shape))).to(self.factor)
        return torch.sqrt(self.variance) * z + (self.factor * w).sum(1)

    def log_prob(self, r: Tensor) -> Tensor:
        # Woodbury: solve in the rank, not in the dimension.
        v = self.variance.expand_as(r).flatten(1)
        u = self.factor.flatten(2).expand(r.shape[0], -1, -1)
        flat = r.flatten(1)
        eye = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
        chol = torch.linalg.cholesky(eye + (u / v[:, None]) @ u.mT)
        inner = torch.linalg.solve_triangular(chol, u @ (flat / v)[..., None], upper=False)[..., 0]
        quad = (flat**2 / v).sum(1) - (inner**2).sum(1)
        log_det = torch.log(v).sum(1) + 2 * torch.log(torch.diagonal(chol, dim1=-2, dim2=-1)).sum(1)
        return -0.5 * (quad + log_det + flat.shape[1] * _LOG_2PI)

    def diagonal(self, shape: tuple[int, ...]) -> Tensor:
        return self.variance + (self.factor**2).sum(1)

    def dense(self, shape: tuple[int, ...]) -> Tensor:
        u = self.factor.flatten(2)
        batch = max(u.shape[0], self.variance.shape[0] if self.variance.ndim > len(shape) else 1)
        v = self.variance.expand(batch, *shape).reshape(batch, -1)
        return torch.diag_embed(v) + u.mT @ u


@dataclass(frozen=True, eq=False)
class Blocks(Covariance):
    """One k×k block a data coordinate: matrix ``(B or 1, k, k, *data)`` for events ``(k, *data)``.

    ``root`` is a lower triangular L of the same shape with matrix = LLᵀ, where one is known: what the matrix has lost
    of a small eigenvalue to rounding still stands in its diagonal.
    """

    matrix: Tensor
    root: Tensor | None = None

    def scale(self, a: Tensor | float) -> Blocks:
        a = _like(a, self.matrix.ndim)
        return Blocks(a**2 * self.matrix, None if self.root is None else a.abs() * self.root)

    def add(self, variance: Tensor | float) -> Blocks:
        k, data = self.matrix.shape[1], self.matrix.ndim - 3
        eye = torch.eye(k, dtype=self.matrix.dtype, device=self.matrix.device).reshape(1, k, k, *[1] * data)
        return Blocks(self.matrix + _like(variance, self.matrix.ndim) * eye)

    def _last(self) -> Tensor:
        return self.matrix.movedim((1, 2), (-2, -1))

    def sample(self, noise: Noise, shape: tuple[int, ...]) -> Tensor:
        if self.root is not None:
            return (self.root * noise.normal(shape).to(self.root)[:, None]).sum(2)
        values, vectors = torch.linalg.eigh(self._last())
        z = noise.normal(shape).to(values).movedim(1, -1)[..., None]
        root = vectors * torch.sqrt(values.clamp_min(0))[..., None, :]
        return (root @ (vectors.mT @ z))[..., 0].movedim(-1, 1)

    def log_prob(self, r: Tensor) -> Tensor:
        if self.root is not None:
            root = self.root.movedim((1, 2), (-2, -1)).expand(*r.shape[:1], *r.shape[2:], -1, -1)
            white = torch.linalg.solve_triangular(root, r.movedim(1, -1)[..., None], upper=False)[..., 0]
            size = torch.diagonal(root, dim1=-2, dim2=-1)
            return -0.5 * (white**2 + 2 * torch.log(size) + _LOG_2PI).flatten(1).sum(1)
        values, vectors = torch.linalg.eigh(self._last())
        along = (vectors.mT @ r.movedim(1, -1)[..., None])[..., 0]
        return -0.5 * (along**2 / values + torch.log(values) + _LOG_2PI).flatten(1).sum(1)

    def diagonal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.diagonal(self.matrix, dim1=1, dim2=2).movedim(-1, 1)

    def dense(self, shape: tuple[int, ...]) -> Tensor:
        k, data = shape[0], shape[1:]
        batch, size = self.matrix.shape[0], math.prod(data)
        blocks = self.matrix.expand(batch, k, k, *data).reshape(batch, k, k, size)
        return torch.diag_embed(blocks).permute(0, 1, 3, 2, 4).reshape(batch, k * size, k * size)
