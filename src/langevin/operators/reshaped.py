"""Operators under another shape of the data, and with singular values that are computed."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from .._errors import UserError, check_instance
from .._registry import register
from .base import SVD, LinearOperator, Operator, Shape
from .matrix import Matrix


@register(
    "operators", "reshaped", title="An operator on flattened data", proof="exact: tests/operators/test_operators.py"
)
class Reshaped(Operator):
    """An operator on data of a shape, as one on flattened data: for worlds, whose data are vectors.

    It is a ``LinearReshaped``, with its singular values, if the operator is linear.

    Args:
        operator: measures data of that shape.
        shape: such as ``(1, 8, 8)`` for a world with data of shape ``(64,)``.
    """

    def __new__(cls, operator: Operator, shape: Shape) -> Reshaped:
        return super().__new__(LinearReshaped if isinstance(operator, LinearOperator) else cls)

    def __init__(self, operator: Operator, shape: Shape) -> None:
        check_instance("operator", operator, Operator, "an operator")
        self.inner_measured = operator.measured(tuple(shape))
        self.operator, self.shape = operator, tuple(shape)

    def __repr__(self) -> str:
        return f"Reshaped({self.operator!r}, {self.shape})"

    def measured(self, shape: Shape) -> Shape:
        if tuple(shape) != (math.prod(self.shape),):
            raise UserError(f"x must be data of shape ({math.prod(self.shape)},) for {self!r}, got {tuple(shape)}")
        return self.inner_measured

    def __call__(self, x: Tensor) -> Tensor:
        self.measured(tuple(x.shape[1:]))
        return self.operator(x.unflatten(1, self.shape))


class LinearReshaped(Reshaped, LinearOperator):
    """A linear operator on flattened data."""

    operator: LinearOperator

    def domain(self, measured: Shape) -> Shape:
        if tuple(measured) != self.inner_measured:
            raise UserError(f"y must be measurements of shape {self.inner_measured}, got {tuple(measured)}")
        return (math.prod(self.shape),)

    def adjoint(self, y: Tensor) -> Tensor:
        self.domain(tuple(y.shape[1:]))
        return self.operator.adjoint(y).flatten(1)

    def svd(self, shape: Shape) -> SVD | None:
        self.measured(shape)
        known = self.operator.svd(self.shape)
        if known is None:
            return None
        to, back = known.to, known.back
        return replace(known, to=lambda x: to(x.unflatten(1, self.shape)), back=lambda c: back(c).flatten(1))


@register(
    "operators", "dense", title="Singular values by linear algebra", proof="exact: tests/operators/test_operators.py"
)
class Dense(LinearOperator):
    """A linear operator with the singular value decomposition of its matrix, where it has none in closed form.

    The matrix is written out, of as many numbers as data and measurement have together multiplied; for Radon or several
    coils on images of up to about 32 × 32.

    Args:
        operator: any linear one.
        shape: of the data.
    """

    def __init__(self, operator: LinearOperator, shape: Shape) -> None:
        check_instance("operator", operator, LinearOperator, "a linear operator")
        self.operator, self.shape = operator, tuple(shape)
        self.inner_measured = operator.measured(self.shape)
        self.written = Matrix(operator.matrix(self.shape), self.shape)

    def __repr__(self) -> str:
        return f"Dense({self.operator!r}, {self.shape})"

    def measured(self, shape: Shape) -> Shape:
        self.written.measured(shape)
        return self.inner_measured

    def domain(self, measured: Shape) -> Shape:
        if tuple(measured) != self.inner_measured:
            raise UserError(f"y must be measurements of shape {self.inner_measured}, got {tuple(measured)}")
        return self.shape

    def __call__(self, x: Tensor) -> Tensor:
        self.measured(tuple(x.shape[1:]))
        return self.operator(x)

    def adjoint(self, y: Tensor) -> Tensor:
        self.domain(tuple(y.shape[1:]))
        return self.operator.adjoint(y)

    def svd(self, shape: Shape) -> SVD:
        known = self.written.svd(shape)
        to, back = known.measured_to, known.measured_back
        return replace(
            known,
            measured_to=lambda y: to(y.flatten(1)),
            measured_back=lambda c: back(c).reshape(-1, *self.inner_measured),
        )
