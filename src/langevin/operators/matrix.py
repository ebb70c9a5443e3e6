"""Operators that are written out: a matrix, for compressed sensing and for small worlds."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from .._errors import UserError, check_integer, shown
from .._registry import register
from ..distributions import Noise, Stream
from .base import SVD, LinearOperator, Shape


@register(
    "operators", "matrix", title="Any matrix: compressed sensing", proof="exact: tests/operators/test_operators.py"
)
class Matrix(LinearOperator):
    """y = M·x of flattened data.

    Args:
        matrix: ``(M, D)``.
        shape: of the data, with D numbers; ``(D,)`` if not given.
    """

    def __init__(self, matrix: Tensor, shape: Shape | None = None) -> None:
        if not isinstance(matrix, Tensor) or matrix.ndim != 2 or not matrix.is_floating_point():
            raise UserError(f"matrix must be a floating tensor (M, D), got {shown(matrix)}")
        if not bool(matrix.isfinite().all()) or not bool((matrix != 0).any()):
            raise UserError("matrix must be finite and not 0: it would measure nothing")
        self.values = matrix
        self.shape = (matrix.shape[1],) if shape is None else tuple(shape)
        if math.prod(self.shape) != matrix.shape[1]:
            raise UserError(f"shape must hold {matrix.shape[1]} numbers, got {self.shape}")

    def __repr__(self) -> str:
        return f"Matrix({self.values.shape[0]} × {self.values.shape[1]})"

    def measured(self, shape: Shape) -> Shape:
        if tuple(shape) != self.shape:
            raise UserError(f"x must be data of shape {self.shape} for {self!r}, got {tuple(shape)}")
        return (self.values.shape[0],)

    def domain(self, measured: Shape) -> Shape:
        return self.shape

    def __call__(self, x: Tensor) -> Tensor:
        self.measured(tuple(x.shape[1:]))
        return x.flatten(1) @ self.values.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.values.to(y)).reshape(-1, *self.shape)

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = torch.linalg.svd(self.values.to(torch.float64), full_matrices=True)
        rank = min(self.values.shape)
        values = torch.zeros(self.values.shape[1], dtype=torch.float64)
        values[:rank] = torch.where(s > s[0] * 1e-12, s, 0.0)
        return u, values, vh.mT

    def svd(self, shape: Shape) -> SVD:
        self.measured(shape)
        u, values, v = self._factors
        rank, size = min(self.values.shape), self.values.shape[1]

        def measured_to(y: Tensor) -> Tensor:
            return torch.nn.functional.pad(y @ u[:, :rank].to(y), (0, size - rank)) * (values > 0).to(y)

        return SVD(
            values,
            lambda x: x.flatten(1) @ v.to(x),
            lambda c: (c @ v.mT.to(c)).reshape(-1, *self.shape),
            measured_to,
            lambda c: (c * (values > 0).to(c))[:, :rank] @ u[:, :rank].mT.to(c),
        )


def compressed_sensing(shape: Shape, measurements: int, seed: int = 0) -> Matrix:
    """Random projections: entries N(0, 1/D), so that a measurement of unit-variance data has unit variance.

    Args:
        shape: of the data.
        measurements: how many, M ≥ 1.
        seed: of the matrix.
    """
    check_integer("measurements", measurements, 1)
    size, noise = math.prod(shape), Noise(seed, measurements).fold_in(Stream.MATRIX)
    return Matrix(noise.normal((size,)) / math.sqrt(size), shape)
