"""Blur: convolution by a kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from .._errors import UserError, check_numbers, shown, unknown
from .._registry import register
from .base import SVD, LinearOperator, Shape
from .images import BOUNDARIES, beyond, image_shape
from .separable import Kronecker


@register(
    "operators",
    "blur",
    title="Blur by a kernel",
    proof="exact: tests/operators/test_operators.py, tests/operators/test_resizing.py",
)
class Blur(LinearOperator):
    r"""y = k ∗ x in every channel of images ``(C, H, W)``: :math:`y_i = \sum_j k_j\, x_{i - j + c}`, c = ⌊size/2⌋.

    The singular value decomposition is known in closed form for the circular boundary, where with the discrete Fourier
    transforms κ of the kernel and F of images

    .. math:: A = P\,|A|, \quad P = F^{-1} \tfrac{κ}{|κ|} F, \quad |A| = H\,|κ|\,H

    H is the real orthonormal Hartley transform, which diagonalises what is real and even in frequency; and for kernels
    that are products of one along the height and one along the width, with any boundary. Otherwise equations are solved
    by conjugate gradients.

    Args:
        kernel: ``(h, w)``, of any size; one that sums to 1 keeps brightness.
        boundary: what lies beyond the edges: ``circular``, ``reflect`` (mirrored about the edges, the outermost pixel
            twice) or ``zero``.
    """

    def __init__(self, kernel: Tensor, boundary: str = "circular") -> None:
        if not isinstance(kernel, Tensor) or kernel.ndim != 2 or not kernel.is_floating_point() or not kernel.numel():
            raise UserError(f"kernel must be a floating tensor (h, w), got {shown(kernel)}")
        if not bool(kernel.isfinite().all()):
            raise UserError("kernel must be finite")
        kernel = kernel.to(torch.float64)
        if not float(kernel.sum().abs()) > 1e-9 * float(kernel.abs().sum()):
            raise UserError("kernel must not sum to 0: it would measure no brightness")
        if boundary not in BOUNDARIES:
            raise unknown("boundary", boundary, BOUNDARIES)
        self.kernel, self.boundary = kernel, boundary
        u, s, vh = torch.linalg.svd(kernel)
        root = torch.sqrt(s[0])
        one = len(s) == 1 or bool(s[1] < 1e-12 * s[0])
        self._lines = (root * u[:, 0], root * vh[0]) if one else None
        self._kronecker: dict[Shape, Kronecker] = {}
        self._spectra: dict[Shape, Tensor] = {}

    def __repr__(self) -> str:
        return f"Blur({' × '.join(map(str, self.kernel.shape))}, boundary={self.boundary!r})"

    def measured(self, shape: Shape) -> Shape:
        return image_shape(shape)

    def domain(self, measured: Shape) -> Shape:
        return image_shape(measured)

    def __call__(self, x: Tensor) -> Tensor:
        _, height, width = image_shape(tuple(x.shape[1:]))
        if self.boundary == "circular":
            return filtered(x, self._spectrum(height, width))
        lines = self._along(height, width)
        return self._extended(x) if lines is None else lines.apply(x)

    def adjoint(self, y: Tensor) -> Tensor:
        _, height, width = image_shape(tuple(y.shape[1:]))
        if self.boundary == "circular":
            return filtered(y, self._spectrum(height, width).conj())
        lines = self._along(height, width)
        return super().adjoint(y) if lines is None else lines.transposed(y)

    def svd(self, shape: Shape) -> SVD | None:
        channels, height, width = image_shape(shape)
        if self.boundary != "circular":
            lines = self._along(height, width)
            return None if lines is None else lines.svd(channels)
        spectrum = self._spectrum(height, width)
        size = spectrum.abs()
        size = torch.where(size > 1e-12 * size.max(), size, 0.0)
        phase = torch.where(size > 0, spectrum / torch.where(size > 0, size, 1.0), 1.0)
        values = size.expand(channels, -1, -1).reshape(-1)
        seen = (values > 0).to(torch.float64)
        as_image = lambda c: c.reshape(-1, *shape)
        return SVD(
            values,
            lambda x: hartley(x).flatten(1),
            lambda c: hartley(as_image(c)),
            lambda y: hartley(filtered(y, phase.conj())).flatten(1) * seen.to(y),
            lambda c: filtered(hartley(as_image(c * seen.to(c))), phase),
        )

    def _spectrum(self, height: int, width: int) -> Tensor:
        """κ, complex128 ``(H, W)``, of the kernel wound round the image."""
        if (height, width) not in self._spectra:
            h, w = self.kernel.shape
            rows = (torch.arange(h) - h // 2).remainder(height)
            columns = (torch.arange(w) - w // 2).remainder(width)
            wound = torch.zeros(height * width, dtype=torch.float64)
            wound.index_add_(0, (rows[:, None] * width + columns).reshape(-1), self.kernel.reshape(-1))
            self._spectra[height, width] = torch.fft.fft2(wound.reshape(height, width))
        return self._spectra[height, width]

    def _along(self, height: int, width: int) -> Kronecker | None:
        """The matrices of a kernel that is a product, with the boundary in them."""
        if self._lines is None:
            return None
        if (height, width) not in self._kronecker:
            made = [convolution_matrix(k, n, self.boundary) for k, n in zip(self._lines, (height, width))]
            self._kronecker[height, width] = Kronecker(*made)
        return self._kronecker[height, width]

    def _extended(self, x: Tensor) -> Tensor:
        """Convolution of the image with what lies beyond its edges."""
        for axis, size in ((-2, self.kernel.shape[0]), (-1, self.kernel.shape[1])):
            n = x.shape[axis]
            index, weight = beyond(torch.arange(size // 2 + 1 - size, n + size // 2), n, self.boundary)
            x = x.index_select(axis, index.to(x.device)) * weight.to(x).reshape(-1, *[1] * (-1 - axis))
        flipped = self.kernel.flip(0, 1).to(x)[None, None]
        return conv2d(x.flatten(0, 1)[:, None], flipped)[:, 0].unflatten(0, x.shape[:2])


def filtered(x: Tensor, spectrum: Tensor) -> Tensor:
    """The real images whose discrete Fourier transform is that of x times an even spectrum ``(H, W)``."""
    half = spectrum[:, : x.shape[-1] // 2 + 1].to(device=x.device, dtype=x.dtype.to_complex())
    return torch.fft.irfft2(torch.fft.rfft2(x) * half, s=x.shape[-2:])


def hartley(x: Tensor) -> Tensor:
    r"""The orthonormal Hartley transform of the last two axes, which is its own inverse:

    .. math:: \tfrac{1}{\sqrt{HW}} \sum_n (\cos 2π k·n + \sin 2π k·n)\, x_n
    """
    spectrum = torch.fft.fft2(x, norm="ortho")
    return spectrum.real - spectrum.imag


def convolution_matrix(kernel: Tensor, size: int, boundary: str) -> Tensor:
    """Convolution along an axis as a matrix, float64 ``(size, size)``; the kernel's centre is its ⌊length/2⌋-th."""
    position = torch.arange(size)[:, None] + len(kernel) // 2 - torch.arange(len(kernel))
    index, weight = beyond(position, size, boundary)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, index, weight * kernel)


