"""Noise levels in geometric sequence, and NCSNv2's rules that choose them for data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from .._errors import UserError, check_integer
from .base import Process, require
from .gaussian import ScalarGaussian
from .schedules import VE

WIDEST = 100.0 ** (1 / 9)
"""The ratio of NCSN's ten levels from 1 to 0.01, and the largest one given by ``level_ratio``."""


def level_ratio(dim: int, overlap: float = 0.5) -> float:
    r"""γ = σ_{i−1}/σ_i so that neighbouring levels overlap (arXiv:2006.09011, technique 2, eq. 4):

    .. math:: Φ\big(\sqrt{2D}(γ - 1) + 3γ\big) - Φ\big(\sqrt{2D}(γ - 1) - 3γ\big) = \mathrm{overlap}

    Around a datum, level i lies on a shell of radius √D σ_i and thickness σ_i/√2; this is its share within three
    thicknesses of the next larger one. Below nine coordinates shells are so thick that the rule asks for next to
    nothing: the ratio is at most that of NCSN's ten levels, 100^{1/9} = 1.67.

    Args:
        dim: D ≥ 1, coordinates of an event.
        overlap: in (0, 1).
    """
    if not dim >= 1 or not 0 < overlap < 1:
        raise UserError(f"dim must be at least 1 and overlap in (0, 1), got {dim} and {overlap}")
    normal, root = NormalDist().cdf, math.sqrt(2 * dim)
    low, high = 1.0, WIDEST
    for _ in range(60):
        middle = (low + high) / 2
        share = normal(root * (middle - 1) + 3 * middle) - normal(root * (middle - 1) - 3 * middle)
        low, high = (middle, high) if share > overlap else (low, middle)
    return high


def largest_distance(x: Tensor, *, block: int = 1024, progress: Callable[[int, int], None] | None = None) -> float:
    r"""The largest Euclidean distance between two events (2006.09011, technique 1: what σ_1 should be).

    Exact, in blocks: a pair is at most as far apart as its distances to the mean together, so that with events sorted
    by theirs most pairs need no look.

    Args:
        x: ``(N, *shape)``, N ≥ 2, finite.
        block: events compared at a time.
        progress: called as ``progress(done, total)`` in events.
    """
    if x.ndim < 2 or len(x) < 2 or not x.isfinite().all():
        raise UserError(f"x must be at least two events (N, *shape), all finite, got shape {tuple(x.shape)}")
    points = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    radius = (points - points.mean(0)).norm(dim=1)
    order = radius.argsort(descending=True)
    points, radius = points[order], radius[order] * (1 + 1e-5)  # the bound must hold after rounding
    best = 0.0
    for first in range(0, len(points), block):
        if 2 * float(radius[first]) <= best:
            break
        mine = slice(first, first + block)
        for other in range(first, len(points), block):
            if float(radius[first] + radius[other]) <= best:
                break
            best = max(best, float(torch.cdist(points[mine], points[other : other + block]).max()))
        if progress is not None:
            progress(min(first + block, len(points)), len(points))
    if progress is not None:
        progress(len(points), len(points))
    return best


@dataclass(frozen=True)
class NoiseLevels:
    r"""L noise levels in geometric sequence, :math:`σ_i = first\,(last/first)^{(i-1)/(L-1)}` (arXiv:1907.05600 §4.1).

    Args:
        first: σ_1, the largest, > last; in units of the data, as σ/α.
        last: σ_L > 0.
        count: L ≥ 1; with L = 1 ``first`` alone.
    """

    first: float = 1.0
    last: float = 0.01
    count: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.last < self.first < math.inf:
            raise UserError(f"first, last must satisfy 0 < last < first, got {self.first}, {self.last}")
        check_integer("count", self.count, 1)

    @classmethod
    def of(
        cls, x: Tensor, last: float, overlap: float = 0.5, progress: Callable[[int, int], None] | None = None
    ) -> NoiseLevels:
        """The levels NCSNv2 chooses for data ``(N, *shape)``: σ_1 the largest distance, γ by ``level_ratio``.

        L is the least number of levels with a ratio of at most γ.

        Args:
            x: the data.
            last: σ_L; 0.01 for images in [0, 1], which is 0.02 in [−1, 1].
            overlap: see ``level_ratio``.
            progress: see ``largest_distance``.
        """
        first = largest_distance(x, progress=progress)
        if not 0 < last < first:
            raise UserError(f"last must be > 0 and below the largest distance of the data, {first:g}, got {last}")
        ratio = level_ratio(math.prod(x.shape[1:]), overlap)
        return cls(first, last, 1 + math.ceil(math.log(first / last) / math.log(ratio)))

    @property
    def ratio(self) -> float:
        """γ = σ_{i−1}/σ_i."""
        return float((self.first / self.last) ** (1 / max(1, self.count - 1)))

    @property
    def sigmas(self) -> Tensor:
        """σ_1 > … > σ_L, float64 ``(L,)``."""
        share = torch.arange(self.count, dtype=torch.float64) / max(1, self.count - 1)
        return self.first * (self.last / self.first) ** share

    def times(self, process: Process) -> Tensor:
        """The times at which σ/α is that of the levels, ``(L,)``, decreasing."""
        gaussian: ScalarGaussian = require(process, ScalarGaussian, "noise levels")
        times = gaussian.time(-2 * torch.log(self.sigmas))
        # A ten-thousandth: VE ends just below its σ_max, and so may the first level.
        reached = torch.exp(-gaussian.log_snr(times) / 2) / self.sigmas
        if not ((reached - 1).abs() < 1e-4).all():
            ends = [float(torch.exp(-gaussian.log_snr(t) / 2)) for t in (gaussian.t_min, 1.0)]
            raise UserError(
                f"levels from {self.first:g} to {self.last:g} must lie within the noise of {process}, whose "
                f"sigma/alpha goes from {ends[0]:g} to {ends[1]:g}"
            )
        return times

    def process(self) -> VE:
        """The process that reaches from σ_L to γσ_1.

        One ratio above the first level, so that a chain comes to each level, the first too, from a draw of the level
        before it: what the rule for the step assumes.
        """
        return VE(self.last, self.first * self.ratio)
