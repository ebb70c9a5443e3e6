"""Measurements that are not linear: any function, the amplitudes of a Fourier transform, saturation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._errors import UserError, check_numbers, shown
from .._registry import register
from .base import Operator, Shape
from .images import image_shape


@register(
    "operators", "nonlinear", title="Any differentiable function", proof="exact: tests/operators/test_nonlinear.py"
)
class Nonlinear(Operator):
    """y = f(x) for a function of batches.

    Args:
        function: ``(B, *shape) -> (B, *measured)``, differentiable where it is to guide.
        measured: the event shape of a measurement, or a function of that of the data; that of the data if not given.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], measured: Shape | Callable[[Shape], Shape] | None = None
    ) -> None:
        if not callable(function):
            raise UserError(f"function must take data (B, *shape), got {shown(function)}")
        self.function = function
        self._measured = tuple(measured) if isinstance(measured, (tuple, list)) else measured

    def __repr__(self) -> str:
        return f"Nonlinear({getattr(self.function, '__name__', type(self.function).__name__)})"

    def measured(self, shape: Shape) -> Shape:
        if self._measured is None:
            return tuple(shape)
        return tuple(self._measured(tuple(shape))) if callable(self._measured) else self._measured

    def __call__(self, x: Tensor) -> Tensor:
        y = self.function(x)
        wanted = (len(x), *self.measured(tuple(x.shape[1:])))
        if not isinstance(y, Tensor) or tuple(y.shape) != wanted:
            raise UserError(f"function must return measurements of shape {wanted}, got {shown(y)}")
        return y


@register(
    "operators",
    "phase",
    title="Phase retrieval",
    arxiv="2209.14687",
    proof="exact: tests/operators/test_nonlinear.py",
)
class Phase(Operator):
    """y = ‖F x‖ entry by entry: amplitudes of the orthonormal Fourier transform of images ``(C, H, W)``, padded with 0.

    x, −x and x turned by 180° have the same amplitudes, so posteriors have several modes.

    Args:
        oversampling: the height and the width of the padded image over those of the image, ≥ 1.
    """

    def __init__(self, oversampling: float = 2.0) -> None:
        check_numbers(oversampling=oversampling)
        if not oversampling >= 1:
            raise UserError(f"oversampling must be >= 1, got {oversampling}")
        self.oversampling = float(oversampling)

    def __repr__(self) -> str:
        return f"Phase(oversampling={self.oversampling:g})"

    def measured(self, shape: Shape) -> Shape:
        channels, height, width = image_shape(shape)
        return channels, round(height * self.oversampling), round(width * self.oversampling)

    def __call__(self, x: Tensor) -> Tensor:
        _, height, width = self.measured(tuple(x.shape[1:]))
        padded = pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))
        return torch.fft.fft2(padded, norm="ortho").abs()


@register(
    "operators",
    "saturate",
    title="Saturation: high dynamic range",
    arxiv="2209.14687",
    proof="exact: tests/operators/test_nonlinear.py",
)
class Saturate(Operator):
    """y = gain·x, cut off at −1 and 1, of data of any shape.

    Args:
        gain: > 0; above 1 part of the range is lost.
    """

    def __init__(self, gain: float = 2.0) -> None:
        check_numbers(gain=gain)
        if not gain > 0:
            raise UserError(f"gain must be > 0, got {gain}")
        self.gain = float(gain)

    def __repr__(self) -> str:
        return f"Saturate({self.gain:g})"

    def measured(self, shape: Shape) -> Shape:
        return tuple(shape)

    def __call__(self, x: Tensor) -> Tensor:
        return (self.gain * x).clamp(-1, 1)
