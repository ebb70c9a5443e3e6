"""Operators that act along the height and along the width by themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._errors import UserError, shown
from .._registry import register
from .base import SVD, LinearOperator, Shape
from .images import image_shape

ROUNDING = 1e-12
"""Singular values below this share of the largest are 0."""


class AlongAxes(LinearOperator):
    r"""Y = R X Cᵀ of each channel X of images ``(C, H, W)``, with matrices R along the height and C along the width.

    On flattened channels this is the matrix R ⊗ C, whose singular value decomposition is that of its factors:

    .. math::
        R = U_1 S_1 V_1^T, \quad C = U_2 S_2 V_2^T, \quad
        R ⊗ C = (U_1 ⊗ U_2)(S_1 ⊗ S_2)(V_1 ⊗ V_2)^T
    """

    @abstractmethod
    def factors(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """R ``(height', height)`` and C ``(width', width)``, float64.

        Raises:
            UserError: for sizes that are not measured.
        """

    def _made(self, height: int, width: int) -> Kronecker:
        made: dict[Shape, Kronecker] = self.__dict__.setdefault("_kronecker", {})
        if (height, width) not in made:
            made[height, width] = Kronecker(*self.factors(height, width))
        return made[height, width]

    def measured(self, shape: Shape) -> Shape:
        channels, height, width = image_shape(shape)
        return channels, *self._made(height, width).measured

    def __call__(self, x: Tensor) -> Tensor:
        _, height, width = image_shape(tuple(x.shape[1:]))
        return self._made(height, width).apply(x)

    def adjoint(self, y: Tensor) -> Tensor:
        _, height, width = self.domain(tuple(y.shape[1:]))
        return self._made(height, width).transposed(y)

    def svd(self, shape: Shape) -> SVD:
        channels, height, width = image_shape(shape)
        return self._made(height, width).svd(channels)


class Kronecker:
    """R ⊗ C applied to images, and its singular value decomposition.

    Args:
        rows: R, float64 ``(M1, H)``.
        columns: C, float64 ``(M2, W)``.
    """

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        self.rows, self.columns = rows, columns
        self.measured = rows.shape[0], columns.shape[0]
        self._factors: tuple[Tensor, ...] = ()

    def apply(self, x: Tensor) -> Tensor:
        """R X Cᵀ."""
        return self.rows.to(x) @ x @ self.columns.to(x).mT

    def transposed(self, y: Tensor) -> Tensor:
        """Rᵀ Y C."""
        return self.rows.to(y).mT @ y @ self.columns.to(y)

    def svd(self, channels: int) -> SVD:
        """Of images with some channels; its coordinates are those of images, ``(C, H, W)`` flattened."""
        if not self._factors:
            self._factors = (*_decomposed(self.rows), *_decomposed(self.columns))
        u1, s1, v1, u2, s2, v2 = self._factors
        (height, width), (r1, r2) = (len(s1), len(s2)), (u1.shape[1], u2.shape[1])
        values = s1[:, None] * s2
        values = torch.where(values > ROUNDING * values.max(), values, 0.0).expand(channels, -1, -1).reshape(-1)
        seen = (values > 0).to(torch.float64).reshape(channels, height, width)
        as_image: Callable[[Tensor], Tensor] = lambda c: c.reshape(-1, channels, height, width)

        def measured_to(y: Tensor) -> Tensor:
            c = u1.to(y).mT @ y @ u2.to(y)
            return (pad(c, (0, width - r2, 0, height - r1)) * seen.to(y)).flatten(1)

        def measured_back(c: Tensor) -> Tensor:
            inside = (as_image(c) * seen.to(c))[..., :r1, :r2]
            return u1.to(c) @ inside @ u2.to(c).mT

        return SVD(
            values,
            lambda x: (v1.to(x).mT @ x @ v2.to(x)).flatten(1),
            lambda c: v1.to(c) @ as_image(c) @ v2.to(c).mT,
            measured_to,
            measured_back,
        )


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U ``(M, min(M, N))``, S ``(N,)`` and V ``(N, N)`` of a matrix."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=True)
    return u[:, : len(s)], pad(s, (0, matrix.shape[1] - len(s))), vh.mT.contiguous()


@register(
    "operators",
    "separable",
    title="A matrix along the height and one along the width",
    proof="exact: tests/operators/test_operators.py",
)
class Separable(AlongAxes):
    """Y = R X Cᵀ of each channel, with matrices that are given.

    Args:
        rows: R, ``(height', height)``.
        columns: C, ``(width', width)``.
    """

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        for name, matrix in (("rows", rows), ("columns", columns)):
            if not isinstance(matrix, Tensor) or matrix.ndim != 2 or not matrix.is_floating_point():
                raise UserError(f"{name} must be a floating matrix, got {shown(matrix)}")
            if not bool(matrix.isfinite().all()) or not bool((matrix != 0).any()):
                raise UserError(f"{name} must be finite and not 0: it would measure nothing")
        self.rows, self.columns = rows.to(torch.float64), columns.to(torch.float64)

    def __repr__(self) -> str:
        return f"Separable({tuple(self.rows.shape)}, {tuple(self.columns.shape)})"

    def factors(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        own = self.rows.shape[1], self.columns.shape[1]
        if (height, width) != own:
            raise UserError(f"x must be images of {own[0]} × {own[1]} for {self!r}, got {height} × {width}")
        return self.rows, self.columns

    def domain(self, measured: Shape) -> Shape:
        channels, height, width = image_shape(measured)
        if (height, width) != (len(self.rows), len(self.columns)):
            raise UserError(f"y must be measurements of {len(self.rows)} × {len(self.columns)}, got {height} × {width}")
        return channels, self.rows.shape[1], self.columns.shape[1]
