"""A monotone curve through values at equal distances, and its inverse."""

from __future__ import annotations

import torch
from torch import Tensor


class MonotoneCubic:
    """y on [0, N] with y(0) = ``start`` and y(n) − y(n − 1) = ``rise[n − 1]``, by cubics (Fritsch & Carlson 1980).

    Slopes at inner knots are harmonic means of the two rises beside them, so y is monotone and has a derivative.

    Args:
        start: y(0).
        rise: float64 ``(N,)``, all of one sign.
    """

    def __init__(self, start: float, rise: Tensor) -> None:
        slopes = torch.cat((rise[:1], 2 / (1 / rise[1:] + 1 / rise[:-1]), rise[-1:]))
        before = start + torch.cat((torch.zeros_like(rise[:1]), torch.cumsum(rise, 0)[:-1]))
        first, last = slopes[:-1], slopes[1:]
        self.sign = float(torch.sign(rise[0]))
        self.coefficients = torch.stack((before, first, 3 * rise - 2 * first - last, first + last - 2 * rise), -1)

    def __call__(self, x: Tensor) -> Tensor:
        """y(x) of x in [0, N]."""
        left = x.floor().long().clamp(0, len(self.coefficients) - 1)
        c, u = self.coefficients.to(x.device)[left], x - left
        return c[..., 0] + u * (c[..., 1] + u * (c[..., 2] + u * c[..., 3]))

    def inverse(self, y: Tensor) -> Tensor:
        """x of y; 0 or N outside the range."""
        cubics = self.coefficients.to(y.device)
        knots = self.sign * cubics[:, 0].contiguous()
        left = torch.searchsorted(knots, (self.sign * y).contiguous(), right=True).sub(1).clamp(0, len(cubics) - 1)
        c0, c1, c2, c3 = cubics[left].unbind(-1)
        u = ((y - c0) / (c1 + c2 + c3)).clamp(0, 1)
        # Newton: 6 steps where the curve is nearly straight; a few more where a slope all but vanishes.
        for _ in range(30):
            miss = c0 + u * (c1 + u * (c2 + u * c3)) - y
            moved = (u - miss / (c1 + u * (2 * c2 + 3 * u * c3))).clamp(0, 1)
            done = bool(((moved - u).abs() <= 1e-16).all())
            u = moved
            if done:
                break
        return left + u
