"""The grid of the Gaussian-remainder solver: evaluations stand where a belief departs from that of a Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ...numerics.frame import GaussianFrame
from ...numerics.quadrature import Array
from ...processes import ScalarGaussian

PURE = 8.0
"""A state is noise alone, and the network is not asked there, where σ/α is this many times the data's largest std."""


@dataclass(frozen=True)
class EvaluationDensity:
    r"""Where along u = log σ/α the flow departs from its Gaussian: a density of evaluations.

    A direction of variance λ is active around :math:`u = \log\sqrt{λ} + x`; above, what the network says beyond the
    Gaussian falls like a power of the data over the noise, below like a power of the noise over the data:

    .. math:: ρ(u)^2 \propto \Big[ \sum_d λ_d \big(e^{a h_d} + e^{-b h_d}\big)^{-2} \Big]^{g},
              \quad h_d = u - \log \sqrt{λ_d} - x

    x and ``head`` depend on the number of directions that matter, :math:`n_e = (\sum λ)^2 / \sum λ^2`, as A + B/n_e:
    in many dimensions a sample decides early to which cluster it belongs, in the plane late.

    Attributes:
        above: a.
        below: b.
        share: g; an order-p method wants about 1/(p + 1).
        shift: (A, B) of x.
        head: (A, B): nodes that would fit above the first one.
        tail: (A, B) for A + B log(n/10): nodes that would fit below the last one.
        weight: W.
        blend: order 4 begins to be used at the first number of evaluations, and alone at the second more.
    """

    above: float
    below: float
    share: float
    shift: tuple[float, float]
    head: tuple[float, float]
    tail: tuple[float, float]
    weight: Weight
    blend: tuple[float, float]


@dataclass(frozen=True)
class Weight:
    """W = σ^fall / S^(κ + rise), so that q = −κ Δ S^rise / σ^fall."""

    fall: float
    rise: float


# The constants were fitted; benchmarks/fit_grid.py states a criterion and worlds, and fits them again.
KNOWN = EvaluationDensity(3.0, 1.66, 0.287, (0.0, -1.06), (1.1, -1.02), (0.955, -0.45), Weight(2, 2.5), (10.0, 8.0))
"""For moments that say along which directions and on which scales the data vary."""

PLANE = EvaluationDensity(
    2.49, 1.92, 0.342, (-0.245, -0.71), (0.91, -0.55), (0.392, 0.015), Weight(2, 3.15), (5.94, 2.81)
)
"""The same for data of one or two coordinates, where few samples stand between clusters until late."""

UNKNOWN = EvaluationDensity(2.27, 1.22, 0.219, (-0.057, 0.0), (1.51, 0.0), (2.5, 0.565), Weight(2, 2.33), (12.0, 16.1))
"""For a spread alone: finer and coarser structure than it must be allowed for."""

CONSTANT = Weight(2, 2)
"""W with noise, and under guidance, where x̂_0 goes to a mean that is not the data's: q is then constant far out."""


