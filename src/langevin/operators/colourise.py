"""What is known of a picture in colour: its grey."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from .base import SVD, LinearOperator, Shape
from .images import image_shape

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma of ITU-R BT.601."""


@register(
    "operators", "colourise", title="Colourisation of a grey image", proof="exact: tests/operators/test_operators.py"
)
class Colourise(LinearOperator):
    r"""y = wᵀx of every pixel: images ``(3, H, W)`` in, ``(1, H, W)`` out.

    One singular value a pixel, ‖w‖, along the direction w/‖w‖; nothing is known of the two directions across.

    Args:
        weights: of red, green and blue; the luma of ITU-R BT.601 if not given.
    """

    def __init__(self, weights: tuple[float, float, float] = LUMA) -> None:
        if not isinstance(weights, (tuple, list)) or len(weights) != 3:
            raise UserError(f"weights must be three numbers, got {weights!r}")
        for value in weights:
            check_numbers(weights=value)
        self.weights = torch.tensor(weights, dtype=torch.float64)
        if not bool(self.weights.any()):
            raise UserError("weights must not all be 0: nothing would be measured")
        self._u, self._s, self._vh = torch.linalg.svd(self.weights[None])

    def __repr__(self) -> str:
        return f"Colourise({', '.join(f'{w:g}' for w in self.weights.tolist())})"

    def measured(self, shape: Shape) -> Shape:
        return (1, *image_shape(shape, 3)[1:])

    def domain(self, measured: Shape) -> Shape:
        return (3, *image_shape(measured, 1)[1:])

    def __call__(self, x: Tensor) -> Tensor:
        self.measured(tuple(x.shape[1:]))
        return (x * self.weights.to(x)[:, None, None]).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        self.domain(tuple(y.shape[1:]))
        return y * self.weights.to(y)[:, None, None]

    def svd(self, shape: Shape) -> SVD:
        _, height, width = image_shape(shape, 3)
        values = torch.zeros(3, height, width, dtype=torch.float64)
        values[0] = self._s[0]
        sign = float(self._u[0, 0])
        as_image = lambda c: c.reshape(-1, 3, height, width)

        def measured_to(y: Tensor) -> Tensor:
            return torch.cat((sign * y, y.new_zeros(len(y), 2, height, width)), 1).flatten(1)

        return SVD(
            values.reshape(-1),
            lambda x: torch.einsum("ij,bjhw->bihw", self._vh.to(x), x).flatten(1),
            lambda c: torch.einsum("ij,bihw->bjhw", self._vh.to(c), as_image(c)),
            measured_to,
            lambda c: sign * as_image(c)[:, :1],
        )
