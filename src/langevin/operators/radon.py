"""What a tomograph measures: integrals of an image along parallel rays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_integer, check_numbers, shown
from .._registry import register
from .base import LinearOperator, Shape
from .images import image_shape


@register(
    "operators",
    "radon",
    title="Radon transform: parallel-beam CT",
    proof="exact: tests/operators/test_operators.py, tests/operators/test_radon.py",
)
class Radon(LinearOperator):
    r"""Integrals along parallel rays of square images ``(1, N, N)``: measurements are ``(1, angles, detectors)``.

    With θ the angle, s the place of the detector and r along the ray, in pixels from the middle of the image,

    .. math:: y_{θ, s} = \sum_r x(s \cos θ + r \sin θ,\; r \cos θ - s \sin θ)

    where x(column, row) is interpolated linearly between pixels and is 0 outside. The weights are written down once, as
    a sparse matrix and its transpose, so the adjoint is exact. Sparse views and limited angles are choices of angles.

    Args:
        angles: in degrees, or a number n of them, evenly spaced in [0, 180).
        size: N; any if not given.
        detectors: how many, one a pixel; as many as see the whole image if not given (about √2·N), and with N of them
            only the circle inside the image is seen by every angle. Needs the size.
    """

    def __init__(
        self, angles: int | Sequence[float] | Tensor, size: int | None = None, detectors: int | None = None
    ) -> None:
        if isinstance(angles, int) and not isinstance(angles, bool):
            count = check_integer("angles", angles, 1)
            self.angles = torch.arange(count, dtype=torch.float64) * 180 / count
        else:
            try:
                self.angles = torch.as_tensor(angles, dtype=torch.float64)
            except (TypeError, ValueError, RuntimeError):
                raise UserError(f"angles must be numbers in degrees, or how many, got {shown(angles)}") from None
        if self.angles.ndim != 1 or not len(self.angles) or not bool(self.angles.isfinite().all()):
            raise UserError(f"angles must be one or more finite numbers in degrees, got {shown(angles)}")
        if size is None and detectors is not None:
            raise UserError("size must be given with detectors")
        self.size = None if size is None else check_integer("size", size, 2)
        self.detectors = None if detectors is None else check_integer("detectors", detectors, 1)
        self._made: dict[Any, Tensor] = {}

    def __repr__(self) -> str:
        return f"Radon({len(self.angles)} angles{'' if self.size is None else f', size={self.size}'})"

    def measured(self, shape: Shape) -> Shape:
        _, height, width = image_shape(shape, 1)
        if height != width or (self.size is not None and height != self.size):
            wanted = "square" if self.size is None else f"of {self.size} × {self.size}"
            raise UserError(f"x must be images {wanted} for {self!r}, got {height} × {width}")
        return 1, len(self.angles), self.detectors or covering(height)

    def domain(self, measured: Shape) -> Shape:
        size = self.size
        if size is None and len(measured) == 3:
            size = math.ceil(measured[2] / math.sqrt(2)) - 2
            while covering(size) < measured[2]:
                size += 1
        if size is None or tuple(measured) != self.measured((1, size, size)):
            raise UserError(f"y must be measurements (1, {len(self.angles)}, detectors) of {self!r}, got {measured}")
        return 1, size, size

    def __call__(self, x: Tensor) -> Tensor:
        shape = self.measured(tuple(x.shape[1:]))
        forward, back = self._matrices(x)
        y: Tensor = SparseProduct.apply(x.flatten(1).mT.contiguous(), forward, back)
        return y.mT.reshape(-1, *shape)

    def adjoint(self, y: Tensor) -> Tensor:
        shape = self.domain(tuple(y.shape[1:]))
        forward, back = self._matrices(y.new_empty(0, *shape))
        x: Tensor = SparseProduct.apply(y.flatten(1).mT.contiguous(), back, forward)
        return x.mT.reshape(-1, *shape)

    def _matrices(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix and its transpose, in x's type and where x is."""
        size = x.shape[-1]
        key = size, x.dtype, x.device
        if (*key, 0) not in self._made:
            row, column, weight = ray_weights(self.angles, size, self.detectors or covering(size))
            shape = len(self.angles) * (self.detectors or covering(size)), size * size
            self._made[(*key, 0)] = compressed(row, column, weight, shape).to(x)
            self._made[(*key, 1)] = compressed(column, row, weight, shape[::-1]).to(x)
        return self._made[(*key, 0)], self._made[(*key, 1)]

    def filtered_back_projection(self, y: Tensor) -> Tensor:
        r"""The image ``(B, 1, N, N)`` by the inversion formula: the ramp filter, then the sum along the rays.

        .. math:: x(p) = \sum_θ Δθ\, (h * y_θ)(s_θ(p)), \quad h_0 = ¼,\; h_n = -\tfrac{1}{π^2 n^2} \text{ for odd } n

        (Kak and Slaney 1988, §3.3), with linear interpolation between detectors. Each angle stands for half the way to
        its neighbours; a gap of more than twice the usual one was not measured and counts as the usual one.
        """
        _, size, _ = self.domain(tuple(y.shape[1:]))
        detectors = y.shape[-1]
        length = 2 ** math.ceil(math.log2(2 * detectors))
        n = torch.minimum(torch.arange(length), length - torch.arange(length)).to(torch.float64)
        ramp = torch.where(n % 2 == 1, -1 / (math.pi * n.clamp_min(1)) ** 2, 0.0)
        ramp[0] = 0.25
        response = torch.fft.rfft(ramp).real.to(y)
        filtered = torch.fft.irfft(torch.fft.rfft(y[:, 0], n=length) * response, n=length)[..., :detectors]
        place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        image = y.new_zeros(len(y), size, size)
        for i, (angle, width) in enumerate(zip(torch.deg2rad(self.angles), angular_widths(self.angles))):
            s = place * torch.cos(angle) - place[:, None] * torch.sin(angle) + (detectors - 1) / 2
            low = torch.floor(s)
            for index, weight in ((low, 1 - (s - low)), (low + 1, s - low)):
                seen = (index >= 0) & (index < detectors)
                at = index.clamp(0, detectors - 1).to(torch.int64).to(y.device)
                image = image + filtered[:, i, at] * (width * weight * seen).to(y)
        return image[:, None]