def gaussian_blur(std: float, boundary: str = "circular") -> Blur:
    """Blur by a Gaussian sampled at the pixels, cut off at four standard deviations, that sums to 1.

    Args:
        std: in pixels, > 0.
        boundary: as of :class:`Blur`.
    """
    check_numbers(std=std)
    if not std > 0:
        raise UserError(f"std must be > 0, got {std}")
    reach = max(1, int(4 * std + 0.5))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / std) ** 2)
    line = line / line.sum()
    return Blur(line[:, None] * line, boundary)


def motion_blur(length: float, angle: float = 0.0, boundary: str = "circular") -> Blur:
    """Blur by a straight motion at constant speed, whose kernel is a line that sums to 1.

    Points of the line are shared out between the four pixels around them (linear interpolation).

    Args:
        length: of the line in pixels, > 0.
        angle: in degrees, counter-clockwise from the horizontal.
        boundary: as of :class:`Blur`.
    """
    check_numbers(length=length, angle=angle)
    if not length > 0:
        raise UserError(f"length must be > 0, got {length}")
    count = 32 * math.ceil(length)
    along = ((torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5) * length
    turn = math.radians(angle)
    reach = math.ceil(length / 2)
    pixel = torch.arange(-reach, reach + 1, dtype=torch.float64)[:, None]
    # Rows of an image run down, angles up. The cosine of a right angle is 6e-17: such weights are none.
    rows = (1 - (pixel + math.sin(turn) * along).abs()).clamp_min(0)
    columns = (1 - (pixel - math.cos(turn) * along).abs()).clamp_min(0)
    kernel = rows @ columns.mT
    kernel = torch.where(kernel > 1e-9 * kernel.max(), kernel, 0.0)
    kernel = kernel / kernel.sum()
    used_rows, used_columns = kernel.any(1), kernel.any(0)  # symmetric about the centre: both stay odd
    return Blur(kernel[used_rows][:, used_columns], boundary)
