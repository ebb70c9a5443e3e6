"""What is known of an image: a smaller one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, unknown
from .._registry import register
from .base import Shape
from .images import beyond, image_shape
from .separable import AlongAxes


def box_matrix(size: int, small: int) -> Tensor:
    """Each pixel of the small image is the mean of the area that it covers: float64 ``(small, size)``."""
    factor = size / small
    low = torch.arange(small, dtype=torch.float64)[:, None] * factor
    pixel = torch.arange(size, dtype=torch.float64)
    return (torch.minimum(low + factor, pixel + 1) - torch.maximum(low, pixel)).clamp_min(0) / factor


def bicubic_matrix(size: int, small: int) -> Tensor:
    r"""Bicubic interpolation with the kernel widened by the factor f = size/small, float64 ``(small, size)``.

    Keys' kernel (1981, eq. 4 with a = −½), so that no frequency above those of the small image is folded into it:

    .. math::
        w_{ij} \propto h\!\left(\tfrac{u_i - j}{f}\right), \quad u_i = (i + ½) f - ½, \quad \sum_j w_{ij} = 1
    """
    factor = size / small
    centre = (torch.arange(small, dtype=torch.float64)[:, None] + 0.5) * factor - 0.5
    reach = math.ceil(2 * factor) + 1
    index = torch.floor(centre).to(torch.int64) + torch.arange(-reach, reach + 1)
    weight = keys_kernel((centre - index) / factor)
    weight = weight / weight.sum(1, keepdim=True)
    inside, _ = beyond(index, size, "reflect")
    return torch.zeros(small, size, dtype=torch.float64).scatter_add_(1, inside, weight)


def keys_kernel(x: Tensor) -> Tensor:
    """The cubic convolution kernel with a = −½, 0 for abs(x) ≥ 2."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


KERNELS = {"box": box_matrix, "bicubic": bicubic_matrix}
"""How pixels of the small image are made, along an axis: ``kernel(size, small)``."""


@register(
    "operators",
    "super-resolution",
    title="Super-resolution",
    proof="exact: tests/operators/test_operators.py, tests/operators/test_resizing.py",
)
class SuperResolution(AlongAxes):
    """y is the image, smaller by a factor along both axes.

    Args:
        factor: > 1, not necessarily an integer; it must divide the height and the width.
        kernel: ``box`` is the mean over the area of a pixel (of blocks for an integer factor); ``bicubic`` is Keys'
            kernel widened by the factor, which prevents aliasing, with the image mirrored about its edges.
    """

    def __init__(self, factor: float, kernel: str = "box") -> None:
        check_numbers(factor=factor)
        if not factor > 1:
            raise UserError(f"factor must be > 1, got {factor}")
        if kernel not in KERNELS:
            raise unknown("kernel", kernel, KERNELS)
        self.factor, self.kernel = float(factor), kernel

    def __repr__(self) -> str:
        return f"SuperResolution({self.factor:g}, kernel={self.kernel!r})"

    def _small(self, size: int) -> int:
        small = round(size / self.factor)
        return small if small and abs(small * self.factor - size) < 1e-6 * size else 0

    def factors(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        low = self._small(height), self._small(width)
        if not all(low):
            raise UserError(f"factor must divide the height and the width, {height} × {width}, got {self.factor:g}")
        made = KERNELS[self.kernel]
        return made(height, low[0]), made(width, low[1])

    def domain(self, measured: Shape) -> Shape:
        channels, height, width = image_shape(measured)
        large = round(height * self.factor), round(width * self.factor)
        if (self._small(large[0]), self._small(large[1])) != (height, width):
            raise UserError(f"factor must make whole sizes of {height} × {width}, got {self.factor:g}")
        return channels, *large