def limited_angle(views: int, degrees: float) -> Radon:
    """So many views, evenly spaced in [0, degrees): a scan that does not go all the way round.

    Args:
        views: at least 1.
        degrees: in (0, 180]; 180 is the whole, ``Radon(views)``.
    """
    check_integer("views", views, 1)
    check_numbers(degrees=degrees)
    if not 0 < degrees <= 180:
        raise UserError(f"degrees must lie in (0, 180], half a turn being the whole, got {degrees:g}")
    return Radon(torch.arange(views, dtype=torch.float64) * degrees / views)


def covering(size: int) -> int:
    """Detectors that see a square image from every side: the diagonal, and as odd or even as the size."""
    return size + 2 * math.ceil((math.sqrt(2) - 1) * size / 2)


def angular_widths(angles: Tensor) -> Tensor:
    """What each angle stands for, in radians: half the gaps to its neighbours modulo 180°."""
    order = angles.remainder(180).argsort()
    around = angles.remainder(180)[order]
    gap = torch.cat((around[1:], around[:1] + 180)) - around
    usual = gap.median()
    gap = torch.where(gap > 2 * usual, usual, gap) if usual > 0 else gap
    result = torch.empty_like(gap)
    result[order] = torch.deg2rad((gap + gap.roll(1)) / 2)
    return result


def ray_weights(angles: Tensor, size: int, detectors: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and entries of the matrix: rays of all angles, pixels, and how much each adds to each."""
    s = torch.arange(detectors, dtype=torch.float64)[:, None] - (detectors - 1) / 2
    reach = covering(size)
    r = torch.arange(reach, dtype=torch.float64) - (reach - 1) / 2
    keys, weights = [], []
    for i, angle in enumerate(torch.deg2rad(angles).tolist()):
        column = s * math.cos(angle) + r * math.sin(angle) + (size - 1) / 2
        row = r * math.cos(angle) - s * math.sin(angle) + (size - 1) / 2
        ray = (i * detectors + torch.arange(detectors))[:, None].expand(detectors, reach)
        key, weight = [], []
        for down in (0, 1):
            for right in (0, 1):
                y, x = torch.floor(row) + down, torch.floor(column) + right
                w = (1 - (row - y).abs()) * (1 - (column - x).abs())
                inside = (y >= 0) & (y < size) & (x >= 0) & (x < size) & (w > 1e-12)
                key.append((ray * size * size + (y * size + x).to(torch.int64))[inside])
                weight.append(w[inside])
        unique, place = torch.unique(torch.cat(key), return_inverse=True)
        keys.append(unique)
        weights.append(torch.zeros(len(unique), dtype=torch.float64).index_add_(0, place, torch.cat(weight)))
    found = torch.cat(keys)
    return found // size**2, found % size**2, torch.cat(weights)


def compressed(row: Tensor, column: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A sparse matrix by its rows, of which each entry is given once."""
    order = torch.argsort(row, stable=True)
    starts = torch.searchsorted(row[order], torch.arange(shape[0] + 1)).to(torch.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls these matrices a beta
        return torch.sparse_csr_tensor(
            starts, column[order].to(torch.int32), weight[order], shape, check_invariants=False
        )


class SparseProduct(torch.autograd.Function):
    """A sparse matrix times columns, whose gradient is the transpose's product: any number of times differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.matrix, ctx.transpose = matrix, transpose
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return SparseProduct.apply(grad.contiguous(), ctx.transpose, ctx.matrix), None, None
