"""What is known of a picture after JPEG compression."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._errors import UserError, check_integer, unknown
from .._registry import register
from .base import Operator, Shape
from .images import image_shape

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
"""Steps of quantisation at quality 50, ITU-T T.81, tables K.1 and K.2."""

SUBSAMPLINGS = ("4:2:0", "4:4:4")
"""Chroma at half the resolution in both directions, or at the full one."""

TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))
"""JFIF's colours, of R, G, B in [0, 255] and of Y, C_b − 128, C_r − 128."""


def quantisation(table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """A table of steps ``(8, 8)`` scaled by quality as libjpeg scales it: 5000/q per cent below 50, 200 − 2q above."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(table) * scale + 50) // 100).clamp(1, 255).to(torch.float64)


def cosine_matrix() -> Tensor:
    r"""The orthonormal cosine transform, float64 ``(8, 8)``: :math:`\sqrt{2/8}\, c_k \cos \tfrac{π(2n+1)k}{16}`."""
    k, n = torch.arange(8, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * n + 1) * k / 16) / 2
    matrix[0] = math.sqrt(1 / 8)
    return matrix


@register("operators", "jpeg", title="JPEG compression", proof="parity: tests/operators/test_jpeg.py")
class JPEG(Operator):
    """y is the picture as it comes back from a baseline JPEG file: images ``(3, H, W)`` or ``(1, H, W)`` in [−1, 1].

    All that the file loses, in the order in which it is lost: 256 levels, Y C_b C_r, chroma at half the resolution, the
    cosine transform of blocks of 8 × 8 rounded to steps; and back, with chroma interpolated linearly as libjpeg does.
    The coding of the rounded numbers loses nothing and is left out.

    The derivative is 0 almost everywhere. With ``straight_through`` every rounding has the derivative 1 instead: that
    of the operator without quantisation, which steers x so that A(x) comes near to y.

    Args:
        quality: 1 to 100, as libjpeg and Pillow count it.
        subsampling: of chroma, ``4:2:0`` or ``4:4:4``; grey images have none.
        straight_through: whether gradients pass through the roundings.
    """

    def __init__(self, quality: int, subsampling: str = "4:2:0", straight_through: bool = True) -> None:
        self.quality = check_integer("quality", quality, 1, 100)
        if subsampling not in SUBSAMPLINGS:
            raise unknown("subsampling", subsampling, SUBSAMPLINGS)
        self.subsampling, self.straight_through = subsampling, straight_through
        self._cosine = cosine_matrix()
        self._tables = quantisation(LUMINANCE, quality), quantisation(CHROMINANCE, quality)

    def __repr__(self) -> str:
        return f"JPEG({self.quality}, subsampling={self.subsampling!r})"

    def measured(self, shape: Shape) -> Shape:
        channels, height, width = image_shape(shape)
        if channels not in (1, 3):
            raise UserError(f"x must be images (1, height, width) or (3, height, width), got {tuple(shape)}")
        return channels, height, width

    def __call__(self, x: Tensor) -> Tensor:
        channels, height, width = self.measured(tuple(x.shape[1:]))
        levels = self._round((x.to(torch.float64) * 127.5 + 127.5).clamp(0, 255))
        if channels == 1:
            return (self._blocks(levels, 0) / 127.5 - 1).to(x)
        offset = levels.new_tensor([0.0, 128.0, 128.0])[:, None, None]
        y, chroma = self._round(self._colours(levels, TO_YCC) + offset).split((1, 2), 1)
        halved = self.subsampling == "4:2:0"
        chroma = self._blocks(self._halved(chroma) if halved else chroma, 1)
        chroma = self._doubled(chroma)[..., :height, :width] if halved else chroma
        ycc = torch.cat((self._blocks(y, 0), chroma), 1) - offset
        return (self._round(self._colours(ycc, TO_RGB)).clamp(0, 255) / 127.5 - 1).to(x)

    @staticmethod
    def _colours(x: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
        return torch.einsum("ij,bjhw->bihw", x.new_tensor(matrix), x)

    def _round(self, x: Tensor, bias: Tensor | float = 0.5) -> Tensor:
        """⌊x + bias⌋."""
        whole = torch.floor(x + bias)
        return x + (whole - x).detach() if self.straight_through else whole

    def _blocks(self, x: Tensor, table: int) -> Tensor:
        """What quantisation leaves of channels in [0, 255], in whole numbers."""
        height, width = x.shape[-2:]
        x = pad(x, (0, -width % 8, 0, -height % 8), mode="replicate") - 128
        blocks = x.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
        cosine, steps = self._cosine.to(x), self._tables[table].to(x)
        levels = cosine @ blocks @ cosine.mT / steps
        # The nearest step, halves away from 0. Halves are common, since sums of whole numbers make the first
        # coefficients: what is a half but for the rounding of the transform is one.
        whole = torch.sign(levels) * torch.floor(levels.abs() + (0.5 + 1e-9))
        whole = levels + (whole - levels).detach() if self.straight_through else whole
        back = cosine.mT @ (whole * steps) @ cosine
        back = back.transpose(-3, -2).flatten(-2).flatten(-3, -2)
        return self._round(back[..., :height, :width] + 128).clamp(0, 255)

    def _halved(self, x: Tensor) -> Tensor:
        """Means of 2 × 2; halves are rounded down in even columns and up in odd ones, as libjpeg does."""
        x = pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")
        mean = x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-3, -1))
        odd = torch.arange(mean.shape[-1], device=x.device) % 2
        return self._round(mean, (0.25 + 0.25 * odd).to(x))

    def _doubled(self, x: Tensor) -> Tensor:
        """Linear interpolation to twice the size, ¾ of the nearer and ¼ of the farther pixel along each axis."""
        for axis in (-2, -1):
            n = x.shape[axis]
            near = torch.arange(n, device=x.device)
            before = x.index_select(axis, (near - 1).clamp_min(0))
            after = x.index_select(axis, (near + 1).clamp_max(n - 1))
            x = torch.stack((0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after), axis if axis == -1 else -2)
            x = x.flatten(-2) if axis == -1 else x.flatten(-3, -2)
        even = torch.arange(x.shape[-1], device=x.device) % 2 == 0
        return self._round(x, torch.where(even, 0.5, 0.4375).to(x))
