"""What operators on images share: their shapes, and what lies beyond their edges."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, shown, unknown

BOUNDARIES = ("circular", "reflect", "zero")
"""What lies beyond the edge of an image: its other side, its mirror image about the edge, or nothing."""


def image_shape(shape: tuple[int, ...], channels: int | None = None) -> tuple[int, int, int]:
    """(C, H, W) of data that must be images.

    Args:
        shape: the event shape of the data.
        channels: how many they must have; any number if not given.

    Raises:
        UserError: for data of another shape.
    """
    if len(shape) != 3 or min(shape) < 1 or (channels is not None and shape[0] != channels):
        accepted = f"({channels or 'channels'}, height, width)"
        raise UserError(f"x must be images of shape {accepted}, got data of shape {tuple(shape)}")
    return shape[0], shape[1], shape[2]


def height_and_width(shape: tuple[int, ...]) -> tuple[int, int]:
    """(H, W), the last two axes of a shape that is given as an argument of that name.

    Raises:
        UserError: for anything else than two or more positive integers.
    """
    whole = isinstance(shape, (tuple, list)) and len(shape) >= 2
    if not whole or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape):
        raise UserError(f"shape must be (height, width) or (channels, height, width), got {shown(shape)}")
    return shape[-2], shape[-1]


def share(name: str, value: float) -> float:
    """A number strictly between 0 and 1.

    Raises:
        UserError: with the argument and what came.
    """
    check_numbers(**{name: value})
    if not 0 < value < 1:
        raise UserError(f"{name} must be between 0 and 1, got {value}")
    return float(value)


def beyond(index: Tensor, size: int, boundary: str) -> tuple[Tensor, Tensor]:
    """Where positions beyond the edge of an axis take their values: the position inside, and the weight 1 or 0.

    The mirror of ``reflect`` stands on the edge of the outermost pixel (d c b a | a b c d | d c b a), as in
    scipy.ndimage and in MATLAB's imresize.
    """
    if boundary not in BOUNDARIES:
        raise unknown("boundary", boundary, BOUNDARIES)
    inside = (index >= 0) & (index < size)
    if boundary == "zero":
        return index.clamp(0, size - 1), inside.to(torch.float64)
    if boundary == "reflect":
        index = index.remainder(2 * size)
        return torch.minimum(index, 2 * size - 1 - index), torch.ones_like(index, dtype=torch.float64)
    return index.remainder(size), torch.ones_like(index, dtype=torch.float64)
