"""What a magnetic-resonance scanner measures: some lines of the Fourier transform, through one or several coils."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import UserError, check_integer, check_numbers, shown, unknown
from .._registry import register
from ..distributions import Noise, Stream
from .base import SVD, LinearOperator, Shape
from .blur import hartley
from .images import height_and_width, image_shape, share


@register(
    "operators",
    "fourier",
    title="Masked Fourier transform: MRI, one or several coils",
    arxiv="1811.08839",
    proof="exact: tests/operators/test_operators.py, tests/operators/test_fourier.py",
)
class Fourier(LinearOperator):
    r""":math:`y_j = M F (c_j x)` with the orthonormal two-dimensional Fourier transform F and a coil's sensitivity c_j.

    The lowest frequency stands in the middle of the mask and of y, at (⌊H/2⌋, ⌊W/2⌋). Without coils the singular
    values are known: of complex images they are the mask itself; of real ones, whose transform is even, the values at
    k and −k are measured together, :math:`s_k^2 = ½ (m_k + m_{-k})` along the Hartley transform. With coils,
    equations are solved by conjugate gradients.

    Args:
        mask: 0 and 1, ``(W,)`` for whole lines (:func:`cartesian_mask`) or ``(H, W)``.
        coils: sensitivities, complex ``(n, H, W)`` (:func:`coil_maps`); one coil that is 1 everywhere if not given.
        channels: 1 for real images ``(1, H, W)``, 2 for complex ones ``(2, H, W)``, the real and the imaginary part.

    Measurements are ``(coils, H, W, 2)``, real and imaginary part, 0 where nothing is measured.
    """

    def __init__(self, mask: Tensor, coils: Tensor | None = None, channels: int = 1) -> None:
        if not isinstance(mask, Tensor) or mask.ndim not in (1, 2) or mask.is_complex():
            raise UserError(f"mask must be a tensor of 0 and 1, (W,) or (H, W), got {shown(mask)}")
        numbers = mask.to(torch.float64)
        if not bool(((numbers == 0) | (numbers == 1)).all()):
            raise UserError("mask must hold 0 and 1 alone (1 where a frequency is measured)")
        if not bool(numbers.any()):
            raise UserError("mask must let some frequency through, got one that is 0 everywhere")
        if coils is not None:
            if not isinstance(coils, Tensor) or not coils.is_complex() or coils.ndim != 3 or not len(coils):
                raise UserError(f"coils must be complex sensitivities (n, H, W), got {shown(coils)}")
            if not bool(coils.isfinite().all()) or not bool((coils != 0).any()):
                raise UserError("coils must be finite and not 0 everywhere: they would measure nothing")
            wanted = tuple(coils.shape[1:])[-mask.ndim :]
            if tuple(mask.shape) != wanted:
                raise UserError(f"mask must have the size of the coils, {wanted}, got {tuple(mask.shape)}")
        self.mask, self.channels = numbers, check_integer("channels", channels, 1, 2)
        self.coils = None if coils is None else coils.to(torch.complex128)

    def __repr__(self) -> str:
        coils = "" if self.coils is None else f", {len(self.coils)} coils"
        return f"Fourier({float(self.mask.mean()):.0%} of frequencies{coils}, channels={self.channels})"

    def _fits(self, height: int, width: int) -> None:
        size = (height, width)
        wanted = size[-self.mask.ndim :]
        if tuple(self.mask.shape) != wanted:
            raise UserError(f"mask must have the size of the images, {wanted}, got {tuple(self.mask.shape)}")
        if self.coils is not None and tuple(self.coils.shape[1:]) != size:
            raise UserError(f"coils must have the size of the images, {size}, got {tuple(self.coils.shape[1:])}")

    def measured(self, shape: Shape) -> Shape:
        _, height, width = image_shape(shape, self.channels)
        self._fits(height, width)
        return 1 if self.coils is None else len(self.coils), height, width, 2

    def domain(self, measured: Shape) -> Shape:
        coils = 1 if self.coils is None else len(self.coils)
        if len(measured) != 4 or measured[0] != coils or measured[3] != 2:
            raise UserError(f"y must be of shape ({coils}, height, width, 2), got {tuple(measured)}")
        self._fits(measured[1], measured[2])
        return self.channels, measured[1], measured[2]

    def __call__(self, x: Tensor) -> Tensor:
        self.measured(tuple(x.shape[1:]))
        image = torch.complex(x[:, 0], x[:, 1] if self.channels == 2 else torch.zeros_like(x[:, 0]))[:, None]
        seen = image if self.coils is None else image * self.coils.to(image)
        return torch.view_as_real(transform(seen)) * self.mask.to(x)[..., None]

    def adjoint(self, y: Tensor) -> Tensor:
        self.domain(tuple(y.shape[1:]))
        back = transform(torch.view_as_complex((y * self.mask.to(y)[..., None]).contiguous()), inverse=True)
        image = back[:, 0] if self.coils is None else (back * self.coils.conj().to(back)).sum(1)
        return torch.stack((image.real, image.imag)[: self.channels], 1)

    def svd(self, shape: Shape) -> SVD | None:
        _, height, width, _ = self.measured(shape)
        if self.coils is not None:
            return None
        mask = self.mask.expand(height, width)
        if self.channels == 2:
            return self._complex_svd(mask)
        index = torch.fft.ifftshift(mask)
        mirrored = index.flip(0, 1).roll((1, 1), (0, 1))  # at −k
        values = torch.sqrt((index + mirrored) / 2).reshape(-1)
        inverse = torch.where(values > 0, 1 / torch.where(values > 0, values, 1.0), 0.0)
        as_image = lambda c: c.reshape(-1, *shape)
        return SVD(
            values,
            lambda x: hartley(x).flatten(1),
            lambda c: hartley(as_image(c)),
            lambda y: hartley(self.adjoint(y)).flatten(1) * inverse.to(y),
            lambda c: self(hartley(as_image(c * inverse.to(c)))),
        )

    def _complex_svd(self, mask: Tensor) -> SVD:
        height, width = mask.shape
        values = mask[..., None].expand(height, width, 2).reshape(-1)

        def back(c: Tensor) -> Tensor:
            image = transform(torch.view_as_complex(c.reshape(-1, height, width, 2)), inverse=True)
            return torch.stack((image.real, image.imag), 1)

        return SVD(
            values,
            lambda x: torch.view_as_real(transform(torch.complex(x[:, 0], x[:, 1]))).flatten(1),
            back,
            lambda y: y.flatten(1) * values.to(y),
            lambda c: (c * values.to(c)).reshape(-1, 1, height, width, 2),
        )


def transform(x: Tensor, inverse: bool = False) -> Tensor:
    """The orthonormal Fourier transform of the last two axes of complex images, with the origins in the middle."""
    axes = (-2, -1)
    move = torch.fft.ifft2 if inverse else torch.fft.fft2
    return torch.fft.fftshift(move(torch.fft.ifftshift(x, dim=axes), norm="ortho"), dim=axes)


KINDS = ("random", "equispaced")
"""How the lines outside the middle are chosen."""


def cartesian_mask(
    width: int, acceleration: float, centre: float | None = None, kind: str = "random", seed: int = 0
) -> Tensor:
    """A mask of whole lines for :class:`Fourier`, bool ``(W,)``: width/acceleration of them, the middle among them.

    Args:
        width: of the images.
        acceleration: ≥ 1; the number of lines over that of measured lines.
        centre: the share of all lines that the fully measured middle takes; 0.32/acceleration if not given, which is
            8 % at 4-fold and 4 % at 8-fold acceleration (arXiv:1811.08839 §4.1).
        kind: the others are ``random`` or ``equispaced``.
        seed: which.
    """
    check_integer("width", width, 1)
    check_numbers(acceleration=acceleration)
    if not acceleration >= 1:
        raise UserError(f"acceleration must be >= 1, got {acceleration}")
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    lines = max(1, round(width / acceleration))
    middle = round(width * (0.32 / acceleration if centre is None else share("centre", centre)))
    if middle > lines:
        raise UserError(f"centre must leave room: {middle} of {lines} lines, got {centre}")
    low = width // 2 - middle // 2
    mask = torch.zeros(width, dtype=torch.bool)
    mask[low : low + middle] = True
    others = torch.nonzero(~mask)[:, 0]
    uniform = Noise(seed, 1).fold_in(Stream.MASK).uniform((width,))[0]
    count = lines - middle
    if kind == "random":
        chosen = uniform[: len(others)].argsort()[:count]
    else:
        chosen = ((torch.arange(count) + uniform[0]) * len(others) / max(1, count)).to(torch.int64)
    mask[others[chosen]] = True
    return mask


def coil_maps(coils: int, shape: Shape) -> Tensor:
    r"""Sensitivities of wires on a circle around the image, complex128 ``(n, H, W)``.

    The field of a straight wire at :math:`z_j = 1.5\, e^{2πij/n}` in the plane, with the image between −1 and 1,
    normalised so that the squares of all coils sum to 1:

    .. math::
        c_j(z) = \frac{e^{2πij/n}}{z_j - z} \Big/ \Big(\sum_i \tfrac{1}{|z_i - z|^2}\Big)^{1/2}

    Args:
        coils: n ≥ 1.
        shape: of the images, ``(H, W)`` or ``(C, H, W)``.
    """
    check_integer("coils", coils, 1)
    height, width = height_and_width(shape)
    y, x = (((torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1) for n in (height, width))
    z = torch.complex(x.expand(height, width), y[:, None].expand(height, width))
    angle = 2 * math.pi * torch.arange(coils, dtype=torch.float64)[:, None, None] / coils
    turn = torch.polar(torch.ones_like(angle), angle)
    field = turn / (1.5 * turn - z)
    return field / field.abs().square().sum(0).sqrt()
