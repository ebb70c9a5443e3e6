"""What guidance changes in the Gaussian-remainder solver: the order, the width of the frame, steps that are taken once.

docs/remainder.md says why, and benchmarks/guided.py compares.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from ...numerics.frame import GaussianFrame

ORDERS = ((1.0, 4), (2.0, 3), (math.inf, 2))
"""The order of the interpolation up to so much guidance."""

STIFF = 2.0
"""Beyond this guidance scale steps far above the data are not integrated again."""

LEVEL = 2.0
"""Those that begin above this many times the data's spread."""


def order_under(guidance_scale: float) -> int:
    """The order of the interpolation under guidance, 2 beyond a scale of 2 (arXiv:2211.01095 §5).

    What is interpolated varies faster under guidance, and a polynomial of high order through points that are too far
    apart swings between them.
    """
    return next(order for most, order in ORDERS if guidance_scale <= most + 1e-9)


def widening(guidance_scale: float) -> float:
    """How many times as wide the frame of guided states is as that of the data, √w.

    At much noise a guided belief is m + w (m_k − m), where that of the data is m, and spreads w times as far as the
    means of the conditions do; at little noise it is on the data's own scale.
    """
    return math.sqrt(guidance_scale)


def widen(frame: GaussianFrame, factor: float) -> GaussianFrame:
    """The frame with standard deviations ``factor`` times as large."""
    return frame if factor == 1 else replace(frame, variances=factor**2 * frame.variances)


@lru_cache(maxsize=64)
def guided_frame(frame: GaussianFrame, guidance_scale: float) -> GaussianFrame:
    """The frame of guided states; the same object each time, since grids are kept by frames."""
    return widen(frame, widening(guidance_scale))


def corrected_below(wide: GaussianFrame, guidance_scale: float) -> float:
    """σ/α above which steps are taken once: errors die out there under strong guidance before they are corrected."""
    return LEVEL * wide.std / widening(guidance_scale) if guidance_scale > STIFF else math.inf
