"""What is known of an image: the pixels that a mask lets through."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import UserError, shown
from .._registry import register
from .base import SVD, LinearOperator, Shape


@register("operators", "inpaint", title="Inpainting by a mask", proof="exact: tests/operators/test_operators.py")
class Inpaint(LinearOperator):
    """y = mask·x: the known pixels, and 0 where nothing is known.

    Args:
        mask: 1 (or True) where a pixel is known, 0 where it is to be restored; of the data's shape, or broadcastable to
            it: ``(H, W)`` or ``(1, H, W)`` for images ``(C, H, W)``.
    """

    def __init__(self, mask: Tensor) -> None:
        if not isinstance(mask, Tensor):
            raise UserError(f"mask must be a tensor of 0 and 1 (1 where a pixel is known), got {shown(mask)}")
        numbers = mask.to(torch.float64)
        if not bool(((numbers == 0) | (numbers == 1)).all()):
            raise UserError("mask must hold 0 and 1 alone (1 where a pixel is known)")
        if not bool(numbers.any()):
            raise UserError("mask must let some pixel through, got one that is 0 everywhere")
        self.mask = numbers

    def __repr__(self) -> str:
        return f"Inpaint({float(self.mask.mean()):.0%} known)"

    def measured(self, shape: Shape) -> Shape:
        try:
            fits = torch.broadcast_shapes(tuple(self.mask.shape), tuple(shape)) == tuple(shape)
        except RuntimeError:
            fits = False
        if not fits:
            raise UserError(f"mask must have the shape of the data, {tuple(shape)}, got {tuple(self.mask.shape)}")
        return tuple(shape)

    def domain(self, measured: Shape) -> Shape:
        return self.measured(measured)

    def __call__(self, x: Tensor) -> Tensor:
        self.measured(tuple(x.shape[1:]))
        return x * self.mask.to(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def svd(self, shape: Shape) -> SVD:
        values = self.mask.expand(shape).reshape(-1)
        keep = lambda c: c * values.to(c)
        back = lambda c: c.reshape(-1, *shape)
        return SVD(values, lambda x: x.flatten(1), back, lambda y: keep(y.flatten(1)), lambda c: back(keep(c)))
