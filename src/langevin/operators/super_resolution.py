"""What is known of an image: a smaller one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._errors import UserError, check_integer, check_numbers, shown, unknown
from .._registry import register
from .base import Shape
from .images import beyond, image_shape
from .separable import AlongAxes


def box_matrix(size: int, small: int, factor: float) -> Tensor:
    """Each pixel of the small image is the mean of the area that it covers: float64 ``(small, size)``.

    The last one may reach beyond the image: of it only what lies inside counts.
    """
    low = torch.arange(small, dtype=torch.float64)[:, None] * factor
    pixel = torch.arange(size, dtype=torch.float64)
    covered = (torch.minimum(low + factor, pixel + 1) - torch.maximum(low, pixel)).clamp_min(0)
    return covered / covered.sum(1, keepdim=True)


def bicubic_matrix(size: int, small: int, factor: float) -> Tensor:
    r"""Bicubic interpolation with the kernel widened by the factor f, float64 ``(small, size)``.

    Keys' kernel (1981, eq. 4 with a = −½), so that no frequency above those of the small image is folded into it:

    .. math::
        w_{ij} \propto h\!\left(\tfrac{u_i - j}{f}\right), \quad u_i = (i + ½) f - ½, \quad \sum_j w_{ij} = 1
    """
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
"""How pixels of the small image are made, along an axis: ``kernel(size, small, factor)``."""

NEARLY = 1e-6
"""A size is whole that is as near to an integer, as a share of it: a factor of 1.333333 is 4/3."""


@register(
    "operators",
    "super-resolution",
    title="Super-resolution",
    proof="exact: tests/operators/test_operators.py, tests/operators/test_resizing.py",
)
class SuperResolution(AlongAxes):
    r"""y is the image, smaller by a factor f along both axes: ⌈H/f⌉ × ⌈W/f⌉ pixels of an image of H × W.

    Pixel i of a side covers [i f, (i + 1) f) of the image. Where f does not divide the side, the last pixel reaches
    beyond the edge: a mean is of what lies inside, a bicubic value of the image and its mirror image. Both sizes and
    positions are those of MATLAB's imresize.

    Several sides have one ⌈H/f⌉. Without ``size`` that of a small image of h pixels is ⌊h f⌋, the largest, and others
    are refused, since the adjoint could not tell what to return.

    Args:
        factor: f ≥ 1, not necessarily an integer, at most the height and the width.
        kernel: ``box`` is the mean over the area of a pixel (of blocks for an integer factor); ``bicubic`` is Keys'
            kernel widened by the factor, which prevents aliasing, with the image mirrored about its edges.
        size: (H, W) of the images, for any size.
    """

    def __init__(self, factor: float, kernel: str = "box", *, size: Sequence[int] | None = None) -> None:
        check_numbers(factor=factor)
        if not factor >= 1:
            raise UserError(f"factor must be >= 1, got {factor}")
        if kernel not in KERNELS:
            raise unknown("kernel", kernel, KERNELS)
        if size is not None and (not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2):
            raise UserError(f"size must be (height, width), got {shown(size)}")
        sides = None if size is None else tuple(check_integer("size", side, 1) for side in size)
        self.factor, self.kernel, self.size = float(factor), kernel, sides
        if sides is not None:
            self._made(*sides)

    def __repr__(self) -> str:
        size = "" if self.size is None else f", size={self.size}"
        return f"SuperResolution({self.factor:g}, kernel={self.kernel!r}{size})"

    def smaller(self, side: int) -> int:
        """⌈side/f⌉."""
        whole = round(side / self.factor)
        return whole if abs(whole * self.factor - side) < NEARLY * side else math.ceil(side / self.factor)

    def larger(self, small: int) -> int:
        """The largest side of which the small one is ``small``: ⌊small·f⌋."""
        whole = round(small * self.factor)
        return whole if abs(whole - small * self.factor) < NEARLY * whole else math.floor(small * self.factor)

    def _along(self, side: int) -> Tensor:
        small = self.smaller(side)
        # Where it divides the side, by the quotient itself.
        factor = side / small if abs(small * self.factor - side) < NEARLY * side else self.factor
        return KERNELS[self.kernel](side, small, factor)

    def factors(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        sides = height, width
        if self.factor > min(sides) * (1 + NEARLY):
            raise UserError(f"factor must be at most the height and the width, {height} × {width}, got {self.factor:g}")
        if self.size is None and any(self.larger(self.smaller(side)) != side for side in sides):
            raise UserError(
                f"size must be given for images of {height} × {width}, SuperResolution(…, size=({height}, {width})): "
                f"the factor {self.factor:g} does not divide both sides, and of an image of "
                f"{self.smaller(height)} × {self.smaller(width)} alone they cannot be told"
            )
        if self.size is not None and sides != self.size:
            raise UserError(f"x must be images of {self.size[0]} × {self.size[1]} for {self!r}, got {height} × {width}")
        return self._along(height), self._along(width)

    def domain(self, measured: Shape) -> Shape:
        channels, height, width = image_shape(measured)
        if self.size is None:
            return channels, self.larger(height), self.larger(width)
        wanted = self.smaller(self.size[0]), self.smaller(self.size[1])
        if (height, width) != wanted:
            raise UserError(f"y must be measurements of {wanted[0]} × {wanted[1]} by {self!r}, got {height} × {width}")
        return channels, *self.size
