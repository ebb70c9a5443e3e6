"""Linear maps of an event, put before noise and score: the preconditioners of Langevin chains and reverse SDEs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError


class Filter(ABC):
    """A linear map M of an event: ``filter(x)`` is M x, ``filter.square(x)`` is M Mᵀ x."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """M x of each event, ``(B, *event)``."""

    @abstractmethod
    def square(self, x: Tensor) -> Tensor:
        """M Mᵀ x of each event, ``(B, *event)``."""


@dataclass(frozen=True)
class Whole(Filter):
    """M = 1."""

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def square(self, x: Tensor) -> Tensor:
        return x


WHOLE = Whole()


@dataclass(frozen=True, eq=False)
class Matrix(Filter):
    """M as a matrix over the flattened event.

    Args:
        matrix: ``(D, D)``.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise UserError(f"matrix must be (D, D), got {tuple(self.matrix.shape)}")

    def _apply(self, matrix: Tensor, x: Tensor) -> Tensor:
        if x[0].numel() != matrix.shape[0]:
            raise UserError(f"matrix must be ({x[0].numel()}, {x[0].numel()}) for events {tuple(x.shape[1:])}")
        return (x.flatten(1) @ matrix.to(x).mT).reshape(x.shape)

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(self.matrix, x)

    def square(self, x: Tensor) -> Tensor:
        return self._apply(self.matrix @ self.matrix.mT, x)


@dataclass(frozen=True, eq=False)
class Frequency(Filter):
    r"""M = F⁻¹ diag(R) F: a gain for each frequency of the last two axes (arXiv:2207.02196 §3).

    Args:
        gain: R ≥ 0 on the grid of ``torch.fft.fft2``, ``(H, W)`` or ``(C, H, W)``, equal at ±frequency.
    """

    gain: Tensor

    def __post_init__(self) -> None:
        gain = self.gain
        if gain.ndim not in (2, 3) or not (gain >= 0).all() or not gain.isfinite().all():
            raise UserError(f"gain must be finite numbers >= 0, (H, W) or (C, H, W), got shape {tuple(gain.shape)}")
        if not torch.allclose(gain, gain.flip((-2, -1)).roll((1, 1), (-2, -1))):
            raise UserError("gain must be equal at opposite frequencies, or filtered images are not real")

    @classmethod
    def radial(cls, height: int, width: int, low: float = 1.0, high: float = 1.0, radius: float = 0.25) -> Frequency:
        """A gain ``low`` up to ``radius`` and ``high`` beyond, in cycles a pixel; the paper raises the low ones."""
        fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
        inside = fy[:, None] ** 2 + fx**2 <= radius**2
        return cls(torch.where(inside, torch.tensor(low, dtype=torch.float64), high))

    @classmethod
    def of(cls, images: Tensor) -> Frequency:
        """The gain of a set's own amplitudes, root mean square 1: noise with the spectrum of the data.

        Args:
            images: ``(N, C, H, W)``.
        """
        if images.ndim != 4 or images.shape[0] < 1:
            raise UserError(f"images must be (N, C, H, W), got shape {tuple(images.shape)}")
        power = torch.fft.fft2(images.to(torch.float64), norm="ortho").abs().square().mean(0)
        power = (power + power.flip((-2, -1)).roll((1, 1), (-2, -1))) / 2
        return cls(torch.sqrt(power / power.mean((-2, -1), keepdim=True)))

    def _apply(self, gain: Tensor, x: Tensor) -> Tensor:
        if x.shape[-gain.ndim :] != gain.shape:
            raise UserError(f"gain must have the shape of the images {tuple(x.shape[1:])}, got {tuple(gain.shape)}")
        half = gain[..., : x.shape[-1] // 2 + 1].to(x)
        return torch.fft.irfft2(torch.fft.rfft2(x) * half, s=x.shape[-2:])

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(self.gain, x)

    def square(self, x: Tensor) -> Tensor:
        return self._apply(self.gain**2, x)