class TimeWarp:
    """v(u), the share of the activity below u = log σ/α, and its inverse: equal steps of v cost equal errors.

    A table of Simpson's rule, with the exponential tails of the density beyond its ends; between, a cubic that has
    the density as its slope at the knots.
    """

    def __init__(self, values: Array, density: EvaluationDensity) -> None:
        self.density = density
        weights = values / values.sum()
        self.effective = 1 / float((weights**2).sum())
        level = 0.5 * np.log(np.maximum(values, 1e-8 * values.max()))
        if len(level) > 128:  # nearby directions as one, split between two bins so that it stays smooth
            place = (level - level.min()) / max(float(np.ptp(level)), 1e-9) * 95
            low = np.minimum(place.astype(int), 94)
            mass = np.bincount(low, weights * (1 - place + low), 96) + np.bincount(low + 1, weights * (place - low), 96)
            level, weights = np.linspace(level.min(), level.max(), 96), mass
        level = level + density.shift[0] + density.shift[1] / self.effective
        a, b, g = density.above, density.below, density.share
        self.start, self.step = float(level.min()) - 12 / (b * g), 0.02
        count = math.ceil((float(level.max()) + 12 / (a * g) - self.start) / self.step)
        at = self.start + self.step / 2 * np.arange(2 * count + 1)
        log = np.full_like(at, -np.inf)
        for centre, weight in zip(level, weights):
            if weight > 0:
                h = at - centre
                log = np.logaddexp(log, math.log(weight) - 2 * np.logaddexp(a * h, -b * h))
        rho = np.exp(g / 2 * (log - log.max()))
        parts = self.step / 6 * (rho[:-1:2] + 4 * rho[1::2] + rho[2::2])
        below, above = float(rho[0]) / (b * g), float(rho[-1]) / (a * g)
        total = below + float(parts.sum()) + above
        self.knots = (below + np.concatenate(([0.0], np.cumsum(parts)))) / total
        self.slopes = rho[::2] * (self.step / total)
        self.end = self.start + self.step * count

    def __call__(self, u: Array) -> Array:
        """v at u, which may be ±∞."""
        u = np.asarray(u, dtype=np.float64)
        a, b, g = self.density.above, self.density.below, self.density.share
        place = (np.clip(u, self.start, self.end) - self.start) / self.step
        i = np.minimum(place.astype(int), len(self.knots) - 2)
        f = place - i
        v0, v1, s0, s1 = self.knots[i], self.knots[i + 1], self.slopes[i], self.slopes[i + 1]
        rise = v1 - v0
        inside = v0 + f * (s0 + f * (3 * rise - 2 * s0 - s1 + f * (s0 + s1 - 2 * rise)))
        low = self.knots[0] * np.exp(b * g * np.minimum(u - self.start, 0.0))
        high = 1 - (1 - self.knots[-1]) * np.exp(-a * g * np.maximum(u - self.end, 0.0))
        return np.where(u < self.start, low, np.where(u > self.end, high, inside))

    def inverse(self, v: Array) -> Array:
        """u of v within the table, by Newton's method from a straight line between knots."""
        v = np.asarray(v, dtype=np.float64)
        u = np.interp(v, self.knots, self.start + self.step * np.arange(len(self.knots)))
        for _ in range(4):
            slope = (self(u + 1e-6) - self(u - 1e-6)) / 2e-6
            u = u - (self(u) - v) / np.maximum(slope, 1e-300)
        return u

    def evaluations(self, gap: float) -> float:
        """The number of evaluations n of which a grid has nodes this far apart in v."""
        return 1 / max(gap, 1e-9) - self.head - self.tail(10)

    @property
    def head(self) -> float:
        return self.density.head[0] + self.density.head[1] / self.effective

    def tail(self, n: int) -> float:
        return max(0.2, self.density.tail[0] + self.density.tail[1] * math.log(n / 10))


@lru_cache(maxsize=64)
def time_warp(frame: GaussianFrame) -> TimeWarp:
    """The time warp of this frame."""
    known = PLANE if len(frame.array) <= 2 else KNOWN
    return TimeWarp(frame.array, known if frame.spectral else UNKNOWN)


def remainder_times(process: ScalarGaussian, steps: int, frame: GaussianFrame, prefix: bool = True) -> Tensor:
    """Times with ``steps`` evaluations, at equal steps of the time warp of this frame; then 0.

    Args:
        process: gives σ/α and its range.
        steps: evaluations, ≥ 1.
        frame: mean and covariance of the data.
        prefix: begin at ``t_max`` with a step that asks nothing, if the states there are noise alone: ``steps + 2``
            times. Otherwise, and for processes that end before, the first evaluation is at ``t_max``: ``steps + 1``.

    Returns:
        float64, decreasing to 0.
    """
    try:
        return _times(process, steps, frame, prefix).clone()
    except TypeError:  # a process that cannot be hashed
        return _times.__wrapped__(process, steps, frame, prefix)


@lru_cache(maxsize=64)
def _times(process: ScalarGaussian, steps: int, frame: GaussianFrame, prefix: bool) -> Tensor:
    v = time_warp(frame)
    ends = np.asarray(-0.5 * process.log_snr(torch.tensor([process.t_max, process.t_min], dtype=torch.float64)))
    top, bottom = v(ends)
    whole = prefix and ends[0] > math.log(PURE * frame.largest)
    tail = v.tail(steps)
    count = steps + v.head + tail
    high = min((steps + tail) / count, float(v(np.array(ends[0] - 0.02)))) if whole else float(top)
    low = max((1 + tail) / count, float(bottom))
    inner = v.inverse(np.linspace(high, low, steps))
    times = process.time(torch.as_tensor(-2 * inner))
    if not whole:
        times[0] = process.t_max
    if low == bottom and steps > 1:
        times[-1] = process.t_min
    times = torch.cat((times, times.new_zeros(1)))
    return torch.cat((times.new_full((1,), process.t_max), times)) if whole else times
