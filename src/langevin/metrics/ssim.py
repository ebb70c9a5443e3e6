"""How alike a restored picture and the one that was there are built."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import UserError, check_integer
from .._registry import register


@register(
    "metrics",
    "ssim",
    title="Structural similarity of restored pictures",
    proof="parity: tests/metrics/test_ssim.py",
)
def ssim(samples: Tensor, originals: Tensor, *, low: float = -1.0, high: float = 1.0, window: int = 7) -> Tensor:
    r"""Structural similarity of each picture x and its original y (Wang et al. 2004, eq. 13), between −1 and 1:

    .. math::
        \frac{(2 μ_x μ_y + c_1)(2 σ_{xy} + c_2)}{(μ_x^2 + μ_y^2 + c_1)(σ_x^2 + σ_y^2 + c_2)}, \quad
        c_1 = (0.01\,R)^2, \; c_2 = (0.03\,R)^2

    with unbiased moments over square windows that lie in the picture, and R the range of the data; the mean over
    windows and channels. These are the defaults of scikit-image's ``structural_similarity``.

    Args:
        samples: ``(N, C, H, W)``.
        originals: of the same shape.
        low, high: the range of the data.
        window: its side in pixels, odd, at most that of the pictures.

    Returns:
        float64 ``(N,)``.

    Raises:
        UserError: for shapes that differ or are no pictures, an empty range, a window that does not fit.
    """
    if samples.shape != originals.shape or samples.ndim != 4:
        raise UserError(
            f"samples and originals must be pictures (N, C, H, W) of one shape, got {tuple(samples.shape)} and "
            f"{tuple(originals.shape)}"
        )
    if not -math.inf < low < high < math.inf:
        raise UserError(f"low must be below high, got {low} and {high}")
    check_integer("window", window, 3, min(samples.shape[2:]))
    if window % 2 == 0:
        raise UserError(f"window must be odd, got {window}")
    x, y = (v.detach().cpu().double() for v in (samples, originals))
    local = lambda v: torch.nn.functional.avg_pool2d(v, window, stride=1)
    mean_x, mean_y = local(x), local(y)
    unbiased = window**2 / (window**2 - 1)
    var_x, var_y = (unbiased * (local(v * v) - m * m) for v, m in ((x, mean_x), (y, mean_y)))
    cov = unbiased * (local(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * (high - low)) ** 2, (0.03 * (high - low)) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return (alike / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean((1, 2, 3))
