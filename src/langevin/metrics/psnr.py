"""How near a restored picture is to the one that was there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register


@register(
    "metrics",
    "psnr",
    title="Peak signal-to-noise ratio of restored pictures",
    proof="exact: tests/metrics/test_psnr.py",
)
def psnr(samples: Tensor, originals: Tensor, *, low: float = -1.0, high: float = 1.0) -> Tensor:
    r""":math:`10 \log_{10} \frac{(high - low)^2}{|x - y|^2/D}` of each sample x and its original y, in dB.

    Args:
        samples: ``(N, *shape)``.
        originals: of the same shape, the example each sample was made for.
        low, high: the range of the data.

    Returns:
        float64 ``(N,)``; infinite where the two are equal.

    Raises:
        UserError: for shapes that differ, or an empty range.
    """
    if samples.shape != originals.shape or samples.ndim < 2:
        raise UserError(f"originals must have the shape of samples, {tuple(samples.shape)}; got {originals.shape}")
    if not -math.inf < low < high < math.inf:
        raise UserError(f"low must be below high, got {low} and {high}")
    error = (samples.double() - originals.double()).square().flatten(1).mean(1)
    return 10 * torch.log10((high - low) ** 2 / error)
